"""One driver at a time, also where nobody can hold a lock: a small object that its driver renews.

The age of a lease is told by the storage's own clock on both sides, so no machine's clock matters. A driver that is
silent for `LEASE_SECONDS` may be replaced; one whose process is gone from this very machine, at once. Two drivers that
find the same silent lease both write theirs, look again a moment later, and the one whose lease stayed goes on. A
driver that was cut off from the storage, and replaced meanwhile, goes on training until it can see that: then it stops
and writes nothing more. See docs/decisions/0010 for what that does not protect against.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from toprung.remote_storage.objects import ObjectStorage

LEASE_FILE = "driver.json"
LEASE_SECONDS, HEARTBEAT_SECONDS = 60.0, 10.0
SETTLE_SECONDS = 0.5


@dataclass(frozen=True)
class LeaseOwner:
    """A driver: which process on which machine."""

    key: str
    host: str
    machine: str
    pid: int
    started_at: float

    @classmethod
    def this_process(cls) -> LeaseOwner:
        """This process."""
        began = psutil.Process().create_time()
        return cls(secrets.token_hex(8), socket.gethostname(), _machine(), os.getpid(), began)

    @property
    def has_ended(self) -> bool:
        """Whether it is certain that the process has ended: it was on this machine, and is there no more."""
        if not self.machine or self.machine != _machine():
            return False
        try:
            return bool(abs(psutil.Process(self.pid).create_time() - self.started_at) > 1)
        except psutil.NoSuchProcess:
            return True


@dataclass(frozen=True)
class LeaseState:
    """A lease as it was found."""

    owner: LeaseOwner
    silent_seconds: float

    @property
    def is_live(self) -> bool:
        """Whether its driver must be taken to run."""
        return self.silent_seconds < LEASE_SECONDS and not self.owner.has_ended


def read_owner(storage: ObjectStorage, sweep_id: str) -> LeaseOwner | None:
    """Whose lease a sweep is under; None where there is none.

    Raises:
        StorageUnavailable: it cannot be asked.
    """
    content = storage.get(f"{sweep_id}/{LEASE_FILE}")
    if content is None:
        return None
    try:
        return LeaseOwner(**json.loads(content))
    except (TypeError, ValueError):
        return None  # by hand, or of another version: nobody's


def read_state(storage: ObjectStorage, sweep_id: str) -> LeaseState | None:
    """A sweep's lease, and how long its driver has been silent by the storage's clock.

    Raises:
        StorageUnavailable: it cannot be asked.
    """
    owner = read_owner(storage, sweep_id)
    modified_at = storage.modified_at(f"{sweep_id}/{LEASE_FILE}")
    if owner is None or modified_at is None:
        return None
    clock = f".clock-{secrets.token_hex(4)}"
    storage.put(clock, b"")
    try:
        now = storage.modified_at(clock)
    finally:
        storage.delete([clock])
    return LeaseState(owner, max(0.0, (now or modified_at) - modified_at))


def acquire(storage: ObjectStorage, sweep_id: str, owner: LeaseOwner) -> bool:
    """Put a lease over one that is not live; says whether it stayed.

    Raises:
        StorageUnavailable: it could not be put.
    """
    renew(storage, sweep_id, owner)
    time.sleep(SETTLE_SECONDS)  # another driver that saw what we saw has written its own by now
    return read_owner(storage, sweep_id) == owner


def renew(storage: ObjectStorage, sweep_id: str, owner: LeaseOwner) -> None:
    """Say that the driver lives.

    Raises:
        StorageUnavailable: it could not be said.
    """
    storage.put(f"{sweep_id}/{LEASE_FILE}", json.dumps(asdict(owner)).encode())


def release(storage: ObjectStorage, sweep_id: str, owner: LeaseOwner) -> None:
    """The driver is done, if the lease is still its own.

    Raises:
        StorageUnavailable: it could not be said.
    """
    if read_owner(storage, sweep_id) == owner:
        storage.delete([f"{sweep_id}/{LEASE_FILE}"])


def _machine() -> str:
    """Where process ids can be compared: one boot of one machine, and one PID namespace. Empty where none is told."""
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot_id} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
