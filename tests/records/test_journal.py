"""The study's storage: a ledger after a crash or power cut, or on a full disk, and a database instead of a file."""

import contextlib
import errno
import os
import re
import resource
import sqlite3
import subprocess
import threading
from datetime import datetime

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from toprung.errors import UserError
from toprung.records import catalog, journal, ledger, study_storage
from toprung.records.journal import batched_writes, cut_torn_tail
from toprung.records.study_storage import (
    BALLAST_BYTES,
    ENVIRONMENT,
    storage_for_reading,
    storage_for_writing,
    study_failure,
)
from toprung.records.trial_record import End
from toprung.spec import Sweep

SWEEP = Sweep(name="some", trainer="trainers.convnet", space="search_spaces.convnet")


@pytest.fixture(autouse=True)
def quiet():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture
def sweep_dir(tmp_path):
    return catalog.create_sweep(tmp_path, SWEEP, name=None, now=datetime.now())


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 6 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", folder], check=False, capture_output=True, text=True
    )
    if mount.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def _study(sweep_dir, storage=None):
    return optuna.create_study(
        study_name=sweep_dir.sweep_id,
        storage=storage or storage_for_writing(sweep_dir),
        direction="maximize",
        load_if_exists=True,
    )


def _add(study, *, epochs=2):
    trial = study.ask({"lr": optuna.distributions.FloatDistribution(0, 1)})
    ledger.write_start(trial, trial_id=f"t{trial.number}", config={"lr": trial.params["lr"]})
    for epoch in range(1, epochs + 1):
        ledger.write_epoch(trial, epoch=epoch, value=epoch / 10, metrics={"val/accuracy": epoch / 10}, time_ms=epoch)
    ledger.write_end(trial, End("finished"))
    study.tell(trial, epochs / 10)


def _fill(disk):
    """Fill a disk to the last byte."""
    with (disk / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(65536)):
            pass
    with (disk / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"\0"):
            pass


def test_optunas_own_backend_reads_a_study_as_it_was_written(sweep_dir):
    study = _study(sweep_dir)
    for _ in range(3):
        _add(study)
    again = optuna.load_study(
        study_name=sweep_dir.sweep_id, storage=JournalStorage(JournalFileBackend(str(sweep_dir.ledger_file)))
    )
    assert again.get_trials() == study.get_trials()
    assert [trial.value for trial in again.get_trials()] == [0.2] * 3
    assert ledger.read(sweep_dir) == ledger.parse_study(study).trials


def test_a_second_writer_continues_where_the_first_one_stopped(sweep_dir):
    _add(_study(sweep_dir))
    _add(_study(sweep_dir))
    assert [record.trial_id for record in ledger.read(sweep_dir)] == ["t0", "t1"]


def test_each_record_is_in_the_file_at_once_and_those_of_a_batch_at_its_end(sweep_dir):
    storage = storage_for_writing(sweep_dir)
    study = _study(sweep_dir, storage)
    before = sweep_dir.ledger_file.stat().st_size
    study.set_user_attr("a", 1)
    size = sweep_dir.ledger_file.stat().st_size
    assert size > before
    with batched_writes(storage):
        study.set_user_attr("b", 2)
        with batched_writes(storage):
            study.set_user_attr("c", 3)
        assert sweep_dir.ledger_file.stat().st_size == size
        assert study.user_attrs == {"a": 1, "b": 2, "c": 3}
    assert sweep_dir.ledger_file.stat().st_size > size
    again = optuna.load_study(study_name=sweep_dir.sweep_id, storage=storage_for_reading(sweep_dir))
    assert again.user_attrs == {"a": 1, "b": 2, "c": 3}


def test_a_batch_is_written_even_if_its_block_raises(sweep_dir):
    storage = storage_for_writing(sweep_dir)
    study = _study(sweep_dir, storage)
    with contextlib.suppress(ZeroDivisionError), batched_writes(storage):
        study.set_user_attr("b", 2)
        raise ZeroDivisionError
    assert optuna.load_study(study_name=sweep_dir.sweep_id, storage=storage_for_reading(sweep_dir)).user_attrs == {
        "b": 2
    }


@pytest.mark.parametrize("cut", [1, 2, 10])
def test_only_an_incomplete_line_is_lost_and_the_next_one_is_not_appended_to_it(sweep_dir, cut):
    _add(_study(sweep_dir))
    content = sweep_dir.ledger_file.read_bytes()
    lines = content.splitlines(keepends=True)
    sweep_dir.ledger_file.write_bytes(content[:-cut])
    assert [record.trial_id for record in ledger.read(sweep_dir)] == ["t0"]  # a reader ignores it
    study = _study(sweep_dir)
    assert sweep_dir.ledger_file.read_bytes().startswith(b"".join(lines[:-1]))
    _add(study)
    assert [record.trial_id for record in ledger.read(sweep_dir)] == ["t0", "t1"]
    assert [trial.state.name for trial in study.get_trials()] == [
        "RUNNING",
        "COMPLETE",
    ]  # the lost line was the end of t0


def test_a_ledger_cut_at_any_byte_of_its_last_line_is_repaired(sweep_dir):
    _add(_study(sweep_dir))
    content = sweep_dir.ledger_file.read_bytes()
    start = content.rstrip(b"\n").rfind(b"\n") + 1
    for end in range(start, len(content)):
        sweep_dir.ledger_file.write_bytes(content[:end])
        assert cut_torn_tail(sweep_dir.ledger_file) == end - start
        assert sweep_dir.ledger_file.read_bytes() == content[:start]


@pytest.mark.parametrize("zeros", [b"\0" * 100, b"\0" * 100 + b"\n"])
def test_zeros_after_a_power_cut_are_cut_off(sweep_dir, zeros):
    _add(_study(sweep_dir))
    content = sweep_dir.ledger_file.read_bytes()
    sweep_dir.ledger_file.write_bytes(content + zeros)
    _add(_study(sweep_dir))
    assert sweep_dir.ledger_file.read_bytes().startswith(content)
    assert [record.trial_id for record in ledger.read(sweep_dir)] == ["t0", "t1"]


def test_a_complete_ledger_and_an_empty_one_are_not_changed(sweep_dir):
    sweep_dir.ledger_file.write_bytes(b"")
    assert cut_torn_tail(sweep_dir.ledger_file) == 0
    _add(_study(sweep_dir))
    content = sweep_dir.ledger_file.read_bytes()
    assert cut_torn_tail(sweep_dir.ledger_file) == 0
    assert sweep_dir.ledger_file.read_bytes() == content


@pytest.mark.parametrize("line", [1, -3, -2])
@pytest.mark.parametrize("damage", [b"\0\0\0\0\n", b'{"op_code": 8, "wor\n', b"[1]\n"])
def test_damage_before_the_last_line_is_an_error_and_nothing_is_changed(sweep_dir, line, damage):
    _add(_study(sweep_dir))
    lines = sweep_dir.ledger_file.read_bytes().splitlines(keepends=True)
    lines[line] = damage
    sweep_dir.ledger_file.write_bytes(b"".join(lines))
    for read in (storage_for_writing, ledger.read):
        with pytest.raises(UserError, match=r"^The ledger .*ledger\.log cannot be read: .*Restore it") as caught:
            read(sweep_dir)
        assert "\n" not in str(caught.value)
    assert sweep_dir.ledger_file.read_bytes() == b"".join(lines)


def test_two_damaged_lines_at_the_end_are_an_error(sweep_dir):
    _add(_study(sweep_dir))
    content = sweep_dir.ledger_file.read_bytes() + b"\0\0\n\0\0\n"
    sweep_dir.ledger_file.write_bytes(content)
    with pytest.raises(UserError, match=r"is damaged before its last line\. Restore it from a backup\.$"):
        storage_for_writing(sweep_dir)
    assert sweep_dir.ledger_file.read_bytes() == content


def test_the_lock_of_a_killed_writer_is_removed_at_once(sweep_dir):
    _add(_study(sweep_dir))
    os.symlink(sweep_dir.ledger_file, f"{sweep_dir.ledger_file}.lock")  # like Optuna's own lock
    _add(_study(sweep_dir))
    assert [record.trial_id for record in ledger.read(sweep_dir)] == ["t0", "t1"]
    assert not os.path.lexists(f"{sweep_dir.ledger_file}.lock")


def test_a_ledger_writer_cannot_be_pickled_into_another_process(sweep_dir):
    storage = storage_for_writing(sweep_dir)
    with pytest.raises(TypeError, match="one writer"):
        storage._backend.__getstate__()


def test_the_waiting_trials_are_those_of_optunas_own_storage(sweep_dir, monkeypatch):
    study = _study(sweep_dir)
    study.enqueue_trial({"lr": 0.1})
    assert study.ask().suggest_float("lr", 0, 1) == 0.1
    assert study.ask().suggest_float("lr", 0, 1) != 0.1
    for lr in (0.2, 0.3):
        study.enqueue_trial({"lr": lr})
    states = (optuna.trial.TrialState.WAITING,)
    plain = optuna.load_study(
        study_name=sweep_dir.sweep_id, storage=JournalStorage(JournalFileBackend(str(sweep_dir.ledger_file)))
    )
    for deepcopy in (True, False):
        waiting = study.get_trials(deepcopy=deepcopy, states=states)
        assert (
            [trial.number for trial in waiting] == [trial.number for trial in plain.get_trials(states=states)] == [2, 3]
        )
    again = _study(sweep_dir, storage_for_writing(sweep_dir))  # a driver that resumes finds them in the file
    assert [again.ask().suggest_float("lr", 0, 1) for _ in range(2)] == [0.2, 0.3]
    assert not again.get_trials(states=states)


def test_asking_for_a_trial_does_not_look_at_the_ended_ones(sweep_dir, monkeypatch):
    """`Study.ask` gives these states to the storage; this test fails if a new Optuna asks in another way."""
    study, calls = _study(sweep_dir), []
    study.ask()
    full = JournalStorage.get_all_trials
    monkeypatch.setattr(
        JournalStorage,
        "get_all_trials",
        lambda self, *args, **kwargs: calls.append(args) or full(self, *args, **kwargs),
    )
    study.ask()
    assert calls == []


def test_on_a_full_disk_the_last_lines_are_written_into_the_space_of_the_ballast(small_disk):
    sweep_dir = catalog.create_sweep(small_disk, SWEEP, name=None, now=datetime.now())
    study = _study(sweep_dir)
    assert sweep_dir.ballast_file.stat().st_size == BALLAST_BYTES
    _add(study)
    _fill(small_disk)
    for _ in range(20):  # more than fits into the rest of the file's last page
        _add(study, epochs=9)
    assert not sweep_dir.ballast_file.exists()
    assert len(ledger.read(sweep_dir)) == 21
    assert cut_torn_tail(sweep_dir.ledger_file) == 0


def test_a_disk_that_stays_full_loses_the_new_line_but_damages_nothing(small_disk):
    sweep_dir = catalog.create_sweep(small_disk, SWEEP, name=None, now=datetime.now())
    study = _study(sweep_dir)
    _add(study)
    sweep_dir.ballast_file.unlink()
    _fill(small_disk)
    with pytest.raises(OSError, match="No space left"):
        study.set_user_attr("much", "x" * 100_000)
    assert cut_torn_tail(sweep_dir.ledger_file) == 0  # no incomplete line is left
    assert [record.trial_id for record in ledger.read(sweep_dir)] == ["t0"]
    (small_disk / "filler").unlink()
    study.set_user_attr("last", 1)
    again = optuna.load_study(study_name=sweep_dir.sweep_id, storage=storage_for_reading(sweep_dir))
    assert again.user_attrs == study.user_attrs
    assert again.user_attrs["last"] == 1


def test_a_write_that_fails_for_a_moment_is_retried_and_no_line_is_torn(sweep_dir):
    """A limit on file sizes simulates the failure: until it is lifted, only part of a line can be written."""
    study = _study(sweep_dir)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit = sweep_dir.ledger_file.stat().st_size + 20
    lift = threading.Timer(1.5, resource.setrlimit, [resource.RLIMIT_FSIZE, (soft, hard)])
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    lift.start()
    try:
        study.set_user_attr("word", "x" * 200)
    finally:
        lift.join()
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert cut_torn_tail(sweep_dir.ledger_file) == 0
    assert optuna.load_study(study_name=study.study_name, storage=storage_for_reading(sweep_dir)).user_attrs == {
        "word": "x" * 200
    }


def test_a_ledger_can_be_opened_on_a_disk_too_full_for_the_ballast(small_disk):
    sweep_dir = catalog.create_sweep(small_disk, SWEEP, name=None, now=datetime.now())
    _add(_study(sweep_dir))
    sweep_dir.ballast_file.unlink()
    _fill(small_disk)
    storage_for_writing(sweep_dir)
    assert [record.trial_id for record in ledger.read(sweep_dir)] == ["t0"]


def test_a_sweep_without_a_ledger_has_no_storage_to_read(sweep_dir, monkeypatch):
    assert storage_for_reading(sweep_dir) is None
    monkeypatch.setenv(ENVIRONMENT, f"sqlite:///{sweep_dir.path}/study.db")
    assert storage_for_reading(sweep_dir) is not None


def test_a_study_stays_where_it_began_even_if_the_environment_changes(sweep_dir, tmp_path, monkeypatch):
    _add(_study(sweep_dir))
    monkeypatch.setenv(ENVIRONMENT, f"sqlite:///{tmp_path}/study.db")
    _add(_study(sweep_dir))
    assert [record.trial_id for record in ledger.read(sweep_dir)] == ["t0", "t1"]
    assert not (tmp_path / "study.db").exists()
    in_database = catalog.create_sweep(tmp_path, SWEEP, name=None, now=datetime.now())
    _add(_study(in_database))
    assert [record.trial_id for record in ledger.read(in_database)] == ["t0"]
    monkeypatch.delenv(ENVIRONMENT)
    for open_storage in (storage_for_writing, storage_for_reading):
        with pytest.raises(UserError, match=rf"^The study of .* is in a database .*export {ENVIRONMENT}=\.\.\.$"):
            open_storage(in_database)
    assert not in_database.ledger_file.exists()
    assert (sweep_dir.study_location, in_database.study_location) == (
        str(sweep_dir.ledger_file),
        f"sqlite:///{tmp_path}/study.db",
    )


def test_the_error_for_an_unusable_database_is_one_line_without_its_password(sweep_dir, monkeypatch):
    for uri in ("postgresql+psycopg2://me:canary@127.0.0.1:9/x", "canary", "nosuch://me:canary@host/x"):
        monkeypatch.setenv(ENVIRONMENT, uri)
        with pytest.raises(UserError, match=rf"^The study's database \({ENVIRONMENT}\) cannot be used: ") as caught:
            storage_for_writing(sweep_dir)
        assert "canary" not in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("password", ["se@cret", "se/cr@et"])
def test_a_password_that_breaks_the_url_is_refused_and_not_shown(sweep_dir, monkeypatch, password):
    monkeypatch.setenv(ENVIRONMENT, f"postgresql+psycopg2://toprung:{password}@127.0.0.1:1/studies")
    with pytest.raises(UserError) as refused:
        storage_for_writing(sweep_dir)
    assert not {"se", "cret", "cr", "et"} & set(re.split(r"\W+", str(refused.value)))


@pytest.fixture
def locked(tmp_path):
    """A study in a SQLite file, and a connection that can lock it."""
    file = tmp_path / "studies.db"
    connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    yield f"sqlite:///{file}", connection
    connection.close()


def test_a_locked_sqlite_study_is_retried_for_as_long_as_a_ledger_file(sweep_dir, locked, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, locked[0])
    with storage_for_writing(sweep_dir).engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 1000 * journal.RETRY_SECONDS


def test_a_sqlite_study_that_stays_locked_is_described_in_one_line(sweep_dir, locked, monkeypatch):
    uri, connection = locked
    monkeypatch.setenv(ENVIRONMENT, uri)
    monkeypatch.setattr(study_storage, "RETRY_SECONDS", 0)
    study = _study(sweep_dir)
    connection.execute("BEGIN EXCLUSIVE")
    with pytest.raises(optuna.exceptions.StorageInternalError) as caught:
        study.ask()
    reason = "its database (TOPRUNG_STUDY_URI) fails (database is locked)"
    assert study_failure(caught.value) == reason
    with pytest.raises(UserError, match="database is locked") as caught:
        ledger.read(sweep_dir)
    assert "\n" not in str(caught.value)
    assert study_failure(caught.value) == reason


def test_the_url_can_set_another_timeout(sweep_dir, locked, monkeypatch):
    uri, connection = locked
    monkeypatch.setenv(ENVIRONMENT, f"{uri}?timeout=0.1")
    study = _study(sweep_dir)
    connection.execute("BEGIN EXCLUSIVE")
    with pytest.raises(optuna.exceptions.StorageInternalError):
        study.ask()


def test_a_ledger_file_that_cannot_be_written_is_described_in_one_line(sweep_dir, monkeypatch):
    study = _study(sweep_dir)
    monkeypatch.setattr(journal, "RETRY_SECONDS", 0)

    def fail(file, data):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(journal.os, "write", fail)
    with pytest.raises(OSError, match="Input/output error") as caught:
        study.ask()
    monkeypatch.undo()
    assert study_failure(caught.value) == f"{sweep_dir.ledger_file} cannot be written (Input/output error)"


def test_other_errors_are_not_failures_of_the_study():
    assert study_failure(OSError(errno.ENOSPC, "No space left on device")) is None
    assert study_failure(ValueError("x")) is None
