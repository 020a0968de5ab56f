"""A controlled experiment run by the real command: killed, resumed and compared, with its ledger and MLflow runs."""

import json
import re

import optuna
import pytest

from toprung.records import ledger
from toprung.records.study_storage import storage_for_reading
from toprung.records.sweep_dir import SweepDirectory

# In the second configuration, one seed fails.
TRAINER = """
import os
import time

from toprung import session
from trainers import convnet

DEFAULTS = {"optimizer": "sgd", "lr": 0.01, "momentum": 0.9, "width": 4, "depth": 1, "fragile": False}


def train_loop_per_worker(config):
    if config["fragile"] and config["seed"] == 5:
        raise ValueError("seed 5 is unlucky")
    report = session.report

    def slow_report(metrics, run):
        time.sleep(0.5)
        report(metrics, run)

    session.report = slow_report
    try:
        convnet.train_loop_per_worker({**convnet.DEFAULTS, **config})
    finally:
        session.report = report
"""

RECIPE = """
from toprung.spec import Asha, Data, Experiment, Sweep


def sweep():
    return Sweep(
        name="pair",
        trainer="trainers.fragile",
        experiments=(
            Experiment(name="A baseline", config={"optimizer": "sgd", "lr": 0.05}),
            Experiment(name="B adaptive", config={"optimizer": "adam", "lr": 0.001, "fragile": True}),
        ),
        seeds=(5, 6),
        constants={"width": 4, "depth": 1},
        data=Data(name="digits"),
        asha=Asha(max_epochs=3),
    )
"""
PLANNED = [("A baseline", 5), ("B adaptive", 5), ("A baseline", 6), ("B adaptive", 6)]


@pytest.fixture(scope="module")
def pair(new_bench, tmp_path_factory):
    bench = new_bench()
    (bench / "trainers" / "fragile.py").write_text(TRAINER)
    (bench / "tune" / "pair.py").write_text(RECIPE)
    return bench, tmp_path_factory.mktemp("pair")


@pytest.fixture(scope="module")
def killed(pair, start):
    """The sweep, killed with all its processes once it had received an epoch."""
    bench, storage = pair
    command = start("sweep", "tune.pair", "--set", f"storage={storage}", "--name", "mine", folder=bench)
    command.read_until(lambda line: "best so far" in line)
    for process in command.processes():
        process.kill()
    command.process.wait()
    return command


@pytest.fixture(scope="module")
def swept(killed, pair, toprung, sweep_of):
    bench, storage = pair
    return sweep_of(toprung("resume", "mine", "--storage", storage, folder=bench), storage)


def test_the_first_line_describes_the_plan(killed):
    assert ": 2 configurations × 2 seeds, 3 epochs each, " in killed.lines[0]


def test_after_kill_and_resume_every_configuration_has_every_seed_and_the_full_budget(swept):
    assert swept.command.code == 0, swept.command.stderr
    assert swept.shown["status"] == "finished"
    trials = sorted(swept.shown["trials"], key=lambda trial: trial["number"])
    assert [(trial["config"]["experiment"], trial["config"]["seed"]) for trial in trials] == PLANNED
    assert [trial["status"] for trial in trials] == ["finished", "failed", "finished", "finished"]
    assert [trial["epochs"] for trial in trials] == [3, 0, 3, 3]
    assert trials[1]["cause"] == "ValueError: seed 5 is unlucky"
    assert {trial["config"]["fragile"] for trial in trials} == {False, True}
    assert swept.command.left_behind() == []


def test_optuna_has_the_trials_with_their_states_and_parameters(swept):
    sweep_dir = SweepDirectory(swept.folder)
    study = optuna.load_study(study_name=sweep_dir.sweep_id, storage=storage_for_reading(sweep_dir))
    trials = study.get_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert [(trial.user_attrs["experiment"], trial.user_attrs["seed"]) for trial in trials] == PLANNED
    assert trials[0].params == {"optimizer": "sgd", "lr": 0.05, "fragile": False}
    assert [driver_run.command for driver_run in ledger.read_all(sweep_dir).driver_runs] == ["sweep", "resume"]


def test_runs_can_be_filtered_by_experiment_and_seed_in_mlflow(swept):
    result = swept.client.search_runs(
        [swept.shown["mlflow_experiment_id"]], "tags.`toprung.experiment` = 'A baseline' and tags.`toprung.seed` = '6'"
    )
    third = next(trial for trial in swept.shown["trials"] if trial["number"] == 2)
    assert [run.data.tags["toprung.trial_id"] for run in result] == [third["trial_id"]]
    assert "toprung.seed" not in swept.parent.data.tags
    tags = {
        (run.data.tags["toprung.experiment"], int(run.data.tags["toprung.seed"])) for run in swept.children.values()
    }
    assert tags == set(PLANNED)


def test_a_trial_trains_with_its_own_seed(swept, pair, toprung):
    """`toprung train` with the same configuration and seed gives the same metrics."""
    bench, storage = pair
    settings = ("optimizer=sgd", "lr=0.05", "width=4", "depth=1")
    flags = [word for setting in settings for word in ("--set", setting)]
    seed_and_budget = ("--seed", 6, "--epochs", 3, "--threads", 1, "--storage", storage / "alone")
    alone = toprung("train", "trainers.fragile", *flags, *seed_and_budget, folder=bench)
    assert alone.code == 0, alone.stderr
    losses = [float(loss) for loss in re.findall(r"val/loss ([0-9.]+)", alone.stdout)]
    of_seed_5, _, of_seed_6, _ = ledger.read(SweepDirectory(swept.folder))
    assert [round(epoch.metrics["val/loss"], 4) for epoch in of_seed_6.epochs_by_number.values()] == losses
    assert [round(epoch.metrics["val/loss"], 4) for epoch in of_seed_5.epochs_by_number.values()] != losses


def test_compare_reports_the_failed_seed(swept, pair, toprung):
    bench, storage = pair
    compared = toprung("compare", "mine", "--storage", storage, folder=bench)
    assert compared.code == 0, compared.stderr
    assert "A baseline" in compared.stdout
    assert "Failed, and not included in the means above: B adaptive (1 of 2)." in compared.stdout
    report = toprung("report", "mine", "--storage", storage, folder=bench)
    assert report.code == 0, report.stderr


def test_the_exported_winner_states_its_seed_and_how_it_was_chosen(swept):
    config = json.loads((swept.folder / "export" / "config.json").read_text())["toprung"]
    assert config["seed"] == config["config"]["seed"] == swept.shown["best"]["config"]["seed"]
    card = (swept.folder / "export" / "README.md").read_text()
    assert "A controlled experiment: 2 configurations × 2 seeds, 3 epochs each." in card
    assert "ASHA" not in card


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (
            ["extend", "mine", "--trials", 2],
            " is a controlled experiment (2 configurations × 2 seeds, 3 epochs each): ",
        ),
        (["extend", "mine", "--max-epochs", 6], "For other seeds type: toprung sweep tune.pair --set 'seeds=[7, 8]'"),
        (["resume", "mine"], " is finished. For other seeds type: toprung sweep tune.pair --set 'seeds=[7, 8]'"),
    ],
)
def test_resuming_or_extending_it_is_refused_in_one_line(swept, pair, toprung, typed, line):
    bench, storage = pair
    command = toprung(*typed, "--storage", storage, folder=bench)
    assert (command.code, command.stdout) == (2, "")
    assert len(command.stderr.splitlines()) == 1
    assert line in command.stderr


def test_a_warm_start_is_refused(swept, pair, toprung):
    bench, storage = pair
    command = toprung("sweep", "tune.pair", "--warm-start", "mine", "--set", f"storage={storage}", folder=bench)
    assert command.code == 2
    assert command.stderr == "pair is a controlled experiment and has no searcher. Leave out --warm-start.\n"


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("constants.widht=8", 'The constants give "widht", which the trainer trainers.fragile does not know.'),
        (
            'experiments=[{"name": "A", "config": {"momentun": 0}}]',
            'The experiment "A" gives "momentun", which the trainer trainers.fragile does not know. Did you ',
        ),
        (
            'experiments=[{"name": "A", "config": {"width": "x"}}]',
            'sweep: both constants and the experiment "A" set "width".',
        ),
        (
            'experiments=[{"name": "A", "config": {"lr": "x"}}]',
            'lr cannot be "x": the trainer trainers.fragile expects ',
        ),
        ("num_trials=9", "num_trials cannot be 9: 2 configurations × 2 seeds, 3 epochs each, are 4 trials."),
    ],
)
def test_a_mistake_in_an_experiment_prints_one_line(pair, toprung, tmp_path, setting, line):
    bench, _ = pair
    command = toprung("sweep", "tune.pair", "--set", f"storage={tmp_path}", "--set", setting, folder=bench)
    assert (command.code, command.stdout) == (2, "")
    assert command.stderr.startswith(line)
    assert len(command.stderr.splitlines()) == 1
