"""A sweep's directory on object storage, sent by its driver while it runs.

The directory stays a local folder, which everything works on; what a new machine needs to go on is sent as it changes.
The ledger is sent whole, at most every other second and for a twentieth of the time at most, and before anything that
it must know of is removed: so the storage's ledger may be some seconds old, and is always one that was true.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from toprung.directory import ABOUT_FILE, FAILURE_FILE, SweepDirectory
from toprung.errors import UserError
from toprung.storage import lease
from toprung.storage.objects import ObjectStorage, StorageAway, check_usable, is_uri, open_storage
from toprung.storage.parcels import SAVED_FILE, Parcel, Saved, undelivered
from toprung.storage.trials import Kept, bring, saved_here

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
LEDGER_SECONDS, LEDGER_SHARE = 2.0, 0.05
LAST_TRY_SECONDS = 30.0
STOP_FILE = "stop"
INDEX = ".sweeps"  # an empty object a sweep: some stores cannot list the folders at an address
REPLACED = "another driver has taken the sweep over"


def storage_of(made: SweepDirectory) -> ObjectStorage | None:
    """Where a sweep's copy is; None where its storage is a folder.

    Raises:
        UserError: its spec cannot be read, or names what is no storage.
    """
    uri = made.spec().storage
    return open_storage(uri) if is_uri(uri) else None


class SweepCopy:
    """What the driver keeps up on the storage, from its start to its end."""

    def __init__(self, made: SweepDirectory, storage: ObjectStorage, holder: lease.Holder) -> None:
        self._made, self._storage, self._holder = made, storage, holder
        self._sent: dict[str, tuple[int, int, int]] = {}
        self._lock = threading.Lock()  # one sends at a time
        self._forgotten: list[str] = []
        self._ending = threading.Event()
        self._next_beat, self._next_ledger = 0.0, 0.0
        self._is_replaced = False
        self.undelivered: str | None = None
        self._thread = threading.Thread(target=self._keep_up, name="sweep-storage", daemon=True)

    def kept(self, rungs: tuple[int, ...], *, past: Iterable[str], on_a_cluster: bool) -> Kept:
        """What a trial's process needs to know: where ASHA decides, and which trials may have been begun elsewhere."""
        return Kept(self._storage.uri, self._made.sweep_id, rungs, frozenset(past), on_a_cluster)

    def start(self) -> None:
        """Send what is there, and go on sending.

        Raises:
            StorageAway: it cannot be sent.
        """
        self._send_changed(everything=True)
        self._storage.put(f"{INDEX}/{self._made.sweep_id}", b"")
        self._thread.start()

    def forget(self, trial_id: str, files: tuple[str, ...]) -> None:
        """Remove a trial's files, once the storage's ledger knows why."""
        self._forgotten += [f"{self._made.sweep_id}/trials/{trial_id}/{file}" for file in (*files, SAVED_FILE)]

    def deliver_trials(self) -> int:
        """Send what no trial's process did; gives how many trials that were.

        Call it when no trial runs.

        Raises:
            StorageAway: not all of it could be sent.
        """
        count = 0
        for folder in sorted(self._made.trials_folder.iterdir()) if self._made.trials_folder.is_dir() else ():
            if not folder.is_dir() or folder.name.startswith(".") or not undelivered(folder):
                continue
            name = f"{self._made.sweep_id}/trials/{folder.name}/"
            parcel = Parcel.of(folder, saved_here(folder), name=name, trial_id=folder.name)
            try:
                parcel.deliver(self._storage)
            finally:
                parcel.close()
            count += 1
        return count

    def deliver_trials_before(self) -> None:
        """Send what an earlier driver's trials did not; where the storage stays away, it is sent at the end."""
        last_try = time.monotonic() + LAST_TRY_SECONDS
        while True:
            try:
                self.deliver_trials()
                return
            except StorageAway as error:
                if time.monotonic() > last_try:
                    logger.warning("what trials have saved is sent at the end: %s", error)
                    return
                time.sleep(LOOK_SECONDS)

    def close(self) -> None:
        """Send what is left, for as long as is reasonable, and let others drive the sweep."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join()
        last_try = time.monotonic() + LAST_TRY_SECONDS
        while not self._is_replaced:
            try:
                self._send_changed(everything=True)
                self.deliver_trials()
                lease.release(self._storage, self._made.sweep_id, self._holder)
                self.undelivered = None
                return
            except StorageAway as error:
                self.undelivered = str(error)
                if time.monotonic() > last_try:
                    return
                time.sleep(LOOK_SECONDS)
        self.undelivered = REPLACED

    def _keep_up(self) -> None:
        is_away = False
        while not self._ending.wait(LOOK_SECONDS):
            try:
                if time.monotonic() >= self._next_beat:
                    self._beat()
                if self._is_replaced:
                    self._made.stop_file.touch()
                    return
                self._send_changed()
                if is_away:
                    logger.warning("the storage is back")
                is_away = False
            except StorageAway as error:
                if not is_away:
                    logger.warning("the storage is away, the sweep goes on: %s", error)
                is_away = True
            except Exception as error:  # this thread also renews the lease: it must not end before the sweep does
                logger.warning("a file cannot be sent: %s", error)

    def _beat(self) -> None:
        """Renew the lease, unless it is another's; hear whether the sweep is to stop."""
        found = lease.holder_of(self._storage, self._made.sweep_id)
        if found is not None and found != self._holder:
            self._is_replaced = True
            logger.error("%s, on %s (pid %d): stopping", REPLACED, found.host, found.pid)
            return
        lease.renew(self._storage, self._made.sweep_id, self._holder)
        stop = f"{self._made.sweep_id}/{STOP_FILE}"
        if self._storage.put_at(stop) is not None:
            self._storage.delete([stop])
            self._made.stop_file.touch()
        self._next_beat = time.monotonic() + lease.BEAT_SECONDS

    def _send_changed(self, *, everything: bool = False) -> None:
        with self._lock:
            for name, file in self._files(whole=everything):
                if file != self._made.ledger_file:
                    self._send(name, file)
            if everything or time.monotonic() >= self._next_ledger:
                self._send_ledger()

    def _files(self, *, whole: bool) -> Iterator[tuple[str, Path]]:
        made = self._made
        folders = [made.code_folder, made.export_folder] if whole else []
        for top in (made.lineage_file, made.status_file, made.study_file, made.test_log, *folders):
            for file in sorted(top.rglob("*")) if top.is_dir() else [top]:
                if file.is_file() and "__pycache__" not in file.parts:
                    yield file.relative_to(made.path).as_posix(), file
        yield made.spec_file.name, made.spec_file  # last: what has a spec is a sweep

    def _send(self, name: str, file: Path) -> None:
        stat = file.stat()
        stamp = stat.st_ino, stat.st_size, stat.st_mtime_ns
        if self._sent.get(name) != stamp:
            self._storage.put(f"{self._made.sweep_id}/{name}", file.read_bytes())
            self._sent[name] = stamp

    def _send_ledger(self) -> None:
        """Whole lines of it; then remove what it tells to be over."""
        forgotten, file = list(self._forgotten), self._made.ledger_file
        if file.is_file() and self._sent.get(file.name, (0, 0, 0))[1] != file.stat().st_size:
            content = file.read_bytes()
            content = content[: content.rfind(b"\n") + 1]
            began = time.monotonic()
            self._storage.put(f"{self._made.sweep_id}/{file.name}", content)
            took = time.monotonic() - began
            self._sent[file.name] = 0, len(content), 0
            self._next_ledger = time.monotonic() + max(LEDGER_SECONDS, took / LEDGER_SHARE)
        if forgotten:
            self._storage.delete(forgotten)
            del self._forgotten[: len(forgotten)]

    def bring_trial(self, trial_id: str, *, epoch: int) -> None:
        """Have here the best weights of a trial, which may have run on another machine.

        Args:
            trial_id: the trial.
            epoch: the epoch they are of.

        Raises:
            UserError: the storage does not have them in time.
        """
        last_try, about = time.monotonic() + LAST_TRY_SECONDS, self._made.trial_folder(trial_id) / ABOUT_FILE
        while not (about.is_file() and self._made.read(about).get("epoch") == epoch):
            reason = "they are not there"
            try:
                bring_newer(self._made, self._storage, trial_id)
            except StorageAway as error:
                reason = str(error)
            if time.monotonic() > last_try:
                raise UserError(
                    f"Trial {trial_id} ran on another machine; its weights of epoch {epoch} cannot be brought from "
                    f"{self._storage.uri}: {reason}."
                )
            time.sleep(LOOK_SECONDS)

    def bring_open_trials(self, trial_ids: Iterable[str]) -> None:
        """Have here what trials that were cut short on other machines have sent; as much as can be had."""
        try:
            for trial_id in trial_ids:
                bring_newer(self._made, self._storage, trial_id)
        except StorageAway as error:
            logger.warning("what trials on other machines have saved is not here: %s", error)


def bring_newer(made: SweepDirectory, storage: ObjectStorage, trial_id: str) -> None:
    """Fetch a trial's files where the storage's are further than those here.

    Raises:
        StorageAway: they could not be read.
    """
    folder = made.trial_folder(trial_id)
    there = Saved.read(storage.get(f"{made.sweep_id}/trials/{trial_id}/{SAVED_FILE}"))
    if there.files and there.epoch > saved_here(folder).epoch:
        bring(storage, made.sweep_id, trial_id, there, folder)


def bring_failure(made: SweepDirectory, trial_id: str) -> None:
    """Have here why a trial failed on another machine, if it could say so."""
    file = made.trial_folder(trial_id) / FAILURE_FILE
    try:
        if file.exists() or (storage := storage_of(made)) is None:
            return
        storage.download(f"{made.sweep_id}/trials/{trial_id}/{FAILURE_FILE}", file)
    except (StorageAway, UserError) as error:
        logger.warning("why trial %s failed is not here: %s", trial_id, error)


@contextlib.contextmanager
def kept_up(made: SweepDirectory) -> Iterator[SweepCopy | None]:
    """Keep a sweep's copy up while its driver runs; None where its storage is a folder.

    Raises:
        UserError: the storage cannot be used, or a driver on another machine runs the sweep.
    """
    storage = storage_of(made)
    if storage is None:
        yield None
        return
    holder = _take_lease(made, storage)
    copy = SweepCopy(made, storage, holder)
    try:
        copy.start()
    except StorageAway as error:
        with contextlib.suppress(StorageAway):
            lease.release(storage, made.sweep_id, holder)
        raise UserError(f"The storage {storage.uri} cannot be used: {error}.") from None
    try:
        yield copy
    finally:
        copy.close()


def _take_lease(made: SweepDirectory, storage: ObjectStorage) -> lease.Holder:
    check_usable(storage)
    holder = lease.Holder.here()
    try:
        held = lease.look(storage, made.sweep_id)
        if held is not None and held.is_live:
            raise UserError(
                f"{made.sweep_id} is running on {held.holder.host} (pid {held.holder.pid}, heard of "
                f"{held.silent_seconds:.0f} s ago). Type: toprung stop {made.sweep_id}, or wait until it has been "
                f"silent for {lease.LEASE_SECONDS:.0f} s."
            )
        if held is not None:
            logger.warning(
                "%s: its driver on %s (pid %d) has been silent for %.0f s: taken over",
                made.sweep_id, held.holder.host, held.holder.pid, held.silent_seconds,
            )  # fmt: skip
        if not lease.take(storage, made.sweep_id, holder):
            raise UserError(f"{made.sweep_id} is being taken up on another machine just now.")
        storage.delete([f"{made.sweep_id}/{STOP_FILE}"])  # of an earlier driver
    except StorageAway as error:
        raise UserError(f"The storage {storage.uri} cannot be used: {error}.") from None
    return holder
