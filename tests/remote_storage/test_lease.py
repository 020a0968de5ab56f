"""One driver at a time, told by a lease on the storage."""

import os
import time
from dataclasses import replace

import pytest

from toprung.remote_storage import lease


def _of_another_machine(holder):
    return replace(holder, machine="another", host="another", key="another")


def test_a_live_lease_is_seen_and_a_released_one_is_gone(storage):
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


def test_a_process_that_is_gone_from_this_machine_holds_nothing():
    here = lease.LeaseOwner.this_process()
    assert not here.has_ended
    assert replace(here, started_at=here.started_at - 100).has_ended  # its number was given to another process
    assert not replace(_of_another_machine(here), started_at=0.0).has_ended  # nobody can tell from here


def test_a_silent_lease_is_no_longer_live(bucket_folder):
    from toprung.remote_storage import open_storage

    storage = open_storage(f"file://{bucket_folder}")
    lease.renew(storage, "sweep", _of_another_machine(lease.LeaseOwner.this_process()))
    assert lease.read_state(storage, "sweep").is_live
    then = time.time() - lease.LEASE_SECONDS - 1
    os.utime(bucket_folder / "sweep" / lease.LEASE_FILE, (then, then))
    assert not lease.read_state(storage, "sweep").is_live


def test_of_two_that_take_a_lease_at_once_one_goes_on(storage, monkeypatch):
    first, second = lease.LeaseOwner.this_process(), _of_another_machine(lease.LeaseOwner.this_process())
    monkeypatch.setattr(lease.time, "sleep", lambda seconds: lease.renew(storage, "sweep", second))
    assert not lease.acquire(storage, "sweep", first)
    assert lease.acquire(storage, "sweep", second)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"key": 1}'])
def test_a_lease_that_cannot_be_read_is_nobodys(bucket_folder, content):
    from toprung.remote_storage import open_storage

    storage = open_storage(f"file://{bucket_folder}")
    storage.put(f"sweep/{lease.LEASE_FILE}", content)
    assert lease.read_state(storage, "sweep") is None
