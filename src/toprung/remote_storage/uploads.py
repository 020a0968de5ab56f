"""Uploads of a trial's files to object storage: the files of one epoch, and the thread that sends them.

The files are opened while they are complete, so the next epoch, which replaces them by a rename, does not change them.
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

from toprung.records.sweep_dir import write_json
from toprung.records.trial_folder import CONFIG_FILE, FAILURE_FILE, LAST_FILE, WEIGHTS_FILE, WEIGHTS_META_FILE
from toprung.remote_storage.objects import ObjectStorage

logger = logging.getLogger(__name__)

MANIFEST_FILE = "manifest.json"  # describes the trial's files; written last, so every file that it names exists
UPLOADED_FILE = ".uploaded.json"  # which of the local files the storage has
UPLOADED_FILES = (CONFIG_FILE, LAST_FILE, WEIGHTS_FILE, WEIGHTS_META_FILE, FAILURE_FILE)
MIN_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.5, 10.0
UNAVAILABLE_AFTER = 3  # failures in a row
MAX_WAITING = 32  # trials per process; if more wait, the driver uploads the oldest

Stamp = list[int]  # of a file: inode, size in bytes, modification time in nanoseconds


@dataclass
class UploadManifest:
    """The content of `manifest.json`: the epoch of the trial's files, all of its reports, and the files' sizes."""

    epoch: int = 0
    reports: list[dict[str, float]] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)

    @classmethod
    def read(cls, content: bytes | None) -> UploadManifest:
        """Parse a manifest; return an empty one if it is missing or cannot be parsed."""
        try:
            fields = json.loads(content or b"{}")
            return cls(int(fields["epoch"]), list(fields["reports"]), dict(fields["files"]))
        except (KeyError, TypeError, ValueError):
            return cls()

    def content(self) -> dict[str, Any]:
        """Return the manifest as a JSON object."""
        return {"epoch": self.epoch, "reports": self.reports, "files": self.files}


@dataclass
class CheckpointUpload:
    """The files of one epoch, opened while they were complete; replacing them by a rename does not change these."""

    folder: Path
    name: str
    trial_id: str
    manifest: UploadManifest
    files: dict[str, IO[bytes]]
    stamps: dict[str, Stamp]

    @classmethod
    def from_folder(cls, folder: Path, manifest: UploadManifest, *, name: str, trial_id: str) -> CheckpointUpload:
        """Open the files in a trial's folder, and write their `manifest.json` there."""
        with contextlib.ExitStack() as stack:
            files: dict[str, IO[bytes]] = {}
            for file in UPLOADED_FILES:
                with contextlib.suppress(FileNotFoundError):
                    files[file] = stack.enter_context((folder / file).open("rb"))
            stamps = {file: _stamp(os.fstat(stream.fileno())) for file, stream in files.items()}
            manifest = UploadManifest(
                manifest.epoch, manifest.reports, {file: stamp[1] for file, stamp in stamps.items()}
            )
            write_json(folder / MANIFEST_FILE, manifest.content())
            stack.pop_all()
        return cls(folder, name, trial_id, manifest, files, stamps)

    def upload(self, storage: ObjectStorage) -> None:
        """Upload the files that the storage does not have, and record in the folder that it has them.

        Raises:
            StorageUnavailable: not all files could be uploaded.
        """
        known = _uploaded(self.folder)
        for file, stream in self.files.items():
            if known.get(file) != self.stamps[file]:
                storage.put_file(self.name + file, stream)
        if FAILURE_FILE in known and FAILURE_FILE not in self.files:
            storage.delete([self.name + FAILURE_FILE])
        storage.put(self.name + MANIFEST_FILE, json.dumps(self.manifest.content()).encode())
        with contextlib.suppress(FileNotFoundError):  # the folder was removed during the upload
            record_uploaded(self.folder, self.stamps)

    def close(self) -> None:
        """Close the files."""
        for stream in self.files.values():
            stream.close()


class Uploader:
    """A thread of this process that uploads checkpoints: the newest of each trial."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: dict[str, tuple[CheckpointUpload, ObjectStorage]] = {}
        self._uploading: str | None = None
        self._num_failures = 0
        self._thread: threading.Thread | None = None

    def enqueue(self, upload: CheckpointUpload, storage: ObjectStorage) -> None:
        """Queue an upload, in place of an older one of the same trial."""
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
        """Wait until the trial's uploads are finished, unless the storage is unavailable."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._num_failures >= UNAVAILABLE_AFTER
                    or (trial_id not in self._waiting and self._uploading != trial_id)
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
                self._uploading = trial_id
            try:
                upload.upload(storage)
                failure: Exception | None = None
            except Exception as error:  # trials wait for this thread, so no error may end it
                failure = error
                logger.warning("the files of trial %s could not be uploaded, trying again: %s", trial_id, error)
            with self._changed:
                self._uploading, self._num_failures = None, 0 if failure is None else self._num_failures + 1
                if failure is not None and trial_id not in self._waiting:
                    self._waiting[trial_id] = upload, storage
                else:
                    upload.close()
                self._changed.notify_all()
            if failure is None:
                pause = MIN_BACKOFF_SECONDS
            else:
                time.sleep(pause)
                pause = min(2 * pause, MAX_BACKOFF_SECONDS)


def has_pending_upload(folder: Path) -> bool:
    """Whether a trial's folder has files that the storage does not have."""
    known = _uploaded(folder)
    return any((stamp := stamp_of(folder / file)) is not None and known.get(file) != stamp for file in UPLOADED_FILES)


def _uploaded(folder: Path) -> dict[str, Stamp]:
    """Return the files that the storage has; none if this folder is a copy of another trial's folder."""
    try:
        stamps = json.loads((folder / UPLOADED_FILE).read_text(encoding="utf-8"))
        return dict(stamps["files"]) if stamps["folder"] == folder.name else {}
    except (OSError, KeyError, TypeError, ValueError):
        return {}


def record_uploaded(folder: Path, stamps: Mapping[str, Stamp]) -> None:
    """Record in a trial's folder which of its files the storage has."""
    write_json(folder / UPLOADED_FILE, {"folder": folder.name, "files": dict(stamps)})


def stamp_of(path: Path) -> Stamp | None:
    """Return what distinguishes a file from an earlier one of the same name; None if it does not exist."""
    try:
        return _stamp(path.stat())
    except FileNotFoundError:
        return None


def _stamp(stat: os.stat_result) -> Stamp:
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns]
