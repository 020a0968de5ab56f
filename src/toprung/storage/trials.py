"""A trial's files on object storage: sent from the process that trains, fetched by the one that goes on.

After each epoch the files that are whole now are opened, and a thread sends them: training does not wait, and an
upload that takes longer than an epoch still sends one epoch's set. `saved.json` goes last and says what is there: the
epoch, every report so far, and the files' sizes. Where ASHA decides (at a rung) the trial waits until its files are
there, so a decision is made on what a lost machine does not take along. `previous.pth` stays at home: an object is
replaced whole, so there is no torn one to go back from.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import platformdirs

from toprung.directory import (
    ABOUT_FILE,
    CONFIG_FILE,
    FAILURE_FILE,
    LAST_FILE,
    PREVIOUS_FILE,
    WEIGHTS_FILE,
    SweepDirectory,
    write_json,
)
from toprung.storage.objects import ObjectStorage, StorageAway, open_storage

logger = logging.getLogger(__name__)

SAVED_FILE = "saved.json"  # what the trial's files are: put last, so it never speaks of what is not there
DELIVERED_FILE = ".delivered.json"  # which of the files here the storage has
SENT = (CONFIG_FILE, LAST_FILE, WEIGHTS_FILE, ABOUT_FILE, FAILURE_FILE)
WAIT_AT_RUNG_SECONDS = 30.0
WAIT_FOR_CHECKPOINT_SECONDS = 60.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 10.0
AWAY_AFTER = 3  # failures in a row
MOST_WAITING = 32  # trials of one process; beyond, the oldest is left to the driver

Stamp = list[int]  # of a file: inode, size, time of change


@dataclass(frozen=True)
class Kept:
    """Where a sweep is kept: what a trial's process needs to know."""

    uri: str
    sweep_id: str
    rungs: tuple[int, ...]
    past: frozenset[str] = frozenset()  # trials that an earlier driver began


@dataclass
class Saved:
    """What `saved.json` says: how far the trial's files are, and everything it has reported."""

    epoch: int = 0
    reports: list[dict[str, float]] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, content: bytes | None) -> Saved:
        """From JSON; one that cannot be read says nothing."""
        try:
            told = json.loads(content or b"{}")
            return cls(int(told["epoch"]), list(told["reports"]), dict(told["files"]))
        except (KeyError, TypeError, ValueError):
            return cls()

    def content(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"epoch": self.epoch, "reports": self.reports, "files": self.files}


class TrialCopy:
    """One trial, in the process that trains it."""

    def __init__(self, kept: Kept, *, directory: SweepDirectory, trial_id: str) -> None:
        """Say where the trial's files are here.

        Args:
            kept: where the sweep is kept.
            directory: the driver's; on another machine, where it is not, the trial gets a folder in the user's cache.
            trial_id: the trial.
        """
        self._kept, self._trial_id = kept, trial_id
        self._is_at_home = directory.spec_file.is_file()
        if self._is_at_home:
            self.folder = directory.trial_folder(trial_id)
        else:
            cache = platformdirs.user_cache_path("toprung", appauthor=False)
            self.folder = cache / "trials" / kept.sweep_id / trial_id
        self._storage = _opened(kept.uri)
        self._saved = Saved()
        self._is_first = False
        self._make_room()

    def fetch(self, *, local_epoch: int) -> None:
        """Bring the trial's files here where the storage is further than what lies here.

        A trial with a past waits for a storage that is away; not for ever: then it begins anew, by the same seeds.

        Args:
            local_epoch: how far the checkpoint in the folder is; 0 where there is none.
        """
        self._saved, self._is_first = saved_here(self.folder), True
        patience = 0.0 if local_epoch or self._trial_id not in self._kept.past else WAIT_FOR_CHECKPOINT_SECONDS
        last_try = time.monotonic() + patience
        while True:
            try:
                there = Saved.read(self._storage.get(self._name(SAVED_FILE)))
                if there.epoch > local_epoch:
                    bring(self._storage, self._kept.sweep_id, self._trial_id, there, self.folder)
                    self._saved = there
                return
            except StorageAway as error:
                if time.monotonic() >= last_try:
                    logger.warning("%s goes on with what is here, epoch %d: %s", self._trial_id, local_epoch, error)
                    return
                time.sleep(FIRST_PAUSE_SECONDS)

    def saved(self, told: Mapping[str, float]) -> list[dict[str, float]]:
        """Send the checkpoint of an epoch that is on disk; at a rung, wait until it is sent.

        Args:
            told: what the epoch reports.

        Returns:
            What is to be reported: this epoch, and the first time after `fetch` all before it, for the driver that
            heard of them may be lost, and takes each only once.
        """
        epoch, self._is_first, is_first = int(told["epoch"]), False, self._is_first
        before = [dict(each) for each in self._saved.reports if is_first and each["epoch"] < epoch]
        if epoch > self._saved.epoch:
            self._saved = Saved(epoch, [*self._saved.reports, dict(told)])
        self._send()
        if epoch in self._kept.rungs:
            self.settle()
        return [*before, dict(told)]

    def leave_failure(self) -> None:
        """Send why the trial failed."""
        self._send()
        self.settle()

    def settle(self) -> None:
        """Wait until everything is sent; not for a storage that is away."""
        _sender.settle(self._storage, self._trial_id, timeout_seconds=WAIT_AT_RUNG_SECONDS)

    def _send(self) -> None:
        _sender.send(Parcel.of(self.folder, self._saved, name=self._name(""), trial_id=self._trial_id), self._storage)

    def _make_room(self) -> None:
        """Away from home, remove the folder of this process's trial before, if the storage has it."""
        global _before
        before, _before = _before, None if self._is_at_home else self.folder
        if before is not None and before != self.folder and not undelivered(before):
            shutil.rmtree(before, ignore_errors=True)

    def _name(self, file: str) -> str:
        return f"{self._kept.sweep_id}/trials/{self._trial_id}/{file}"


@dataclass
class Parcel:
    """One epoch's files, opened when they were whole: what is renamed over them later changes nothing here."""

    folder: Path
    name: str
    trial_id: str
    saved: Saved
    files: dict[str, IO[bytes]]
    stamps: dict[str, Stamp]

    @classmethod
    def of(cls, folder: Path, saved: Saved, *, name: str, trial_id: str) -> Parcel:
        """Of what lies in a trial's folder now; `saved.json` is written there too."""
        with contextlib.ExitStack() as opened:
            files: dict[str, IO[bytes]] = {}
            for file in SENT:
                with contextlib.suppress(FileNotFoundError):
                    files[file] = opened.enter_context((folder / file).open("rb"))
            stamps = {file: _stamp(os.fstat(each.fileno())) for file, each in files.items()}
            saved = Saved(saved.epoch, saved.reports, {file: stamp[1] for file, stamp in stamps.items()})
            write_json(folder / SAVED_FILE, saved.content())
            opened.pop_all()
        return cls(folder, name, trial_id, saved, files, stamps)

    def deliver(self, storage: ObjectStorage) -> None:
        """Send what the storage does not have yet, and note here that it has it.

        Raises:
            StorageAway: not all of it could be sent.
        """
        known = _delivered(self.folder)
        for file, opened in self.files.items():
            if known.get(file) != self.stamps[file]:
                storage.put_file(self.name + file, opened)
        if FAILURE_FILE in known and FAILURE_FILE not in self.files:
            storage.delete([self.name + FAILURE_FILE])
        storage.put(self.name + SAVED_FILE, json.dumps(self.saved.content()).encode())
        with contextlib.suppress(FileNotFoundError):  # the folder is gone meanwhile
            _note_delivered(self.folder, self.stamps)

    def close(self) -> None:
        """Let go of the files."""
        for opened in self.files.values():
            opened.close()


class _Sender:
    """The thread of this process that sends parcels, for each trial the newest one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[str, tuple[Parcel, ObjectStorage]] = {}
        self._in_hand: str | None = None
        self._num_failures = 0
        self._thread: threading.Thread | None = None

    def send(self, parcel: Parcel, storage: ObjectStorage) -> None:
        with self._changed:
            if older := self._waiting.pop(parcel.trial_id, None):
                older[0].close()
            self._waiting[parcel.trial_id] = parcel, storage
            if len(self._waiting) > MOST_WAITING:
                self._waiting.pop(next(iter(self._waiting)))[0].close()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="trial-storage", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def settle(self, storage: ObjectStorage, trial_id: str, *, timeout_seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._num_failures >= AWAY_AFTER or (trial_id not in self._waiting and self._in_hand != trial_id)
                ),
                timeout=timeout_seconds,
            )

    def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
                trial_id = next(iter(self._waiting))
                parcel, storage = self._waiting.pop(trial_id)
                self._in_hand = trial_id
            try:
                parcel.deliver(storage)
                failed = None
            except (StorageAway, OSError) as error:
                failed = error
                logger.warning("%s: its files wait for the storage: %s", trial_id, error)
            with self._changed:
                self._in_hand, self._num_failures = None, 0 if failed is None else self._num_failures + 1
                if failed is not None and trial_id not in self._waiting:
                    self._waiting[trial_id] = parcel, storage
                else:
                    parcel.close()
                self._changed.notify_all()
            if failed is None:
                pause = FIRST_PAUSE_SECONDS
            else:
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


_sender = _Sender()
_before: Path | None = None  # where this process's last trial had its files, away from home
_storages: dict[str, ObjectStorage] = {}


def _opened(uri: str) -> ObjectStorage:
    """One client a process: it keeps its connections."""
    if uri not in _storages:
        _storages[uri] = open_storage(uri)
    return _storages[uri]


def bring(storage: ObjectStorage, sweep_id: str, trial_id: str, there: Saved, folder: Path) -> None:
    """Put a trial's files from the storage into a folder, in the order in which a trial writes them.

    Raises:
        StorageAway: they could not be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PREVIOUS_FILE).unlink(missing_ok=True)
    for file in SENT:
        if file not in there.files:
            continue
        storage.download(f"{sweep_id}/trials/{trial_id}/{file}", folder / file)
    write_json(folder / SAVED_FILE, there.content())
    _note_delivered(folder, {file: stamp for file in SENT if (stamp := _stamp_of(folder / file))})


def saved_here(folder: Path) -> Saved:
    """What a trial's folder says of itself."""
    try:
        return Saved.read((folder / SAVED_FILE).read_bytes())
    except FileNotFoundError:
        return Saved()


def undelivered(folder: Path) -> bool:
    """Whether a trial's folder holds something that the storage does not have."""
    known = _delivered(folder)
    return any((stamp := _stamp_of(folder / file)) is not None and known.get(file) != stamp for file in SENT)


def _delivered(folder: Path) -> dict[str, Stamp]:
    """Which files the storage has; those of another folder, of which this one is a copy, do not count."""
    try:
        told = json.loads((folder / DELIVERED_FILE).read_text())
        return dict(told["files"]) if told["folder"] == folder.name else {}
    except (OSError, KeyError, TypeError, ValueError):
        return {}


def _note_delivered(folder: Path, stamps: Mapping[str, Stamp]) -> None:
    write_json(folder / DELIVERED_FILE, {"folder": folder.name, "files": dict(stamps)})


def _stamp_of(path: Path) -> Stamp | None:
    try:
        return _stamp(path.stat())
    except FileNotFoundError:
        return None


def _stamp(stat: os.stat_result) -> Stamp:
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns]
