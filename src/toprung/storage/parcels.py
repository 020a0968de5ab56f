"""The files of a trial that are on their way to object storage: one epoch's set, and the thread that sends it.

The set is opened while its files are whole, so what the next epoch renames over them changes nothing in it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from toprung.directory import ABOUT_FILE, CONFIG_FILE, FAILURE_FILE, LAST_FILE, WEIGHTS_FILE, write_json
from toprung.storage.objects import ObjectStorage

logger = logging.getLogger(__name__)

SAVED_FILE = "saved.json"  # what the trial's files are: put last, so it never speaks of what is not there
DELIVERED_FILE = ".delivered.json"  # which of the files here the storage has
SENT = (CONFIG_FILE, LAST_FILE, WEIGHTS_FILE, ABOUT_FILE, FAILURE_FILE)
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 10.0
AWAY_AFTER = 3  # failures in a row
MOST_WAITING = 32  # trials of one process; beyond, the oldest is left to the driver

Stamp = list[int]  # of a file: inode, size, time of change


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
            note_delivered(self.folder, self.stamps)

    def close(self) -> None:
        """Let go of the files."""
        for opened in self.files.values():
            opened.close()


class Sender:
    """The thread of this process that sends parcels, for each trial the newest one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[str, tuple[Parcel, ObjectStorage]] = {}
        self._in_hand: str | None = None
        self._num_failures = 0
        self._thread: threading.Thread | None = None

    def send(self, parcel: Parcel, storage: ObjectStorage) -> None:
        """Have it sent, in place of an older one of its trial."""
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
        """Wait until the trial's parcels are sent; not for a storage that is away."""
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
                failed: Exception | None = None
            except Exception as error:  # whatever it is, trials wait for this thread
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


def undelivered(folder: Path) -> bool:
    """Whether a trial's folder holds something that the storage does not have."""
    known = _delivered(folder)
    return any((stamp := stamp_of(folder / file)) is not None and known.get(file) != stamp for file in SENT)


def _delivered(folder: Path) -> dict[str, Stamp]:
    """Which files the storage has; those of another folder, of which this one is a copy, do not count."""
    try:
        told = json.loads((folder / DELIVERED_FILE).read_text(encoding="utf-8"))
        return dict(told["files"]) if told["folder"] == folder.name else {}
    except (OSError, KeyError, TypeError, ValueError):
        return {}


def note_delivered(folder: Path, stamps: Mapping[str, Stamp]) -> None:
    """Note in a trial's folder which of its files the storage has."""
    write_json(folder / DELIVERED_FILE, {"folder": folder.name, "files": dict(stamps)})


def stamp_of(path: Path) -> Stamp | None:
    """How a file is told from another of its name; None where there is none."""
    try:
        return _stamp(path.stat())
    except FileNotFoundError:
        return None


def _stamp(stat: os.stat_result) -> Stamp:
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns]
