"""The rules of a recipe that end a sweep early."""

import subprocess
import sys

import pytest

from toprung.errors import UserError
from toprung.records import ledger
from toprung.records.sweep_dir import SweepDirectory
from toprung.records.trial_record import End, TrialRecord
from toprung.spec import Resources, Stop, Sweep
from toprung.sweep.finish import finish_sweep
from toprung.sweep.progress import SweepProgress
from toprung.sweep.stopping import StopControl, StopRequest, common_failure, triggered_rule

CHECK_RECIPE = """
import sys
from pathlib import Path
from toprung.records.sweep_dir import SweepDirectory
from toprung.sweep.resume_checks import check_recipe_unchanged

sweep_dir = SweepDirectory(Path(sys.argv[1]))
check_recipe_unchanged(Path.cwd(), sweep_dir, sweep_dir.spec())
"""
TINY = ("constants.width=4", "constants.depth=1", "max_train=200")


def _progress(*, mode="max", **rules):
    sweep = Sweep(name="x", trainer="t", space="s", mode=mode, resources=Resources(cpus=2), stop=Stop(**rules))
    return SweepProgress("x-1", sweep, num_concurrent_trials=2)


def _trial(progress, number, *values, ended=True):
    trial_id = f"{number:08d}"
    progress.add(TrialRecord(number, trial_id, "waiting", {}, {}, None, None))
    for epoch, value in enumerate(values, start=1):
        progress.report(trial_id, value, epoch=epoch)
    if ended:
        progress.end(trial_id, End("finished"))


def test_without_rules_none_is_met():
    progress = _progress()
    _trial(progress, 0, 1.0)
    assert triggered_rule(progress) is None


@pytest.mark.parametrize(("mode", "worse", "better"), [("max", 0.8, 0.9), ("min", 0.9, 0.8)])
def test_a_target_ends_the_sweep_once_it_is_reached(mode, worse, better):
    progress = _progress(mode=mode, target=0.85)
    _trial(progress, 0, worse)
    assert triggered_rule(progress) is None
    _trial(progress, 1, worse, better, ended=False)
    assert triggered_rule(progress) == f"target 0.85 reached by trial 1 ({better:.4f})"


def test_a_plateau_counts_trials_that_ended_since_the_best():
    progress = _progress(plateau_trials=2)
    _trial(progress, 0, 0.5)
    _trial(progress, 1, 0.4)
    assert triggered_rule(progress) is None  # trial 0 was itself a new best
    _trial(progress, 2, 0.3)
    assert triggered_rule(progress) == "plateau: 2 trials ended without a new best"
    _trial(progress, 3, 0.6, ended=False)
    assert triggered_rule(progress) is None


def test_the_time_limit_includes_earlier_drivers():
    progress = _progress(seconds=100)
    assert triggered_rule(progress) is None
    progress.previous_seconds = 100
    assert triggered_rule(progress) == "time limit of 100 s reached"


def test_the_cost_is_worker_time_times_the_price_of_its_resources():
    progress = _progress(max_cost=1.0, cpu_price_per_hour=0.5)
    progress.busy_seconds = 3599
    assert triggered_rule(progress) is None
    assert progress.cost == pytest.approx(2 * 0.5 * 3599 / 3600)
    progress.busy_seconds = 3600
    assert triggered_rule(progress) == "cost limit of 1 reached"


def test_the_first_rule_that_is_met_is_named():
    progress = _progress(target=0.5, plateau_trials=1)
    _trial(progress, 0, 0.7)
    _trial(progress, 1, 0.6)
    assert "target" in triggered_rule(progress)


def test_a_cost_without_a_price_is_refused():
    with pytest.raises(UserError, match="max_cost needs cpu_price_per_hour or gpu_price_per_hour"):
        Stop().model_copy(update={"max_cost": 1})


@pytest.fixture(scope="module")
def reached(bench, toprung, sweep_of, tmp_path_factory):
    storage = tmp_path_factory.mktemp("reached")
    settings = [f"storage={storage}", *TINY, "num_trials=40", "max_epochs=9", "stop.target=0.01"]
    flags = [word for setting in settings for word in ("--set", setting)]
    return sweep_of(toprung("sweep", "tune.smoke", *flags, folder=bench), storage)


def test_a_sweep_that_reaches_its_target_is_finished_and_gives_the_reason(reached):
    assert reached.command.code == 0, reached.command.stderr
    assert "Target 0.01 reached by trial " in reached.command.stdout
    assert reached.shown["status"] == "finished"
    assert reached.shown["reason"].startswith("target 0.01 reached by trial ")
    assert len(reached.shown["trials"]) < 40
    assert reached.shown["export_dir"] is not None


def test_trials_that_a_rule_stopped_have_ended_in_all_three_records(reached):
    assert {trial["status"] for trial in reached.shown["trials"]} <= {"finished", "stopped"}
    assert {run.info.status for run in reached.children.values()} <= {"FINISHED", "KILLED"}
    assert set(reached.children) == set(reached.trials)
    stopped = [trial for trial in reached.shown["trials"] if trial["status"] == "stopped" and trial["rung"] is None]
    assert stopped
    for trial in stopped:
        assert reached.children[trial["trial_id"]].data.tags["stop_reason"] == reached.shown["reason"]
    assert reached.parent.info.status == "FINISHED"
    assert reached.parent.data.tags["stop_reason"] == reached.shown["reason"]


def _failed(progress, number, *values, cause="ModuleNotFoundError: No module named 'mylib'"):
    _trial(progress, number, *values, ended=False)
    progress.end(f"{number:08d}", End("failed", cause=cause))


def test_the_first_trials_failing_in_the_same_way_is_a_common_failure():
    progress = _progress()
    for number in range(2):
        _failed(progress, number)
        assert common_failure(progress) is None
    _failed(progress, 2)
    cause = "ModuleNotFoundError: No module named 'mylib'"
    assert common_failure(progress) == f"the first 3 trials all failed in the same way: {cause}"


def test_trials_that_fail_in_different_ways_have_no_common_failure():
    progress = _progress()
    for number, cause in enumerate(["loss is NaN", "KeyError: 'a'", "loss is NaN"]):
        _failed(progress, number, cause=cause)
    assert common_failure(progress) is None


@pytest.mark.parametrize("ended", [True, False])
def test_failures_are_not_common_if_another_trial_got_further(ended):
    progress = _progress()
    _trial(progress, 0, 0.5, ended=ended)
    for number in range(1, 4):
        _failed(progress, number)
    assert common_failure(progress) is None


def test_failures_after_the_same_epoch_are_common_while_other_trials_run():
    progress = _progress()
    _trial(progress, 0, 0.5, ended=False)
    for number in range(1, 4):
        _failed(progress, number, 0.5)
    assert common_failure(progress) is not None


def test_only_failures_under_this_driver_stop_a_resumed_sweep(tmp_path):
    progress, requests = _progress(), []
    for number in range(3):
        _failed(progress, number)
    stopper = StopControl(progress, SweepDirectory(tmp_path), on_request=requests.append)
    assert not stopper.should_stop()
    for number in range(3, 6):
        _failed(progress, number)
    stopper._next_poll = 0
    assert stopper.should_stop()
    assert requests[0].is_fault


def test_an_extension_runs_although_the_rule_that_ended_the_sweep_still_holds(reached, bench, toprung):
    before, sweep_id = len(reached.shown["trials"]), reached.shown["sweep_id"]
    command = toprung("extend", sweep_id, "--trials", "2", "--storage", reached.folder.parent, folder=bench)
    assert command.code == 0, command.stderr
    sweep_dir = SweepDirectory(reached.folder)
    assert len(ledger.read(sweep_dir)) == before + 2
    assert (sweep_dir.spec().stop, sweep_dir.read_status()["reason"]) == (Stop(), None)
    subprocess.run([sys.executable, "-c", CHECK_RECIPE, sweep_dir.path], cwd=bench, check=True)  # it can be resumed


def _ended(number, status, cause=None):
    return TrialRecord(number, f"{number:08d}", status, {}, {}, None, None, end=End(status, cause=cause))


@pytest.mark.parametrize(
    ("statuses", "request_", "expected"),
    [
        (["failed", "failed"], None, ("failed", "every trial failed, 2 of 2 because KeyError")),
        (
            ["failed", "interrupted"],
            StopRequest("stopped by the user"),
            ("stopped", "stopped by the user before a trial reported an epoch"),
        ),
        (
            ["stopped"],
            StopRequest("time limit of 60 s reached", by_rule=True),
            ("stopped", "time limit of 60 s reached before a trial reported an epoch"),
        ),
    ],
)
def test_a_sweep_without_an_epoch_ends_with_its_true_reason(tmp_path, monkeypatch, statuses, request_, expected):
    trials = [
        _ended(number, status, "KeyError" if status == "failed" else None) for number, status in enumerate(statuses)
    ]
    monkeypatch.setattr(ledger, "read", lambda _: trials)
    result = finish_sweep(
        SweepDirectory(tmp_path), sweep=Sweep(name="x", trainer="t", space="s"), stop_request=request_, lineage=None,
        card=None, prepared_root=tmp_path, uploader=None, on_export=pytest.fail,
    )  # fmt: skip
    assert result == expected
