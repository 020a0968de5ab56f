"""A trial's files: sent after each epoch, fetched where they are further than what lies here."""

import json
import shutil
import threading

import pytest

from tests.servers import wait_until
from toprung.records.sweep_dir import (
    CONFIG_FILE,
    FAILURE_FILE,
    LAST_FILE,
    WEIGHTS_FILE,
    WEIGHTS_META_FILE,
    SweepDirectory,
)
from toprung.remote_storage import RemoteLocation, TrialSync, open_storage, trials, uploads
from toprung.remote_storage.uploads import MANIFEST_FILE, UNAVAILABLE_AFTER, UploadManifest, has_pending_upload


@pytest.fixture
def home(tmp_path):
    """A sweep's directory on the driver's machine."""
    sweep_dir = SweepDirectory(tmp_path / "home" / "sweep")
    sweep_dir.path.mkdir(parents=True)
    sweep_dir.spec_file.write_text("{}")
    return sweep_dir


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The same on a machine that does not have it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return SweepDirectory(tmp_path / "nowhere" / "sweep")


def _epoch(copy, epoch, **files):
    """Save an epoch as a trial does, then report it; gives what the sweep is told."""
    copy.folder.mkdir(parents=True, exist_ok=True)
    for name, content in {CONFIG_FILE: "{}", LAST_FILE: f"epoch {epoch}", **files}.items():
        staging = copy.folder / ".aside"
        staging.write_text(content)
        staging.replace(copy.folder / name)
    return [told["epoch"] for told in copy.upload_checkpoint({"epoch": epoch, "val/accuracy": epoch / 10})]


def _copy(uri, directory, *, rungs=(1, 3), trial_id="abc"):
    return TrialSync(RemoteLocation(uri, "sweep", rungs), sweep_dir=directory, trial_id=trial_id)


def test_at_a_rung_an_epoch_is_on_the_storage_before_it_is_told(place, home):
    uri = place.new_uri()
    sync, storage = _copy(uri, home), open_storage(uri)
    sync.download(local_epoch=0)
    assert _epoch(sync, 1, **{WEIGHTS_FILE: "weights", WEIGHTS_META_FILE: "about"}) == [1]
    assert storage.get("sweep/trials/abc/last.pth") == b"epoch 1"
    assert storage.get("sweep/trials/abc/model.pth") == b"weights"
    manifest = UploadManifest.read(storage.get(f"sweep/trials/abc/{MANIFEST_FILE}"))
    assert (manifest.epoch, manifest.files[LAST_FILE]) == (1, len("epoch 1"))
    assert not has_pending_upload(sync.folder)
    (sync.folder / WEIGHTS_FILE).write_text("others")
    assert has_pending_upload(sync.folder)


def test_a_trial_goes_on_elsewhere_from_the_storage_alone(place, home, elsewhere):
    uri = place.new_uri()
    sync = _copy(uri, home)
    for epoch in (1, 2, 3):
        _epoch(sync, epoch)
    wait_until(lambda: not has_pending_upload(sync.folder), "the delivery")
    shutil.rmtree(home.path)
    other = _copy(uri, elsewhere)
    assert "cache" in other.folder.parts
    other.download(local_epoch=0)
    assert (other.folder / LAST_FILE).read_text() == "epoch 3"
    assert _epoch(other, 3) == [1, 2, 3]  # a driver may be lost that had heard of some
    assert _epoch(other, 4) == [4]


def test_what_lies_here_stays_where_the_storage_is_no_further(place, home):
    uri = place.new_uri()
    _epoch(_copy(uri, home), 1)
    again = _copy(uri, home)
    (again.folder / LAST_FILE).write_text("epoch 2, which was not sent")
    again.download(local_epoch=2)
    assert (again.folder / LAST_FILE).read_text() == "epoch 2, which was not sent"
    assert _epoch(again, 3) == [1, 3]


def test_training_does_not_wait_for_a_storage_that_is_away_and_the_newest_epoch_arrives(s3, home):
    uri = s3.new_uri()
    sync, storage = _copy(uri, home), open_storage(uri)
    _epoch(sync, 1)
    s3.relay.cut()
    assert _epoch(sync, 2) == [2]
    wait_until(lambda: trials._uploader._num_failures >= UNAVAILABLE_AFTER, "three failures")
    assert _epoch(sync, 3) == [3]  # a rung
    assert has_pending_upload(sync.folder)
    s3.relay.mend()
    wait_until(lambda: not has_pending_upload(sync.folder), "the delivery")
    assert storage.get("sweep/trials/abc/last.pth") == b"epoch 3"
    assert [
        metrics["epoch"] for metrics in UploadManifest.read(storage.get(f"sweep/trials/abc/{MANIFEST_FILE}")).reports
    ] == [1, 2, 3]


@pytest.mark.parametrize(
    "known",
    [
        pytest.param({"earlier_trials": frozenset({"abc"})}, id="begun by an earlier driver"),
        pytest.param({"on_a_cluster": True}, id="maybe begun on a node that was lost"),
    ],
)
def test_a_trial_that_may_have_a_checkpoint_waits_for_it_and_a_new_one_does_not(known, s3, home, elsewhere):
    uri = s3.new_uri()
    _epoch(_copy(uri, home), 1)
    s3.relay.cut()
    _copy(uri, elsewhere, trial_id="new").download(local_epoch=0)
    old = TrialSync(RemoteLocation(uri, "sweep", (1, 3), **known), sweep_dir=elsewhere, trial_id="abc")
    waiting = threading.Thread(target=old.download, kwargs={"local_epoch": 0})
    waiting.start()
    waiting.join(timeout=2)
    assert waiting.is_alive()
    s3.relay.mend()
    waiting.join(timeout=60)
    assert (old.folder / LAST_FILE).read_text() == "epoch 1"


def test_a_trial_begins_anew_where_its_checkpoint_cannot_be_had(s3, elsewhere, monkeypatch, caplog):
    monkeypatch.setattr(trials, "WAIT_FOR_CHECKPOINT_SECONDS", 0.0)
    old = TrialSync(
        RemoteLocation(s3.new_uri(), "sweep", (1,), frozenset({"abc"})), sweep_dir=elsewhere, trial_id="abc"
    )
    s3.relay.cut()
    old.download(local_epoch=0)
    assert "abc goes on with what is here, epoch 0: it cannot be reached" in caplog.text


def test_one_epochs_files_are_sent_together_though_the_next_epoch_is_saved_meanwhile(home, bucket_folder):
    sync = _copy(f"file://{bucket_folder}", home, rungs=())
    _epoch(sync, 1, **{WEIGHTS_FILE: "weights 1"})
    sync.wait_for_uploads()
    (sync.folder / LAST_FILE).write_text("epoch 1")
    upload = trials.CheckpointUpload.from_folder(
        sync.folder, UploadManifest(1), name="sweep/trials/abc/", trial_id="abc"
    )
    for name in (LAST_FILE, WEIGHTS_FILE):
        (sync.folder / ".aside").write_text("the next epoch's")
        (sync.folder / ".aside").replace(sync.folder / name)
    upload.upload(open_storage(f"file://{bucket_folder}"))
    upload.close()
    assert (bucket_folder / "sweep/trials/abc/last.pth").read_text() == "epoch 1"
    assert (bucket_folder / "sweep/trials/abc/model.pth").read_text() == "weights 1"
    assert has_pending_upload(sync.folder)


def test_a_failure_is_told_and_forgotten_when_the_trial_goes_on(home, bucket_folder):
    sync = _copy(f"file://{bucket_folder}", home)
    _epoch(sync, 1)
    (sync.folder / FAILURE_FILE).write_text(json.dumps({"cause": "NaN"}))
    sync.upload_failure()
    told = bucket_folder / "sweep/trials/abc" / FAILURE_FILE
    assert json.loads(told.read_text()) == {"cause": "NaN"}
    (sync.folder / FAILURE_FILE).unlink()
    _epoch(sync, 3)
    assert not told.exists()


def test_away_from_home_the_trial_before_is_removed_once_it_is_sent(elsewhere, bucket_folder):
    uri = f"file://{bucket_folder}"
    first = _copy(uri, elsewhere, trial_id="first")
    _epoch(first, 1)
    second = _copy(uri, elsewhere, trial_id="second")
    assert not first.folder.exists()
    _epoch(second, 1)
    (second.folder / LAST_FILE).write_text("not sent yet")
    _copy(uri, elsewhere, trial_id="third")
    assert second.folder.exists()


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[1]", b'{"epoch": 1}'])
def test_a_foreign_saved_file_says_nothing(content):
    assert UploadManifest.read(content) == UploadManifest()


def test_a_fault_while_sending_does_not_end_the_thread_that_sends():
    class Unsendable:
        trial_id, errors = "abc", [ValueError("a fault")]

        def upload(self, storage):
            if self.errors:
                raise self.errors.pop()

        def close(self):
            self.errors = None

    parcel, sender = Unsendable(), uploads.Uploader()
    sender.enqueue(parcel, None)
    sender.wait_for_uploads(None, "abc", timeout_seconds=60)
    assert parcel.errors is None
