"""Trials that fail in many ways: each is recorded with its cause, and the sweep continues."""

import json
import re

import optuna
from optuna.trial import TrialState

from toprung.records.study_storage import storage_for_reading
from toprung.records.sweep_dir import SweepDirectory

CAUSES = {
    "nan": r"train/loss is (NaN|infinite) in epoch 1",
    "raise": r"KeyError: 'no such thing'",
    "die": r"its process died",
    "silent": r"the loop ended without reporting an epoch",
    "late": r"ValueError: after",
}


def _by_fault(faulty):
    return {trial["config"]["fault"]: trial for trial in faulty.shown["trials"]}


def test_the_sweep_continues_and_finishes(faulty):
    assert (faulty.command.code, faulty.command.stderr) == (0, "")
    assert faulty.shown["status"] == "finished"
    assert "2 to the top rung, 5 failed." in faulty.command.stdout
    assert (faulty.folder / "export" / "model.pth").is_file()
    assert faulty.command.left_behind() == []


def test_each_failed_trial_has_its_cause_in_the_ledger(faulty):
    trials = _by_fault(faulty)
    for fault, cause in CAUSES.items():
        assert trials[fault]["status"] == "failed"
        assert re.fullmatch(cause, trials[fault]["cause"])
    assert (trials["none"]["status"], trials["none"]["epochs"]) == ("finished", 2)


def test_a_trial_whose_loop_returns_early_is_finished(faulty):
    early = _by_fault(faulty)["early"]
    assert (early["status"], early["epochs"], early["cause"]) == ("finished", 1, None)


def test_each_failed_trial_prints_one_line(faulty):
    for fault, cause in CAUSES.items():
        number = _by_fault(faulty)[fault]["number"]
        lines = [line for line in faulty.command.stdout.splitlines() if f" trial {number} failed: " in line]
        assert len(lines) == 1
        assert re.search(rf"failed: {cause} \(.*\)\.( The sweep continues\.)?$", lines[0])
    assert "Traceback" not in faulty.command.stdout


def test_optuna_has_failed_trials_as_fail(faulty):
    storage = storage_for_reading(SweepDirectory(faulty.folder))
    study = optuna.load_study(study_name=faulty.shown["optuna_study"], storage=storage)
    states = {trial.user_attrs["start"]["config"]["fault"]: trial.state for trial in study.get_trials()}
    assert states == {
        **dict.fromkeys(CAUSES, TrialState.FAIL),
        "none": TrialState.COMPLETE,
        "early": TrialState.COMPLETE,
    }


def test_mlflow_has_failed_trials_as_failed_with_their_cause(faulty):
    children = faulty.children
    assert len(children) == 7
    for fault, cause in CAUSES.items():
        run = children[_by_fault(faulty)[fault]["trial_id"]]
        assert run.info.status == "FAILED"
        assert re.fullmatch(cause, run.data.tags["error"])
        assert "stop_reason" not in run.data.tags
        names = {file.path for file in faulty.client.list_artifacts(run.info.run_id)}
        assert "config.json" in names
        assert ("failure.json" in names) == (fault != "die")
    assert children[_by_fault(faulty)["early"]["trial_id"]].info.status == "FINISHED"
    assert faulty.parent.info.status == "FINISHED"


def test_a_failed_trial_leaves_its_traceback(faulty):
    trial = _by_fault(faulty)["raise"]
    failure = json.loads((faulty.folder / "trials" / trial["trial_id"] / "failure.json").read_text())
    assert "trainers/faults.py" in failure["traceback"]


def test_a_failed_trial_cannot_win(faulty):
    late = _by_fault(faulty)["late"]
    assert late["epochs"] == 1
    assert faulty.shown["best"]["trial_id"] != late["trial_id"]


def test_failed_trials_keep_no_weights_on_disk(faulty):
    for trial in faulty.shown["trials"]:
        if trial["status"] == "failed":
            assert list((faulty.folder / "trials" / trial["trial_id"]).glob("*.pth")) == []


def test_a_sweep_fails_with_a_reason_if_every_trial_fails(new_bench, toprung, sweep_of, tmp_path):
    bench = new_bench()
    (bench / "search_spaces" / "faults.py").write_text(
        'def space(trial):\n    trial.suggest_float("lr", 1e-4, 1e-2)\n    return {"fault": "raise"}\n'
    )
    settings = (f"storage={tmp_path}", "num_trials=3", "max_concurrent_trials=1")
    flags = [word for setting in settings for word in ("--set", setting)]
    command = toprung("sweep", "tune.faults", *flags, folder=bench)
    assert (command.code, command.stderr) == (1, "")
    reason = "every trial failed, 3 of 3 because KeyError: 'no such thing'"
    assert reason[1:] in command.stdout
    swept = sweep_of(command, tmp_path)
    assert (swept.shown["status"], swept.shown["reason"]) == ("failed", reason)
    assert (swept.shown["best"], swept.shown["export_dir"]) == (None, None)
    assert swept.parent.info.status == "FAILED"
    assert swept.parent.data.tags["error"] == reason
    assert {run.info.status for run in swept.children.values()} == {"FAILED"}
    failures = [json.loads(file.read_text()) for file in swept.folder.glob("trials/*/failure.json")]
    assert len(failures) == 3
    assert len({failure["pid"] for failure in failures}) == 1  # the next trial reuses the process after a failure
    assert command.left_behind() == []
