"""Where the study lies: what a crash, a power cut and a full disk do to the ledger, and what is mended or refused."""

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
from toprung.records import catalog, journal, ledger
from toprung.records.journal import batched_writes, cut_torn_tail
from toprung.records.study_storage import (
    BALLAST_BYTES,
    ENVIRONMENT,
    display_uri,
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
        pytest.skip("mounting a tmpfs takes root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", folder], check=False, capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
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
    """Leave no byte."""
    with (disk / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(65536)):
            pass
    with (disk / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"\0"):
            pass


def test_a_study_is_read_back_by_optuna_itself_as_it_was_written(sweep_dir):
    study = _study(sweep_dir)
    for _ in range(3):
        _add(study)
    again = optuna.load_study(
        study_name=sweep_dir.sweep_id, storage=JournalStorage(JournalFileBackend(str(sweep_dir.ledger_file)))
    )
    assert again.get_trials() == study.get_trials()
    assert [trial.value for trial in again.get_trials()] == [0.2] * 3
    assert ledger.read(sweep_dir) == ledger.parse_study(study).trials


def test_a_second_writer_goes_on_where_the_first_left_off(sweep_dir):
    _add(_study(sweep_dir))
    _add(_study(sweep_dir))
    assert [record.trial_id for record in ledger.read(sweep_dir)] == ["t0", "t1"]


def test_every_record_is_in_the_file_when_it_is_written_and_those_that_are_together_at_the_end(sweep_dir):
    storage = storage_for_writing(sweep_dir)
    study = _study(sweep_dir, storage)
    before = sweep_dir.ledger_file.stat().st_size
    study.set_user_attr("a", 1)
    alone = sweep_dir.ledger_file.stat().st_size
    assert alone > before
    with batched_writes(storage):
        study.set_user_attr("b", 2)
        with batched_writes(storage):
            study.set_user_attr("c", 3)
        assert sweep_dir.ledger_file.stat().st_size == alone
        assert study.user_attrs == {"a": 1, "b": 2, "c": 3}
    assert sweep_dir.ledger_file.stat().st_size > alone
    again = optuna.load_study(study_name=sweep_dir.sweep_id, storage=storage_for_reading(sweep_dir))
    assert again.user_attrs == {"a": 1, "b": 2, "c": 3}


def test_what_stands_together_is_written_even_where_the_block_raises(sweep_dir):
    storage = storage_for_writing(sweep_dir)
    study = _study(sweep_dir, storage)
    with contextlib.suppress(ZeroDivisionError), batched_writes(storage):
        study.set_user_attr("b", 2)
        raise ZeroDivisionError
    assert optuna.load_study(study_name=sweep_dir.sweep_id, storage=storage_for_reading(sweep_dir)).user_attrs == {
        "b": 2
    }


@pytest.mark.parametrize("cut", [1, 2, 10])
def test_a_line_cut_anywhere_is_lost_alone_and_the_next_one_does_not_join_it(sweep_dir, cut):
    _add(_study(sweep_dir))
    content = sweep_dir.ledger_file.read_bytes()
    lines = content.splitlines(keepends=True)
    sweep_dir.ledger_file.write_bytes(content[:-cut])
    assert [record.trial_id for record in ledger.read(sweep_dir)] == ["t0"]  # a reader forgives it
    study = _study(sweep_dir)
    assert sweep_dir.ledger_file.read_bytes().startswith(b"".join(lines[:-1]))
    _add(study)
    assert [record.trial_id for record in ledger.read(sweep_dir)] == ["t0", "t1"]
    assert [trial.state.name for trial in study.get_trials()] == ["RUNNING", "COMPLETE"]  # the lost line told the first


def test_a_ledger_cut_at_any_byte_of_its_last_line_can_be_gone_on_with(sweep_dir):
    _add(_study(sweep_dir))
    content = sweep_dir.ledger_file.read_bytes()
    start = content.rstrip(b"\n").rfind(b"\n") + 1
    for end in range(start, len(content)):
        sweep_dir.ledger_file.write_bytes(content[:end])
        assert cut_torn_tail(sweep_dir.ledger_file) == end - start
        assert sweep_dir.ledger_file.read_bytes() == content[:start]


@pytest.mark.parametrize("zeros", [b"\0" * 100, b"\0" * 100 + b"\n"])
def test_zeros_that_a_power_cut_left_at_the_end_are_cut(sweep_dir, zeros):
    _add(_study(sweep_dir))
    content = sweep_dir.ledger_file.read_bytes()
    sweep_dir.ledger_file.write_bytes(content + zeros)
    _add(_study(sweep_dir))
    assert sweep_dir.ledger_file.read_bytes().startswith(content)
    assert [record.trial_id for record in ledger.read(sweep_dir)] == ["t0", "t1"]


def test_a_whole_ledger_and_an_empty_one_are_left_as_they_are(sweep_dir):
    sweep_dir.ledger_file.write_bytes(b"")
    assert cut_torn_tail(sweep_dir.ledger_file) == 0
    _add(_study(sweep_dir))
    content = sweep_dir.ledger_file.read_bytes()
    assert cut_torn_tail(sweep_dir.ledger_file) == 0
    assert sweep_dir.ledger_file.read_bytes() == content


@pytest.mark.parametrize("place", [1, -3, -2])
@pytest.mark.parametrize("damage", [b"\0\0\0\0\n", b'{"op_code": 8, "wor\n', b"[1]\n"])
def test_damage_before_the_last_line_is_refused_in_one_line_and_nothing_is_changed(sweep_dir, place, damage):
    _add(_study(sweep_dir))
    lines = sweep_dir.ledger_file.read_bytes().splitlines(keepends=True)
    lines[place] = damage
    sweep_dir.ledger_file.write_bytes(b"".join(lines))
    for read in (storage_for_writing, ledger.read):
        with pytest.raises(UserError, match=r"^The ledger .*ledger\.log cannot be read: .*Restore it") as caught:
            read(sweep_dir)
        assert "\n" not in str(caught.value)
    assert sweep_dir.ledger_file.read_bytes() == b"".join(lines)


def test_two_damaged_lines_at_the_end_were_no_torn_write(sweep_dir):
    _add(_study(sweep_dir))
    content = sweep_dir.ledger_file.read_bytes() + b"\0\0\n\0\0\n"
    sweep_dir.ledger_file.write_bytes(content)
    with pytest.raises(UserError, match=r"is damaged before its last line\. Restore it from a backup\.$"):
        storage_for_writing(sweep_dir)
    assert sweep_dir.ledger_file.read_bytes() == content


def test_a_lock_that_a_killed_writer_left_behind_is_broken_at_once(sweep_dir):
    _add(_study(sweep_dir))
    os.symlink(sweep_dir.ledger_file, f"{sweep_dir.ledger_file}.lock")  # as Optuna's own lock is
    _add(_study(sweep_dir))
    assert [record.trial_id for record in ledger.read(sweep_dir)] == ["t0", "t1"]
    assert not os.path.lexists(f"{sweep_dir.ledger_file}.lock")


def test_a_ledger_writer_cannot_be_pickled_into_another_process(sweep_dir):
    storage = storage_for_writing(sweep_dir)
    with pytest.raises(TypeError, match="one writer"):
        storage._backend.__getstate__()


def test_the_ballast_lets_the_last_lines_be_written_on_a_full_disk(small_disk):
    sweep_dir = catalog.create_sweep(small_disk, SWEEP, name=None, now=datetime.now())
    study = _study(sweep_dir)
    assert sweep_dir.ballast_file.stat().st_size == BALLAST_BYTES
    _add(study)
    _fill(small_disk)
    for _ in range(20):  # more than what is left in the file's last page
        _add(study, epochs=9)
    assert not sweep_dir.ballast_file.exists()
    assert len(ledger.read(sweep_dir)) == 21
    assert cut_torn_tail(sweep_dir.ledger_file) == 0


def test_a_disk_that_stays_full_loses_what_did_not_fit_but_spoils_nothing(small_disk):
    sweep_dir = catalog.create_sweep(small_disk, SWEEP, name=None, now=datetime.now())
    study = _study(sweep_dir)
    _add(study)
    sweep_dir.ballast_file.unlink()
    _fill(small_disk)
    with pytest.raises(OSError, match="No space left"):
        study.set_user_attr("much", "x" * 100_000)
    assert cut_torn_tail(sweep_dir.ledger_file) == 0  # no half a line stays behind
    assert [record.trial_id for record in ledger.read(sweep_dir)] == ["t0"]
    (small_disk / "filler").unlink()
    study.set_user_attr("last", 1)
    again = optuna.load_study(study_name=sweep_dir.sweep_id, storage=storage_for_reading(sweep_dir))
    assert again.user_attrs == study.user_attrs
    assert again.user_attrs["last"] == 1


def test_storage_that_refuses_for_a_moment_is_waited_for_and_no_line_is_torn(sweep_dir):
    """A limit on the size of files stands for it: part of a line is taken, the rest refused, until it is lifted."""
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


def test_a_disk_too_full_for_the_ballast_can_still_be_read_and_begun_on(small_disk):
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


def test_a_study_stays_where_it_began_whatever_the_environment_says_later(sweep_dir, tmp_path, monkeypatch):
    _add(_study(sweep_dir))
    monkeypatch.setenv(ENVIRONMENT, f"sqlite:///{tmp_path}/study.db")
    _add(_study(sweep_dir))
    assert [record.trial_id for record in ledger.read(sweep_dir)] == ["t0", "t1"]
    assert not (tmp_path / "study.db").exists()
    in_database = catalog.create_sweep(tmp_path, SWEEP, name=None, now=datetime.now())
    _add(_study(in_database))
    assert [record.trial_id for record in ledger.read(in_database)] == ["t0"]
    monkeypatch.delenv(ENVIRONMENT)
    for use in (storage_for_writing, storage_for_reading):
        with pytest.raises(UserError, match=rf"^The study of .* lies in a database .*export {ENVIRONMENT}=\.\.\.$"):
            use(in_database)
    assert not in_database.ledger_file.exists()
    assert (display_uri(sweep_dir), display_uri(in_database)) == (
        str(sweep_dir.ledger_file),
        f"sqlite:///{tmp_path}/study.db",
    )


def test_a_database_that_cannot_be_used_gets_one_line_without_its_password(sweep_dir, monkeypatch):
    for uri in ("postgresql+psycopg2://me:canary@127.0.0.1:9/x", "canary", "nosuch://me:canary@host/x"):
        monkeypatch.setenv(ENVIRONMENT, uri)
        with pytest.raises(UserError, match=rf"^The study's database \({ENVIRONMENT}\) cannot be used: ") as caught:
            storage_for_writing(sweep_dir)
        assert "canary" not in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("password", ["se@cret", "se/cr@et"])
def test_a_password_that_cuts_the_address_is_refused_and_not_shown(sweep_dir, monkeypatch, password):
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


def test_a_locked_sqlite_study_is_waited_for_as_long_as_a_ledger_file(sweep_dir, locked, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, locked[0])
    with storage_for_writing(sweep_dir).engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 1000 * journal.RETRY_SECONDS


def test_a_sqlite_study_that_stays_locked_is_described_in_one_line(sweep_dir, locked, monkeypatch):
    uri, connection = locked
    monkeypatch.setenv(ENVIRONMENT, uri)
    monkeypatch.setattr(journal, "RETRY_SECONDS", 0)
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


def test_a_user_chooses_another_timeout_in_the_url(sweep_dir, locked, monkeypatch):
    uri, connection = locked
    monkeypatch.setenv(ENVIRONMENT, f"{uri}?timeout=0.1")
    study = _study(sweep_dir)
    connection.execute("BEGIN EXCLUSIVE")
    with pytest.raises(optuna.exceptions.StorageInternalError):
        study.ask()


def test_a_ledger_file_that_cannot_be_written_is_described_in_one_line(sweep_dir, monkeypatch):
    study = _study(sweep_dir)
    monkeypatch.setattr(journal, "RETRY_SECONDS", 0)

    def fails(file, data):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(journal.os, "write", fails)
    with pytest.raises(OSError, match="Input/output error") as caught:
        study.ask()
    monkeypatch.undo()
    assert study_failure(caught.value) == f"{sweep_dir.ledger_file} cannot be written (Input/output error)"


def test_other_errors_are_no_failure_of_the_study():
    assert study_failure(OSError(errno.ENOSPC, "No space left on device")) is None
    assert study_failure(ValueError("x")) is None
