"""A sweep brought from a storage: which ledger is right, and what is brought."""

import json

import pytest

from toprung.catalog import every
from toprung.directory import SweepDirectory
from toprung.errors import UserError
from toprung.spec import Sweep
from toprung.storage import bring_failure, discard, fetch_all, is_kept_in, kept_up, lease, local_root, refresh
from toprung.storage.sweeps import INDEX

LINES = [b'{"op_code": %d}\n' % number for number in range(6)]


@pytest.fixture
def uri(bucket_folder):
    return f"file://{bucket_folder}"


@pytest.fixture
def made(tmp_path, uri):
    """A sweep's directory that is kept at `uri`, not yet sent."""
    made = SweepDirectory(tmp_path / "here" / "runs" / "mine-20260101-000000")
    made.trials_folder.mkdir(parents=True)
    made.code_folder.mkdir()
    (made.code_folder / "loop.py").write_text("pass\n")
    sweep = Sweep(name="mine", trainer="trainers.convnet", space="search_spaces.convnet", storage=uri)
    made.write(made.spec_file, {"name": None, "spec": sweep.model_dump(mode="json")})
    made.write(made.status_file, {"status": "running"})
    made.ledger_file.write_bytes(b"".join(LINES[:3]))
    return made


@pytest.fixture
def sent(made):
    with kept_up(made) as copy:
        assert copy.undelivered is None
    assert copy.undelivered is None
    return made


def _elsewhere(tmp_path):
    return SweepDirectory(tmp_path / "there" / "runs" / "mine-20260101-000000")


def test_a_folder_is_no_copy(tmp_path, made):
    spec = made.spec().model_copy(update={"storage": "runs"})
    made.write(made.spec_file, {"spec": spec.model_dump(mode="json")})
    with kept_up(made) as copy:
        assert copy is None
    refresh(made)
    discard(made)
    assert local_root(tmp_path, "mine") == tmp_path / "mine"
    assert made.path.is_dir()


def test_a_sweep_is_brought_to_an_empty_machine(sent, tmp_path, uri, bucket_folder):
    there = _elsewhere(tmp_path)
    assert fetch_all(uri, there.path.parent) == [sent.sweep_id]
    assert [each.sweep_id for each in every(there.path.parent)] == [sent.sweep_id]
    assert there.spec() == sent.spec()
    assert (there.code_folder / "loop.py").read_text() == "pass\n"
    assert there.ledger_file.read_bytes() == sent.ledger_file.read_bytes()
    assert is_kept_in(there, uri)
    assert not is_kept_in(there, f"{uri}/other")
    assert not (bucket_folder / sent.sweep_id / lease.LEASE_FILE).exists()


def test_a_torn_line_of_the_ledger_is_not_sent(made, bucket_folder):
    made.ledger_file.write_bytes(b"".join(LINES[:3]) + b'{"op_co')
    with kept_up(made):
        pass
    assert (bucket_folder / made.sweep_id / "ledger.log").read_bytes() == b"".join(LINES[:3])


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
    refresh(there)
    assert there.ledger_file.read_bytes() == b"".join(right)
    assert there.read(there.status_file)["status"] == status
    aside = list(there.path.glob("ledger.log.*"))
    assert [path.read_bytes() for path in aside] == ([b"".join(here)] if LINES[5] in here else [])


def test_a_driver_here_is_not_disturbed_and_one_elsewhere_is_respected(made, tmp_path, monkeypatch):
    with kept_up(made), made.lock():
        made.ledger_file.write_bytes(b"")
        refresh(made)
        assert made.ledger_file.read_bytes() == b""
        with pytest.raises(UserError, match=rf"^{made.sweep_id} is running on \S+ \(pid \d+, heard of \d+ s ago\)"):
            kept_up(made).__enter__()


def test_a_driver_that_was_replaced_stops_and_sends_nothing_more(made, bucket_folder, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.0)
    monkeypatch.setattr("toprung.storage.sweeps.LOOK_SECONDS", 0.05)
    other = lease.Holder("another", "another", "another", 1, 0.0)
    lease_file = bucket_folder / made.sweep_id / lease.LEASE_FILE
    with kept_up(made) as copy:
        while json.loads(lease_file.read_text())["key"] != "another":
            aside = lease_file.with_name("aside")
            aside.write_text(json.dumps(vars(other)))
            aside.replace(lease_file)
        copy._thread.join(timeout=30)
        assert made.stop_file.exists()
        made.ledger_file.write_bytes(b"".join(LINES))
    assert copy.undelivered == "another driver has taken the sweep over"
    assert (bucket_folder / made.sweep_id / "ledger.log").read_bytes() == b"".join(LINES[:3])
    assert json.loads(lease_file.read_text())["key"] == "another"


def test_what_an_earlier_drivers_trials_saved_is_sent_at_the_end_where_the_storage_is_away(
    made, bucket_folder, monkeypatch, caplog
):
    monkeypatch.setattr("toprung.storage.sweeps.LAST_TRY_SECONDS", 0.0)
    trial = made.trial_folder("abc")
    trial.mkdir(parents=True)
    (trial / "last.pth").write_bytes(b"weights")
    sent, elsewhere = bucket_folder / made.sweep_id / "trials", bucket_folder / "elsewhere"
    with kept_up(made) as copy:
        sent.write_bytes(b"no folder")  # where one is needed
        copy.deliver_trials_before()
        assert "what trials have saved is sent at the end: " in caplog.text
        sent.rename(elsewhere)
    assert (sent / "abc" / "last.pth").read_bytes() == b"weights"


def test_a_losers_files_go_only_after_the_ledger_that_says_so(made, bucket_folder, monkeypatch):
    folder = bucket_folder / made.sweep_id / "trials" / "abc"
    folder.mkdir(parents=True)
    (folder / "last.pth").write_bytes(b"weights")
    with kept_up(made) as copy:
        put = copy._storage.put

        def seen(storage, name, content):
            if name.endswith("ledger.log"):
                assert (folder / "last.pth").exists()
            put(name, content)

        monkeypatch.setattr(type(copy._storage), "put", seen)
        made.ledger_file.write_bytes(b"".join(LINES[:4]))
        copy.forget("abc", ("last.pth",))
    assert not (folder / "last.pth").exists()
    assert (bucket_folder / made.sweep_id / "ledger.log").read_bytes() == b"".join(LINES[:4])


def test_why_a_trial_failed_on_another_machine_is_brought(sent, bucket_folder):
    told = bucket_folder / sent.sweep_id / "trials" / "abc" / "failure.json"
    told.parent.mkdir(parents=True)
    told.write_text(json.dumps({"cause": "NaN", "disk_full": False}))
    bring_failure(sent, "abc")
    assert sent.failure_of("abc").cause == "NaN"
    bring_failure(sent, "other")
    assert sent.failure_of("other") is None


def test_what_is_removed_is_gone_from_the_storage_but_for_its_export(sent, bucket_folder):
    exported = bucket_folder / sent.sweep_id / "export" / "model.pth"
    exported.parent.mkdir()
    exported.write_bytes(b"weights")
    discard(sent, keep_export=True)
    files = {path for path in bucket_folder.rglob("*") if path.is_file()}
    assert files == {exported}
    discard(sent)
    assert not exported.exists()
    assert list((bucket_folder / INDEX).iterdir()) == []


def test_names_that_lead_out_of_the_folder_are_not_brought(sent, tmp_path, uri, bucket_folder):
    for folder in (bucket_folder / sent.sweep_id / "trials" / "..hidden", bucket_folder / INDEX / "deep"):
        folder.mkdir(parents=True)
        (folder / "saved.json").write_text('{"epoch": 1, "reports": [], "files": {"last.pth": 1}}')
    there = _elsewhere(tmp_path)
    there.path.mkdir(parents=True)
    there.write(there.spec_file, sent.read(sent.spec_file))
    refresh(there)
    assert list(there.trials_folder.iterdir()) == []
    assert fetch_all(uri, there.path.parent) == [sent.sweep_id]
