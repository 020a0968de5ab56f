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

from toprung.records.sweep_dir import CONFIG_FILE, FAILURE_FILE, LAST_FILE, WEIGHTS_FILE, WEIGHTS_META_FILE, write_json
from toprung.remote_storage.objects import ObjectStorage

logger = logging.getLogger(__name__)

MANIFEST_FILE = "manifest.json"  # what the trial's files are: put last, so it never speaks of what is not there
UPLOADED_FILE = ".uploaded.json"  # which of the files here the storage has
UPLOADED_FILES = (CONFIG_FILE, LAST_FILE, WEIGHTS_FILE, WEIGHTS_META_FILE, FAILURE_FILE)
MIN_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.5, 10.0
UNAVAILABLE_AFTER = 3  # failures in a row
MAX_WAITING = 32  # trials of one process; beyond, the oldest is left to the driver

Stamp = list[int]  # of a file: inode, size, time of change


@dataclass
class UploadManifest:
    """What `manifest.json` says: how far the trial's files are, and everything it has reported."""

    epoch: int = 0
    reports: list[dict[str, float]] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, content: bytes | None) -> UploadManifest:
        """From JSON; one that cannot be read says nothing."""
        try:
            fields = json.loads(content or b"{}")
            return cls(int(fields["epoch"]), list(fields["reports"]), dict(fields["files"]))
        except (KeyError, TypeError, ValueError):
            return cls()

    def content(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"epoch": self.epoch, "reports": self.reports, "files": self.files}


@dataclass
class CheckpointUpload:
    """One epoch's files, opened when they were whole: what is renamed over them later changes nothing here."""

    folder: Path
    name: str
    trial_id: str
    manifest: UploadManifest
    files: dict[str, IO[bytes]]
    stamps: dict[str, Stamp]

    @classmethod
    def from_folder(cls, folder: Path, manifest: UploadManifest, *, name: str, trial_id: str) -> CheckpointUpload:
        """Of what lies in a trial's folder now; `manifest.json` is written there too."""
        with contextlib.ExitStack() as opened:
            files: dict[str, IO[bytes]] = {}
            for file in UPLOADED_FILES:
                with contextlib.suppress(FileNotFoundError):
                    files[file] = opened.enter_context((folder / file).open("rb"))
            stamps = {file: _stamp(os.fstat(stream.fileno())) for file, stream in files.items()}
            manifest = UploadManifest(
                manifest.epoch, manifest.reports, {file: stamp[1] for file, stamp in stamps.items()}
            )
            write_json(folder / MANIFEST_FILE, manifest.content())
            opened.pop_all()
        return cls(folder, name, trial_id, manifest, files, stamps)

    def upload(self, storage: ObjectStorage) -> None:
        """Send what the storage does not have yet, and note here that it has it.

        Raises:
            StorageUnavailable: not all of it could be sent.
        """
        known = _uploaded(self.folder)
        for file, opened in self.files.items():
            if known.get(file) != self.stamps[file]:
                storage.put_file(self.name + file, opened)
        if FAILURE_FILE in known and FAILURE_FILE not in self.files:
            storage.delete([self.name + FAILURE_FILE])
        storage.put(self.name + MANIFEST_FILE, json.dumps(self.manifest.content()).encode())
        with contextlib.suppress(FileNotFoundError):  # the folder is gone meanwhile
            record_uploaded(self.folder, self.stamps)

    def close(self) -> None:
        """Let go of the files."""
        for opened in self.files.values():
            opened.close()


class Uploader:
    """The thread of this process that sends parcels, for each trial the newest one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[str, tuple[CheckpointUpload, ObjectStorage]] = {}
        self._in_hand: str | None = None
        self._num_failures = 0
        self._thread: threading.Thread | None = None

    def enqueue(self, upload: CheckpointUpload, storage: ObjectStorage) -> None:
        """Have it sent, in place of an older one of its trial."""
        with self._changed:
            if older := self._waiting.pop(upload.trial_id, None):
                older[0].close()
            self._waiting[upload.trial_id] = upload, storage
            if len(self._waiting) > MAX_WAITING:
                self._waiting.pop(next(iter(self._waiting)))[0].close()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="trial-storage", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wait_for_uploads(self, storage: ObjectStorage, trial_id: str, *, timeout_seconds: float) -> None:
        """Wait until the trial's parcels are sent; not for a storage that is away."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._num_failures >= UNAVAILABLE_AFTER
                    or (trial_id not in self._waiting and self._in_hand != trial_id)
                ),
                timeout=timeout_seconds,
            )

    def _run(self) -> None:
        pause = MIN_BACKOFF_SECONDS
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting))
                trial_id = next(iter(self._waiting))
                upload, storage = self._waiting.pop(trial_id)
                self._in_hand = trial_id
            try:
                upload.upload(storage)
                failed: Exception | None = None
            except Exception as error:  # whatever it is, trials wait for this thread
                failed = error
                logger.warning("%s: its files wait for the storage: %s", trial_id, error)
            with self._changed:
                self._in_hand, self._num_failures = None, 0 if failed is None else self._num_failures + 1
                if failed is not None and trial_id not in self._waiting:
                    self._waiting[trial_id] = upload, storage
                else:
                    upload.close()
                self._changed.notify_all()
            if failed is None:
                pause = MIN_BACKOFF_SECONDS
            else:
                time.sleep(pause)
                pause = min(2 * pause, MAX_BACKOFF_SECONDS)


def has_pending_upload(folder: Path) -> bool:
    """Whether a trial's folder holds something that the storage does not have."""
    known = _uploaded(folder)
    return any((stamp := stamp_of(folder / file)) is not None and known.get(file) != stamp for file in UPLOADED_FILES)


def _uploaded(folder: Path) -> dict[str, Stamp]:
    """Which files the storage has; those of another folder, of which this one is a copy, do not count."""
    try:
        stamps = json.loads((folder / UPLOADED_FILE).read_text(encoding="utf-8"))
        return dict(stamps["files"]) if stamps["folder"] == folder.name else {}
    except (OSError, KeyError, TypeError, ValueError):
        return {}


def record_uploaded(folder: Path, stamps: Mapping[str, Stamp]) -> None:
    """Note in a trial's folder which of its files the storage has."""
    write_json(folder / UPLOADED_FILE, {"folder": folder.name, "files": dict(stamps)})


def stamp_of(path: Path) -> Stamp | None:
    """How a file is told from another of its name; None where there is none."""
    try:
        return _stamp(path.stat())
    except FileNotFoundError:
        return None


def _stamp(stat: os.stat_result) -> Stamp:
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns]
