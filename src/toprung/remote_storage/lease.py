"""A lease on object storage: a small object that a sweep's driver renews, so that only one driver runs at a time.

The storage's own clock measures the age of a lease, so machines' clocks need not agree. A driver that has not renewed
its lease for `LEASE_SECONDS` may be replaced; one whose process has ended on this machine may be replaced at once. If
two drivers find the same expired lease, both write theirs, wait a moment and read it back; the one whose lease
remained continues. A driver that was cut off from the storage, and was replaced in that time, trains on until it can
read the storage again; then it stops and writes nothing more. docs/decisions/0010 says what this does not protect
against.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from toprung.errors import UserError
from toprung.remote_storage.objects import ObjectStorage

logger = logging.getLogger(__name__)

LEASE_FILE = "driver.json"
LEASE_SECONDS, HEARTBEAT_SECONDS = 60.0, 10.0
SETTLE_SECONDS = 0.5


@dataclass(frozen=True)
class LeaseOwner:
    """A driver: a process on a machine."""

    key: str
    host: str
    machine: str
    pid: int
    started_at: float

    @classmethod
    def this_process(cls) -> LeaseOwner:
        """Return an owner that stands for this process."""
        started_at = psutil.Process().create_time()
        return cls(secrets.token_hex(8), socket.gethostname(), _machine(), os.getpid(), started_at)

    @property
    def has_ended(self) -> bool:
        """Whether the process has certainly ended: it ran on this machine and no longer exists."""
        if not self.machine or self.machine != _machine():
            return False
        try:
            return bool(abs(psutil.Process(self.pid).create_time() - self.started_at) > 1)
        except psutil.NoSuchProcess:
            return True


@dataclass(frozen=True)
class LeaseState:
    """A lease as read from the storage."""

    owner: LeaseOwner
    silent_seconds: float

    @property
    def is_live(self) -> bool:
        """Whether its driver must be assumed to run."""
        return self.silent_seconds < LEASE_SECONDS and not self.owner.has_ended


def read_owner(storage: ObjectStorage, sweep_id: str) -> LeaseOwner | None:
    """Return the owner of a sweep's lease; None if there is no lease.

    Raises:
        StorageUnavailable: the lease cannot be read.
    """
    content = storage.get(f"{sweep_id}/{LEASE_FILE}")
    if content is None:
        return None
    try:
        return LeaseOwner(**json.loads(content))
    except (TypeError, ValueError):
        return None  # edited by hand, or written by another version: treated as no lease


def read_state(storage: ObjectStorage, sweep_id: str) -> LeaseState | None:
    """Return a sweep's lease and the seconds since it was renewed, by the storage's clock; None if there is no lease.

    Raises:
        StorageUnavailable: the lease cannot be read.
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
    """Write a lease over one that is not live; return whether it was still there a moment later.

    Raises:
        StorageUnavailable: the lease could not be written.
    """
    renew(storage, sweep_id, owner)
    time.sleep(SETTLE_SECONDS)  # a driver that read the same expired lease has written its own by now
    return read_owner(storage, sweep_id) == owner


def take(storage: ObjectStorage, sweep_id: str) -> LeaseOwner:
    """Acquire the lease of a sweep for this process.

    Raises:
        UserError: a driver on another machine runs the sweep, or acquires the lease at the same time.
        StorageUnavailable: the storage cannot be read or written.
    """
    owner = LeaseOwner.this_process()
    state = read_state(storage, sweep_id)
    if state is not None and state.is_live:
        raise UserError(
            f"{sweep_id} is running on {state.owner.host} (pid {state.owner.pid}, last heartbeat "
            f"{state.silent_seconds:.0f} s ago). Type: toprung stop {sweep_id}, or wait until its last heartbeat is "
            f"{LEASE_SECONDS:.0f} s old."
        )
    if state is not None:
        logger.warning(
            "%s: taking over from the driver on %s (pid %d), whose last heartbeat is %.0f s old",
            sweep_id, state.owner.host, state.owner.pid, state.silent_seconds,
        )  # fmt: skip
    if not acquire(storage, sweep_id, owner):
        raise UserError(f"{sweep_id} is already being resumed on another machine.")
    return owner


def renew(storage: ObjectStorage, sweep_id: str, owner: LeaseOwner) -> None:
    """Write the lease again: the driver is alive.

    Raises:
        StorageUnavailable: the lease could not be written.
    """
    storage.put(f"{sweep_id}/{LEASE_FILE}", json.dumps(asdict(owner)).encode())


def release(storage: ObjectStorage, sweep_id: str, owner: LeaseOwner) -> None:
    """Delete the lease, if it still belongs to this driver.

    Raises:
        StorageUnavailable: the lease could not be read or deleted.
    """
    if read_owner(storage, sweep_id) == owner:
        storage.delete([f"{sweep_id}/{LEASE_FILE}"])


def _machine() -> str:
    """Return the scope in which process ids are unique: a boot of a machine and a PID namespace; "" if unknown."""
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot_id} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
