"""A trial's files on object storage: sent from the process that trains, fetched by the one that goes on.

After each epoch the files that are whole now are opened, and a thread sends them: training does not wait, and an
upload that takes longer than an epoch still sends one epoch's set. `saved.json` goes last and says what is there: the
epoch, every report so far, and the files' sizes. Where ASHA decides (at a rung) the trial waits until its files are
there, so a decision is made on what a lost machine does not take along. `previous.pth` stays at home: an object is
replaced whole, so there is no torn one to go back from.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from toprung.directory import PREVIOUS_FILE, SweepDirectory, write_json
from toprung.storage.objects import ObjectStorage, StorageAway, open_storage
from toprung.storage.parcels import (
    FIRST_PAUSE_SECONDS,
    SAVED_FILE,
    SENT,
    Parcel,
    Saved,
    Sender,
    note_delivered,
    stamp_of,
    undelivered,
)

logger = logging.getLogger(__name__)

WAIT_AT_RUNG_SECONDS = 30.0
WAIT_FOR_CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True)
class Kept:
    """Where a sweep is kept: what a trial's process needs to know."""

    uri: str
    sweep_id: str
    rungs: tuple[int, ...]
    past: frozenset[str] = frozenset()  # trials that an earlier driver began
    on_a_cluster: bool = False  # then this driver may have begun any of them, on a node that was lost

    def may_have(self, trial_id: str) -> bool:
        """Whether there may be a checkpoint of the trial that does not lie on this machine."""
        return self.on_a_cluster or trial_id in self.past


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

        A trial that may have a checkpoint there waits for a storage that is away, for `WAIT_FOR_CHECKPOINT_SECONDS`;
        then it begins anew, by the same seeds. Any other one begins at once: what it saves is sent later.

        Args:
            local_epoch: how far the checkpoint in the folder is; 0 where there is none.
        """
        self._saved, self._is_first = saved_here(self.folder), True
        patience = WAIT_FOR_CHECKPOINT_SECONDS if not local_epoch and self._kept.may_have(self._trial_id) else 0.0
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


_sender = Sender()
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
    note_delivered(folder, {file: stamp for file in SENT if (stamp := stamp_of(folder / file))})


def saved_here(folder: Path) -> Saved:
    """What a trial's folder says of itself."""
    try:
        return Saved.read((folder / SAVED_FILE).read_bytes())
    except FileNotFoundError:
        return Saved()
