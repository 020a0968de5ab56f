"""A sweep brought from a storage: which ledger is right, and what is brought."""

import json

import pytest

from toprung.errors import UserError
from toprung.records.catalog import list_sweeps
from toprung.records.sweep_dir import FORMAT, SweepDirectory
from toprung.remote_storage import (
    delete_remote,
    download_all,
    download_failure,
    download_sweep,
    is_stored_at,
    lease,
    local_root,
    uploading,
)
from toprung.remote_storage.sweeps import INDEX
from toprung.spec import Sweep

LINES = [b'{"op_code": %d}\n' % number for number in range(6)]


@pytest.fixture
def uri(bucket_folder):
    return f"file://{bucket_folder}"


@pytest.fixture
def sweep_dir(tmp_path, uri):
    """A sweep's directory that is kept at `uri`, not yet sent."""
    sweep_dir = SweepDirectory(tmp_path / "here" / "runs" / "mine-20260101-000000")
    sweep_dir.trials_folder.mkdir(parents=True)
    sweep_dir.code_folder.mkdir()
    (sweep_dir.code_folder / "loop.py").write_text("pass\n")
    sweep = Sweep(name="mine", trainer="trainers.convnet", space="search_spaces.convnet", storage=uri)
    sweep_dir.write(sweep_dir.spec_file, {"format": FORMAT, "name": None, "spec": sweep.model_dump(mode="json")})
    sweep_dir.write(sweep_dir.status_file, {"status": "running"})
    sweep_dir.ledger_file.write_bytes(b"".join(LINES[:3]))
    return sweep_dir


@pytest.fixture
def sent(sweep_dir):
    with uploading(sweep_dir) as uploader:
        assert uploader.upload_error is None
    assert uploader.upload_error is None
    return sweep_dir


def _elsewhere(tmp_path):
    return SweepDirectory(tmp_path / "there" / "runs" / "mine-20260101-000000")


def test_a_folder_is_no_copy(tmp_path, sweep_dir):
    spec = sweep_dir.spec().model_copy(update={"storage": "runs"})
    sweep_dir.write(sweep_dir.spec_file, {"format": FORMAT, "spec": spec.model_dump(mode="json")})
    with uploading(sweep_dir) as uploader:
        assert uploader is None
    download_sweep(sweep_dir)
    delete_remote(sweep_dir)
    assert local_root(tmp_path, "mine") == tmp_path / "mine"
    assert sweep_dir.path.is_dir()


def test_a_sweep_is_brought_to_an_empty_machine(sent, tmp_path, uri, bucket_folder):
    there = _elsewhere(tmp_path)
    assert download_all(uri, there.path.parent) == [sent.sweep_id]
    assert [sweep_dir.sweep_id for sweep_dir in list_sweeps(there.path.parent)] == [sent.sweep_id]
    assert there.spec() == sent.spec()
    assert (there.code_folder / "loop.py").read_text() == "pass\n"
    assert there.ledger_file.read_bytes() == sent.ledger_file.read_bytes()
    assert is_stored_at(there, uri)
    assert not is_stored_at(there, f"{uri}/other")
    assert not (bucket_folder / sent.sweep_id / lease.LEASE_FILE).exists()


def test_a_torn_line_of_the_ledger_is_not_sent(sweep_dir, bucket_folder):
    sweep_dir.ledger_file.write_bytes(b"".join(LINES[:3]) + b'{"op_co')
    with uploading(sweep_dir):
        pass
    assert (bucket_folder / sweep_dir.sweep_id / "ledger.log").read_bytes() == b"".join(LINES[:3])


@pytest.mark.parametrize(
    ("here", "right", "status"),
    [
        (LINES[:2], LINES[:3], "running"),  # it went on elsewhere
        (LINES[:5], LINES[:5], "interrupted"),  # a driver died here before it had sent all
        (LINES[:3], LINES[:3], "interrupted"),
        ([*LINES[:2], b"torn"], LINES[:3], "running"),
        ([*LINES[:1], LINES[5]], LINES[:3], "running"),  # both went on: the storage is right
    ],
)
def test_of_two_ledgers_the_one_that_went_on_is_right(sent, tmp_path, here, right, status):
    there = _elsewhere(tmp_path)
    there.path.mkdir(parents=True)
    there.write(there.spec_file, sent.read(sent.spec_file))
    there.write(there.status_file, {"status": "interrupted"})
    there.ledger_file.write_bytes(b"".join(here))
    download_sweep(there)
    assert there.ledger_file.read_bytes() == b"".join(right)
    assert there.read(there.status_file)["status"] == status
    staging = list(there.path.glob("ledger.log.*"))
    assert [path.read_bytes() for path in staging] == ([b"".join(here)] if LINES[5] in here else [])


def test_a_driver_here_is_not_disturbed_and_one_elsewhere_is_respected(sweep_dir, tmp_path, monkeypatch):
    with uploading(sweep_dir), sweep_dir.lock():
        sweep_dir.ledger_file.write_bytes(b"")
        download_sweep(sweep_dir)
        assert sweep_dir.ledger_file.read_bytes() == b""
        with pytest.raises(
            UserError, match=rf"^{sweep_dir.sweep_id} is running on \S+ \(pid \d+, heard of \d+ s ago\)"
        ):
            uploading(sweep_dir).__enter__()


def test_a_driver_that_was_replaced_stops_and_sends_nothing_more(sweep_dir, bucket_folder, monkeypatch):
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.0)
    monkeypatch.setattr("toprung.remote_storage.sweeps.POLL_SECONDS", 0.05)
    other = lease.LeaseOwner("another", "another", "another", 1, 0.0)
    lease_file = bucket_folder / sweep_dir.sweep_id / lease.LEASE_FILE
    with uploading(sweep_dir) as uploader:
        while json.loads(lease_file.read_text())["key"] != "another":
            staging = lease_file.with_name("aside")
            staging.write_text(json.dumps(vars(other)))
            staging.replace(lease_file)
        uploader._thread.join(timeout=30)
        assert sweep_dir.stop_file.exists()
        sweep_dir.ledger_file.write_bytes(b"".join(LINES))
    assert uploader.upload_error == "another driver has taken the sweep over"
    assert (bucket_folder / sweep_dir.sweep_id / "ledger.log").read_bytes() == b"".join(LINES[:3])
    assert json.loads(lease_file.read_text())["key"] == "another"


def test_what_an_earlier_drivers_trials_saved_is_sent_at_the_end_where_the_storage_is_away(
    sweep_dir, bucket_folder, monkeypatch, caplog
):
    monkeypatch.setattr("toprung.remote_storage.sweeps.CLOSE_TIMEOUT_SECONDS", 0.0)
    trial = sweep_dir.trial_folder("abc")
    trial.mkdir(parents=True)
    (trial / "last.pth").write_bytes(b"weights")
    sent, elsewhere = bucket_folder / sweep_dir.sweep_id / "trials", bucket_folder / "elsewhere"
    with uploading(sweep_dir) as uploader:
        sent.write_bytes(b"no folder")  # where one is needed
        uploader.upload_earlier_trials()
        assert "what trials have saved is sent at the end: " in caplog.text
        sent.rename(elsewhere)
    assert (sent / "abc" / "last.pth").read_bytes() == b"weights"


def test_a_losers_files_go_only_after_the_ledger_that_says_so(sweep_dir, bucket_folder, monkeypatch):
    folder = bucket_folder / sweep_dir.sweep_id / "trials" / "abc"
    folder.mkdir(parents=True)
    (folder / "last.pth").write_bytes(b"weights")
    with uploading(sweep_dir) as uploader:
        put = uploader._storage.put

        def observed(storage, name, content):
            if name.endswith("ledger.log"):
                assert (folder / "last.pth").exists()
            put(name, content)

        monkeypatch.setattr(type(uploader._storage), "put", observed)
        sweep_dir.ledger_file.write_bytes(b"".join(LINES[:4]))
        uploader.delete_trial_files("abc", ("last.pth",))
    assert not (folder / "last.pth").exists()
    assert (bucket_folder / sweep_dir.sweep_id / "ledger.log").read_bytes() == b"".join(LINES[:4])


def test_why_a_trial_failed_on_another_machine_is_brought(sent, bucket_folder):
    told = bucket_folder / sent.sweep_id / "trials" / "abc" / "failure.json"
    told.parent.mkdir(parents=True)
    told.write_text(json.dumps({"cause": "NaN", "disk_full": False}))
    download_failure(sent, "abc")
    assert sent.read_failure("abc").cause == "NaN"
    download_failure(sent, "other")
    assert sent.read_failure("other") is None


def test_what_is_removed_is_gone_from_the_storage_but_for_its_export(sent, bucket_folder):
    exported = bucket_folder / sent.sweep_id / "export" / "model.pth"
    exported.parent.mkdir()
    exported.write_bytes(b"weights")
    delete_remote(sent, keep_export=True)
    files = {path for path in bucket_folder.rglob("*") if path.is_file()}
    assert files == {exported}
    delete_remote(sent)
    assert not exported.exists()
    assert list((bucket_folder / INDEX).iterdir()) == []


def test_names_that_lead_out_of_the_folder_are_not_brought(sent, tmp_path, uri, bucket_folder):
    for folder in (bucket_folder / sent.sweep_id / "trials" / "..hidden", bucket_folder / INDEX / "deep"):
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text('{"epoch": 1, "reports": [], "files": {"last.pth": 1}}')
    there = _elsewhere(tmp_path)
    there.path.mkdir(parents=True)
    there.write(there.spec_file, sent.read(sent.spec_file))
    download_sweep(there)
    assert list(there.trials_folder.iterdir()) == []
    assert download_all(uri, there.path.parent) == [sent.sweep_id]
