"""The ledger: records of trials and drivers are read as they were written, and events list them in order."""

from datetime import datetime

import optuna
import pytest

from toprung.analysis.events import list_events
from toprung.errors import UserError
from toprung.records import catalog, ledger
from toprung.records.study_storage import ENVIRONMENT, storage_for_writing
from toprung.records.trial_record import Attempt, End, Epoch, TrialRecord
from toprung.spec import Sweep
from toprung.sweep import resume_checks

SWEEP = Sweep(name="some", trainer="trainers.convnet", space="search_spaces.convnet")


@pytest.fixture(autouse=True)
def quiet():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture
def sweep_dir(tmp_path):
    return catalog.create_sweep(tmp_path / "runs", SWEEP, name=None, now=datetime.now())


@pytest.fixture(params=["journal", "database"])
def any_sweep_dir(sweep_dir, tmp_path, request, monkeypatch):
    """A sweep whose study is in its own directory, or in a database."""
    if request.param == "database":
        monkeypatch.setenv(ENVIRONMENT, f"sqlite:///{tmp_path}/study.db")
    return sweep_dir


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets, in milliseconds."""
    now = [1_000_000]
    monkeypatch.setattr(ledger, "now_ms", lambda: now[0])
    return now


def _study(sweep_dir):
    return optuna.create_study(
        study_name=sweep_dir.sweep_id, storage=storage_for_writing(sweep_dir), direction="maximize"
    )


def _report(trial, epoch, value, *, time_ms=0):
    ledger.write_epoch(trial, epoch=epoch, value=value, metrics={"val/accuracy": value, "val/loss": 1}, time_ms=time_ms)


def test_a_sweep_without_a_study_has_no_trials_and_no_driver_runs(any_sweep_dir):
    assert ledger.read_all(any_sweep_dir) == ledger.Ledger([], [])
    storage_for_writing(any_sweep_dir)
    assert ledger.read_all(any_sweep_dir) == ledger.Ledger([], [])


def test_a_trial_is_read_as_it_was_written(any_sweep_dir, clock):
    study = _study(any_sweep_dir)
    trial = study.ask()
    config = {"lr": 0.1, "augment": None, "nesterov": True, "schedule": "cosine", "num_epochs": 9}
    ledger.write_start(trial, trial_id="aa", config=config, is_default=True, continues="bb")
    _report(trial, 1, 0.5, time_ms=1_000_500)
    _report(trial, 2, 0.4, time_ms=1_001_000)
    ledger.write_run_id(study, trial_id="aa", run_id="run")
    clock[0] = 1_003_000
    end = ledger.write_end(trial, End("stopped", rung=2, cause="ASHA: 0.4000, needed 0.5000"))
    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    (record,) = ledger.read(any_sweep_dir)
    assert record == TrialRecord(
        number=0,
        trial_id="aa",
        status="stopped",
        config=config,
        epochs_by_number={
            1: Epoch({"val/accuracy": 0.5, "val/loss": 1}, 1_000_500),
            2: Epoch({"val/accuracy": 0.4, "val/loss": 1}, 1_001_000),
        },
        value=0.5,
        epoch=1,
        started_ms=1_000_000,
        is_default=True,
        continues="bb",
        end=end,
        mlflow_run_id="run",
        optuna_state="PRUNED",
    )
    assert (record.epochs, record.rung, record.seconds, record.is_open) == (2, 2, 3.0, False)


def test_the_time_between_two_drivers_is_not_a_trials_own():
    epochs = {1: Epoch({}, 11_000), 2: Epoch({}, 21_000), 3: Epoch({}, 905_000)}
    attempts = (Attempt("a", "code", 2_000), Attempt("b", "code", 900_000))
    record = TrialRecord(
        0,
        "aa",
        "finished",
        {},
        epochs,
        0.5,
        1,
        started_ms=1_000,
        attempts=attempts,
        end=End("finished", time_ms=906_000),
    )
    assert record.seconds == 20 + 6


def test_an_interrupted_trial_is_open_and_is_running_once_it_is_resumed(sweep_dir, clock):
    trial = _study(sweep_dir).ask()
    ledger.write_start(trial, trial_id="aa", config={})
    ledger.write_end(trial, End("interrupted", cause="stopped by the user"))
    (record,) = ledger.read(sweep_dir)
    assert (record.status, record.is_open, record.cause) == ("interrupted", True, "stopped by the user")
    ledger.write_resumed(trial)
    (record,) = ledger.read(sweep_dir)
    assert (record.status, record.is_open, record.end) == ("running", True, None)


def test_an_epoch_without_its_value_does_not_count(sweep_dir):
    """The driver was killed between the two lines of a report."""
    trial = _study(sweep_dir).ask()
    ledger.write_start(trial, trial_id="aa", config={})
    _report(trial, 1, 0.5)
    trial.set_user_attr("epoch/2", {"metrics": {"val/accuracy": 0.9}, "time_ms": 1})
    (record,) = ledger.read(sweep_dir)
    assert (sorted(record.epochs_by_number), record.epochs, record.value) == ([1], 1, 0.5)


def test_the_nodes_of_all_workers_are_reported_written_and_read(any_sweep_dir):
    trial = _study(any_sweep_dir).ask()
    ledger.write_start(trial, trial_id="aa", config={})
    trial.set_user_attr("attempt/0", {"node": "a", "code": "c", "time_ms": 1})  # by an older version
    attempt = Attempt.from_result(Attempt("b", "c", 2, other_nodes=("d", "b")).result_fields)
    assert attempt is not None
    ledger.write_attempt(trial, attempt)
    (record,) = ledger.read(any_sweep_dir)
    assert [attempt.nodes for attempt in record.attempts] == [("a",), ("b", "d", "b")]
    texts = [event.text for event in list_events(ledger.read_all(any_sweep_dir), metric="val/accuracy", rungs=())]
    assert texts[:2] == ["on node a", "on nodes b, d"]


def test_a_trial_without_a_start_waits_and_has_no_id(sweep_dir):
    study = _study(sweep_dir)
    study.enqueue_trial({"lr": 0.1})
    study.ask()
    study.enqueue_trial({"lr": 0.1})
    assert [(record.trial_id, record.status) for record in ledger.read(sweep_dir)] == [("", "waiting"), ("", "waiting")]


def test_more_than_ten_driver_runs_are_read_in_order(any_sweep_dir, clock):
    study = _study(any_sweep_dir)
    for number in range(12):
        clock[0] += 1000
        ledger.write_driver_run(study, command="resume" if number else "sweep", details={"number": number})
    driver_runs = ledger.read_all(any_sweep_dir).driver_runs
    assert [driver_run.details["number"] for driver_run in driver_runs] == list(range(12))
    assert [driver_run.command for driver_run in driver_runs[:2]] == ["sweep", "resume"]
    assert driver_runs[-1].time_ms - driver_runs[0].time_ms == 11_000


def test_the_time_of_earlier_drivers_excludes_the_pauses_between_them(sweep_dir, clock):
    study = _study(sweep_dir)
    ledger.write_driver_run(study, command="sweep")
    trial = study.ask()
    clock[0] += 2_000
    ledger.write_start(trial, trial_id="aa", config={})
    _report(trial, 1, 0.5, time_ms=clock[0] + 3_000)
    clock[0] += 3_600_000  # an hour later
    ledger.write_driver_run(study, command="resume")
    clock[0] += 4_000
    ledger.write_end(trial, End("finished"))
    clock[0] += 3_600_000
    assert resume_checks.previous_seconds(sweep_dir) == 5 + 4


def test_events_list_the_ledger_in_order(sweep_dir, clock):
    study = _study(sweep_dir)
    ledger.write_driver_run(study, command="sweep", details={"warm_start": "old"})
    first, second = study.ask(), study.ask()
    clock[0] = 1_000_100
    ledger.write_start(first, trial_id="aa", config={})
    clock[0] = 1_000_200
    ledger.write_start(second, trial_id="bb", config={}, continues="zz")
    _report(second, 1, 0.25, time_ms=1_000_300)
    _report(first, 1, 0.5, time_ms=1_000_400)
    _report(first, 2, 0.6, time_ms=1_000_600)
    clock[0] = 1_000_500
    ledger.write_end(second, End("stopped", rung=1, cause="ASHA: 0.2500, needed 0.5000"))
    study.tell(second, state=optuna.trial.TrialState.PRUNED)
    clock[0] = 1_000_700
    ledger.write_end(first, End("failed", cause="its process died"))
    study.tell(first, state=optuna.trial.TrialState.FAIL)
    events = list_events(ledger.read_all(sweep_dir), metric="val/accuracy", rungs=(1, 3))
    assert [(event.time_ms - 1_000_000, event.trial_id, event.what, event.text) for event in events] == [
        (0, None, "sweep", "warm_start old"),
        (100, "aa", "asked", ""),
        (200, "bb", "asked", "continues zz"),
        (300, "bb", "reported", "epoch 1: val/accuracy 0.2500, checkpointed"),
        (400, "aa", "reported", "epoch 1: val/accuracy 0.5000, checkpointed"),
        (400, "aa", "decided", "continues past rung 1"),
        (500, "bb", "decided", "stopped at rung 1: ASHA: 0.2500, needed 0.5000"),
        (500, "bb", "ended", "stopped"),
        (500, "bb", "told", "Optuna: PRUNED"),
        (600, "aa", "reported", "epoch 2: val/accuracy 0.6000, checkpointed"),
        (700, "aa", "ended", "failed: its process died"),
        (700, "aa", "told", "Optuna: FAIL"),
    ]


def test_an_attribute_of_another_program_is_ignored(sweep_dir):
    study = _study(sweep_dir)
    trial = study.ask()
    ledger.write_start(trial, trial_id="aa", config={})
    trial.set_user_attr("note", "written by a user")
    study.set_user_attr("note", "written by a user")
    assert [record.trial_id for record in ledger.read(sweep_dir)] == ["aa"]


def test_the_error_for_an_unreadable_ledger_is_one_line_that_names_it(tmp_path):
    sweep_dir = catalog.create_sweep(tmp_path, SWEEP, name=None, now=datetime.now())
    sweep_dir.ledger_file.write_text("something else\nand more\n")
    with pytest.raises(UserError, match=r"^The ledger .*ledger\.log cannot be read: ") as caught:
        ledger.read(sweep_dir)
    assert "\n" not in str(caught.value)
