"""The lease on the storage that lets one driver run at a time."""

import os
import time
from dataclasses import replace

import pytest

from toprung.remote_storage import lease


def _of_another_machine(owner):
    return replace(owner, machine="another", host="another", key="another")


def test_a_live_lease_can_be_read_and_a_released_one_is_gone(storage):
    owner = lease.LeaseOwner.this_process()
    assert lease.read_state(storage, "sweep") is None
    assert lease.acquire(storage, "sweep", owner)
    lease_state = lease.read_state(storage, "sweep")
    assert lease_state.owner == owner
    assert lease_state.is_live
    assert lease_state.silent_seconds < 30
    lease.release(storage, "sweep", _of_another_machine(owner))
    assert lease.read_state(storage, "sweep") is not None
    lease.release(storage, "sweep", owner)
    assert lease.read_state(storage, "sweep") is None
    assert storage.list_objects() == {}


def test_an_owner_has_ended_if_its_process_no_longer_exists_on_this_machine():
    here = lease.LeaseOwner.this_process()
    assert not here.has_ended
    assert replace(here, started_at=here.started_at - 100).has_ended  # its pid now belongs to another process
    assert not replace(_of_another_machine(here), started_at=0.0).has_ended  # on another machine: unknown


def test_a_lease_that_is_not_renewed_expires(bucket_folder):
    from toprung.remote_storage import open_storage

    storage = open_storage(f"file://{bucket_folder}")
    lease.renew(storage, "sweep", _of_another_machine(lease.LeaseOwner.this_process()))
    assert lease.read_state(storage, "sweep").is_live
    expired = time.time() - lease.LEASE_SECONDS - 1
    os.utime(bucket_folder / "sweep" / lease.LEASE_FILE, (expired, expired))
    assert not lease.read_state(storage, "sweep").is_live


def test_only_one_of_two_concurrent_drivers_acquires_the_lease(storage, monkeypatch):
    first, second = lease.LeaseOwner.this_process(), _of_another_machine(lease.LeaseOwner.this_process())
    monkeypatch.setattr(lease.time, "sleep", lambda seconds: lease.renew(storage, "sweep", second))
    assert not lease.acquire(storage, "sweep", first)
    assert lease.acquire(storage, "sweep", second)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"key": 1}'])
def test_a_lease_that_cannot_be_parsed_has_no_owner(bucket_folder, content):
    from toprung.remote_storage import open_storage

    storage = open_storage(f"file://{bucket_folder}")
    storage.put(f"sweep/{lease.LEASE_FILE}", content)
    assert lease.read_state(storage, "sweep") is None
