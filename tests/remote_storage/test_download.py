"""Download of a sweep: which of two ledgers is used, and which files are downloaded."""

import json
import os

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
    upload_results,
    uploading,
)
from toprung.remote_storage.objects import ObjectStorage, StorageUnavailable
from toprung.remote_storage.sweep_uploader import INDEX
from toprung.spec import Sweep

LINES = [b'{"op_code": %d}\n' % number for number in range(6)]


@pytest.fixture
def uri(bucket_folder):
    return f"file://{bucket_folder}"


@pytest.fixture
def sweep_dir(tmp_path, uri):
    """A sweep's directory whose storage is `uri`, not yet uploaded."""
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


def test_nothing_is_copied_if_the_storage_is_a_folder(tmp_path, sweep_dir):
    spec = sweep_dir.spec().model_copy(update={"storage": "runs"})
    sweep_dir.write(sweep_dir.spec_file, {"format": FORMAT, "spec": spec.model_dump(mode="json")})
    with uploading(sweep_dir) as uploader:
        assert uploader is None
    download_sweep(sweep_dir)
    delete_remote(sweep_dir)
    assert local_root(tmp_path, "mine") == tmp_path / "mine"
    assert sweep_dir.path.is_dir()


def test_a_sweep_is_downloaded_to_an_empty_machine(sent, tmp_path, uri, bucket_folder):
    there = _elsewhere(tmp_path)
    assert download_all(uri, there.path.parent) == [sent.sweep_id]
    assert [sweep_dir.sweep_id for sweep_dir in list_sweeps(there.path.parent)] == [sent.sweep_id]
    assert there.spec() == sent.spec()
    assert (there.code_folder / "loop.py").read_text() == "pass\n"
    assert there.ledger_file.read_bytes() == sent.ledger_file.read_bytes()
    assert is_stored_at(there, uri)
    assert not is_stored_at(there, f"{uri}/other")
    assert not (bucket_folder / sent.sweep_id / lease.LEASE_FILE).exists()


def test_a_torn_line_of_the_ledger_is_not_uploaded(sweep_dir, bucket_folder):
    sweep_dir.ledger_file.write_bytes(b"".join(LINES[:3]) + b'{"op_co')
    with uploading(sweep_dir):
        pass
    assert (bucket_folder / sweep_dir.sweep_id / "ledger.log").read_bytes() == b"".join(LINES[:3])


@pytest.mark.parametrize(
    ("local", "expected", "status"),
    [
        (LINES[:2], LINES[:3], "running"),  # it was continued on another machine
        (LINES[:5], LINES[:5], "interrupted"),  # a driver died here before it had uploaded everything
        (LINES[:3], LINES[:3], "interrupted"),
        ([*LINES[:2], b"torn"], LINES[:3], "running"),
        ([*LINES[:1], LINES[5]], LINES[:3], "running"),  # both continued: the storage takes precedence
    ],
)
def test_the_ledger_that_continues_the_other_is_used(sent, tmp_path, local, expected, status):
    there = _elsewhere(tmp_path)
    there.path.mkdir(parents=True)
    there.write(there.spec_file, sent.read(sent.spec_file))
    there.write(there.status_file, {"status": "interrupted"})
    there.ledger_file.write_bytes(b"".join(local))
    download_sweep(there)
    assert there.ledger_file.read_bytes() == b"".join(expected)
    assert there.read(there.status_file)["status"] == status
    kept = list(there.path.glob("ledger.log.*"))
    assert [path.read_bytes() for path in kept] == ([b"".join(local)] if LINES[5] in local else [])


def test_an_interrupted_download_is_repeated(sent, tmp_path, monkeypatch):
    there = _elsewhere(tmp_path)
    there.path.mkdir(parents=True)
    there.write(there.spec_file, sent.read(sent.spec_file))
    there.write(there.status_file, {"status": "interrupted"})
    there.ledger_file.write_bytes(LINES[0])
    there.code_folder.mkdir()
    (there.code_folder / "loop.py").write_text("an older loop\n")
    with monkeypatch.context() as patched:

        def fail(storage, name, target):
            raise StorageUnavailable("it cannot be reached")

        patched.setattr(ObjectStorage, "download", fail)
        with pytest.raises(UserError, match="it cannot be reached"):
            download_sweep(there)
    assert there.ledger_file.read_bytes() == LINES[0]
    download_sweep(there)
    assert (there.code_folder / "loop.py").read_text() == "pass\n"
    assert there.ledger_file.read_bytes() == sent.ledger_file.read_bytes()


def test_what_was_written_after_the_end_reaches_the_storage_and_other_machines(sent, tmp_path, bucket_folder):
    there = _elsewhere(tmp_path)
    sent.test_log.write_text('{"time": "1"}\n')
    (sent.trial_export_folder(3) / "model.pt2").parent.mkdir(parents=True)
    (sent.trial_export_folder(3) / "model.pt2").write_bytes(b"old")
    upload_results(sent)
    download_all(f"file://{bucket_folder}", there.path.parent)

    sent.test_log.write_text('{"time": "1"}\n{"time": "2"}\n')
    sent.confirmation_file.write_text("# confirmed\n")
    (sent.refit_folder / "export").mkdir(parents=True)
    (sent.refit_folder / "export" / "model.json").write_text("{}")
    (sent.trial_export_folder(3) / "model.pt2").unlink()
    (sent.trial_export_folder(3) / "model.onnx").write_bytes(b"new")
    upload_results(sent)
    copy = bucket_folder / sent.sweep_id
    assert [path.name for path in (copy / "exports" / "trial-3").iterdir()] == ["model.onnx"]
    assert not (copy / lease.LEASE_FILE).exists()

    os.utime(there.test_log, (1.0, 1.0))
    download_sweep(there)
    assert there.test_log.read_text() == sent.test_log.read_text()
    assert there.confirmation_file.read_text() == "# confirmed\n"
    assert (there.refit_folder / "export" / "model.json").read_text() == "{}"


def test_results_of_a_running_sweep_are_left_to_its_driver(sweep_dir, bucket_folder):
    with sweep_dir.lock():
        upload_results(sweep_dir)
    assert not (bucket_folder / sweep_dir.sweep_id).exists()


def test_results_that_cannot_be_uploaded_are_reported(sent, bucket_folder, capsys):
    from toprung.cli.options import upload_results as upload_or_report

    spec = sent.spec().model_copy(update={"storage": f"file://{sent.spec_file}"})
    sent.write(sent.spec_file, {"format": FORMAT, "spec": spec.model_dump(mode="json")})
    upload_or_report(sent)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("The results were not uploaded. The storage file://")
    assert lines[0].endswith(f"To upload them: toprung sync {sent.sweep_id}")


def test_a_download_does_not_disturb_a_local_driver_and_a_second_driver_is_refused(sweep_dir, tmp_path, monkeypatch):
    with uploading(sweep_dir), sweep_dir.lock():
        sweep_dir.ledger_file.write_bytes(b"")
        download_sweep(sweep_dir)
        assert sweep_dir.ledger_file.read_bytes() == b""
        with pytest.raises(
            UserError, match=rf"^{sweep_dir.sweep_id} is running on \S+ \(pid \d+, last heartbeat \d+ s ago\)"
        ):
            uploading(sweep_dir).__enter__()


def test_a_driver_that_was_replaced_stops_and_uploads_nothing_more(sweep_dir, bucket_folder, monkeypatch):
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.0)
    monkeypatch.setattr("toprung.remote_storage.sweep_uploader.POLL_SECONDS", 0.05)
    other = lease.LeaseOwner("another", "another", "another", 1, 0.0)
    lease_file = bucket_folder / sweep_dir.sweep_id / lease.LEASE_FILE
    with uploading(sweep_dir) as uploader:
        while json.loads(lease_file.read_text())["key"] != "another":
            staging = lease_file.with_name("staging")
            staging.write_text(json.dumps(vars(other)))
            staging.replace(lease_file)
        uploader._thread.join(timeout=30)
        assert sweep_dir.stop_file.exists()
        sweep_dir.ledger_file.write_bytes(b"".join(LINES))
    assert uploader.upload_error == "another driver has taken over the sweep"
    assert (bucket_folder / sweep_dir.sweep_id / "ledger.log").read_bytes() == b"".join(LINES[:3])
    assert json.loads(lease_file.read_text())["key"] == "another"


def test_checkpoints_of_earlier_trials_are_uploaded_at_the_end_if_the_storage_is_unavailable(
    sweep_dir, bucket_folder, monkeypatch, caplog
):
    monkeypatch.setattr("toprung.remote_storage.sweep_uploader.CLOSE_TIMEOUT_SECONDS", 0.0)
    trial = sweep_dir.trial_folder("abc")
    trial.mkdir(parents=True)
    (trial / "last.pth").write_bytes(b"weights")
    sent, elsewhere = bucket_folder / sweep_dir.sweep_id / "trials", bucket_folder / "elsewhere"
    with uploading(sweep_dir) as uploader:
        sent.write_bytes(b"no folder")  # where a folder is needed
        uploader.upload_earlier_trials()
        assert "the checkpoints of earlier trials will be uploaded at the end: " in caplog.text
        sent.rename(elsewhere)
    assert (sent / "abc" / "last.pth").read_bytes() == b"weights"


def test_a_losers_files_are_removed_only_after_the_ledger_is_uploaded(sweep_dir, bucket_folder, monkeypatch):
    folder = bucket_folder / sweep_dir.sweep_id / "trials" / "abc"
    folder.mkdir(parents=True)
    (folder / "last.pth").write_bytes(b"weights")
    with uploading(sweep_dir) as uploader:
        put = uploader._storage.put

        def checked_put(storage, name, content):
            if name.endswith("ledger.log"):
                assert (folder / "last.pth").exists()
            put(name, content)

        monkeypatch.setattr(type(uploader._storage), "put", checked_put)
        sweep_dir.ledger_file.write_bytes(b"".join(LINES[:4]))
        uploader.delete_trial_files("abc", ("last.pth",))
    assert not (folder / "last.pth").exists()
    assert (bucket_folder / sweep_dir.sweep_id / "ledger.log").read_bytes() == b"".join(LINES[:4])


def test_the_record_of_a_failure_on_another_machine_is_downloaded(sent, bucket_folder):
    failure_file = bucket_folder / sent.sweep_id / "trials" / "abc" / "failure.json"
    failure_file.parent.mkdir(parents=True)
    failure_file.write_text(json.dumps({"cause": "NaN", "disk_full": False}))
    download_failure(sent, "abc")
    assert sent.read_failure("abc").cause == "NaN"
    download_failure(sent, "other")
    assert sent.read_failure("other") is None


def test_a_removed_sweep_is_gone_from_the_storage_except_for_its_export(sent, bucket_folder):
    exported = bucket_folder / sent.sweep_id / "export" / "model.pth"
    exported.parent.mkdir()
    exported.write_bytes(b"weights")
    delete_remote(sent, keep_export=True)
    files = {path for path in bucket_folder.rglob("*") if path.is_file()}
    assert files == {exported}
    delete_remote(sent)
    assert not exported.exists()
    assert list((bucket_folder / INDEX).iterdir()) == []


def test_names_that_lead_out_of_the_folder_are_not_downloaded(sent, tmp_path, uri, bucket_folder):
    for folder in (bucket_folder / sent.sweep_id / "trials" / "..hidden", bucket_folder / INDEX / "deep"):
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text('{"epoch": 1, "reports": [], "files": {"last.pth": 1}}')
    there = _elsewhere(tmp_path)
    there.path.mkdir(parents=True)
    there.write(there.spec_file, sent.read(sent.spec_file))
    download_sweep(there)
    assert list(there.trials_folder.iterdir()) == []
    assert download_all(uri, there.path.parent) == [sent.sweep_id]
