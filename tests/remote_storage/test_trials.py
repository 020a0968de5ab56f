"""A trial's files: uploaded after each epoch, and downloaded if they are from a later epoch than the local ones."""

import json
import shutil
import threading

import pytest

from tests.servers import wait_until
from toprung.records.sweep_dir import SweepDirectory
from toprung.records.trial_folder import CONFIG_FILE, FAILURE_FILE, LAST_FILE, WEIGHTS_FILE, WEIGHTS_META_FILE
from toprung.remote_storage import RemoteLocation, TrialSync, open_storage, trials, uploads
from toprung.remote_storage.uploads import MANIFEST_FILE, UNAVAILABLE_AFTER, UploadManifest, has_pending_upload


@pytest.fixture
def driver_machine(tmp_path):
    """A sweep's directory on the driver's machine."""
    sweep_dir = SweepDirectory(tmp_path / "home" / "sweep")
    sweep_dir.path.mkdir(parents=True)
    sweep_dir.spec_file.write_text("{}")
    return sweep_dir


@pytest.fixture
def other_machine(tmp_path, monkeypatch):
    """The same sweep on a machine that does not have its directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return SweepDirectory(tmp_path / "nowhere" / "sweep")


def _epoch(sync, epoch, **files):
    """Save an epoch as a trial does, then report it; return the epochs that are reported to the driver."""
    sync.folder.mkdir(parents=True, exist_ok=True)
    for name, content in {CONFIG_FILE: "{}", LAST_FILE: f"epoch {epoch}", **files}.items():
        staging = sync.folder / ".staging"
        staging.write_text(content)
        staging.replace(sync.folder / name)
    return [report["epoch"] for report in sync.upload_checkpoint({"epoch": epoch, "val/accuracy": epoch / 10})]


def _sync(uri, directory, *, rungs=(1, 3), trial_id="abc"):
    return TrialSync(RemoteLocation(uri, "sweep", rungs), sweep_dir=directory, trial_id=trial_id)


def test_at_a_rung_an_epoch_is_uploaded_before_it_is_reported(location, driver_machine):
    uri = location.new_uri()
    sync, storage = _sync(uri, driver_machine), open_storage(uri)
    sync.download(local_epoch=0)
    assert _epoch(sync, 1, **{WEIGHTS_FILE: "weights", WEIGHTS_META_FILE: "about"}) == [1]
    assert storage.get("sweep/trials/abc/last.pth") == b"epoch 1"
    assert storage.get("sweep/trials/abc/model.pth") == b"weights"
    manifest = UploadManifest.read(storage.get(f"sweep/trials/abc/{MANIFEST_FILE}"))
    assert (manifest.epoch, manifest.files[LAST_FILE]) == (1, len("epoch 1"))
    assert not has_pending_upload(sync.folder)
    (sync.folder / WEIGHTS_FILE).write_text("others")
    assert has_pending_upload(sync.folder)


def test_a_trial_continues_on_another_machine_from_the_storage_alone(location, driver_machine, other_machine):
    uri = location.new_uri()
    sync = _sync(uri, driver_machine)
    for epoch in (1, 2, 3):
        _epoch(sync, epoch)
    wait_until(lambda: not has_pending_upload(sync.folder), "the upload")
    shutil.rmtree(driver_machine.path)
    other = _sync(uri, other_machine)
    assert "cache" in other.folder.parts
    other.download(local_epoch=0)
    assert (other.folder / LAST_FILE).read_text() == "epoch 3"
    assert _epoch(other, 3) == [1, 2, 3]  # the driver that received the earlier reports may be lost
    assert _epoch(other, 4) == [4]


def test_local_files_stay_if_the_storage_has_no_later_epoch(location, driver_machine):
    uri = location.new_uri()
    _epoch(_sync(uri, driver_machine), 1)
    again = _sync(uri, driver_machine)
    (again.folder / LAST_FILE).write_text("epoch 2, not uploaded")
    again.download(local_epoch=2)
    assert (again.folder / LAST_FILE).read_text() == "epoch 2, not uploaded"
    assert _epoch(again, 3) == [1, 3]


def test_training_does_not_wait_for_an_unavailable_storage_and_the_newest_epoch_is_uploaded_later(s3, driver_machine):
    uri = s3.new_uri()
    sync, storage = _sync(uri, driver_machine), open_storage(uri)
    _epoch(sync, 1)
    s3.relay.cut()
    assert _epoch(sync, 2) == [2]
    wait_until(lambda: trials._uploader._num_failures >= UNAVAILABLE_AFTER, "three failures")
    assert _epoch(sync, 3) == [3]  # at a rung
    assert has_pending_upload(sync.folder)
    s3.relay.mend()
    wait_until(lambda: not has_pending_upload(sync.folder), "the upload")
    assert storage.get("sweep/trials/abc/last.pth") == b"epoch 3"
    assert [
        metrics["epoch"] for metrics in UploadManifest.read(storage.get(f"sweep/trials/abc/{MANIFEST_FILE}")).reports
    ] == [1, 2, 3]


@pytest.mark.parametrize(
    "known",
    [
        pytest.param({"earlier_trials": frozenset({"abc"})}, id="started by an earlier driver"),
        pytest.param({"on_a_cluster": True}, id="may have run on a lost node"),
    ],
)
def test_only_a_trial_that_may_have_a_checkpoint_waits_for_it(known, s3, driver_machine, other_machine):
    uri = s3.new_uri()
    _epoch(_sync(uri, driver_machine), 1)
    s3.relay.cut()
    _sync(uri, other_machine, trial_id="new").download(local_epoch=0)
    old = TrialSync(RemoteLocation(uri, "sweep", (1, 3), **known), sweep_dir=other_machine, trial_id="abc")
    waiting = threading.Thread(target=old.download, kwargs={"local_epoch": 0})
    waiting.start()
    waiting.join(timeout=2)
    assert waiting.is_alive()
    s3.relay.mend()
    waiting.join(timeout=60)
    assert (old.folder / LAST_FILE).read_text() == "epoch 1"


def test_a_trial_starts_over_if_its_checkpoint_cannot_be_downloaded(s3, other_machine, monkeypatch, caplog):
    monkeypatch.setattr(trials, "WAIT_FOR_CHECKPOINT_SECONDS", 0.0)
    old = TrialSync(
        RemoteLocation(s3.new_uri(), "sweep", (1,), frozenset({"abc"})), sweep_dir=other_machine, trial_id="abc"
    )
    s3.relay.cut()
    old.download(local_epoch=0)
    assert "trial abc uses its local files of epoch 0: it cannot be reached" in caplog.text


def test_the_files_of_one_epoch_are_uploaded_even_if_the_next_epoch_is_saved_first(driver_machine, bucket_folder):
    sync = _sync(f"file://{bucket_folder}", driver_machine, rungs=())
    _epoch(sync, 1, **{WEIGHTS_FILE: "weights 1"})
    sync.wait_for_uploads()
    (sync.folder / LAST_FILE).write_text("epoch 1")
    upload = trials.CheckpointUpload.from_folder(
        sync.folder, UploadManifest(1), name="sweep/trials/abc/", trial_id="abc"
    )
    for name in (LAST_FILE, WEIGHTS_FILE):
        (sync.folder / ".staging").write_text("the next epoch's")
        (sync.folder / ".staging").replace(sync.folder / name)
    upload.upload(open_storage(f"file://{bucket_folder}"))
    upload.close()
    assert (bucket_folder / "sweep/trials/abc/last.pth").read_text() == "epoch 1"
    assert (bucket_folder / "sweep/trials/abc/model.pth").read_text() == "weights 1"
    assert has_pending_upload(sync.folder)


def test_a_failure_is_uploaded_and_removed_when_the_trial_continues(driver_machine, bucket_folder):
    sync = _sync(f"file://{bucket_folder}", driver_machine)
    _epoch(sync, 1)
    (sync.folder / FAILURE_FILE).write_text(json.dumps({"cause": "NaN"}))
    sync.upload_failure()
    failure_file = bucket_folder / "sweep/trials/abc" / FAILURE_FILE
    assert json.loads(failure_file.read_text()) == {"cause": "NaN"}
    (sync.folder / FAILURE_FILE).unlink()
    _epoch(sync, 3)
    assert not failure_file.exists()


def test_the_previous_trials_folder_is_removed_from_another_machine_once_it_is_uploaded(other_machine, bucket_folder):
    uri = f"file://{bucket_folder}"
    first = _sync(uri, other_machine, trial_id="first")
    _epoch(first, 1)
    second = _sync(uri, other_machine, trial_id="second")
    assert not first.folder.exists()
    _epoch(second, 1)
    (second.folder / LAST_FILE).write_text("not uploaded yet")
    _sync(uri, other_machine, trial_id="third")
    assert second.folder.exists()


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1]", b'{"epoch": 1}'])
def test_a_manifest_that_cannot_be_parsed_is_empty(content):
    assert UploadManifest.read(content) == UploadManifest()


def test_an_error_during_an_upload_does_not_end_the_thread():
    class FailingUpload:
        trial_id, errors = "abc", [ValueError("an error")]

        def upload(self, storage):
            if self.errors:
                raise self.errors.pop()

        def close(self):
            self.errors = None

    upload, uploader = FailingUpload(), uploads.Uploader()
    uploader.enqueue(upload, None)
    uploader.wait_for_uploads(None, "abc", timeout_seconds=60)
    assert upload.errors is None
