"""Confirmations by the real command: their seeds, their records, and MLflow's tree of runs."""

import html
import json
import statistics

import pytest

from toprung.analysis.seeds import representative, trials_of_experiment, values_by_seed
from toprung.errors import UserError, pluralize
from toprung.export.processes import ExportFailed
from toprung.export.test_split import score_on_test
from toprung.records import catalog, ledger
from toprung.records.catalog import list_confirmations
from toprung.records.sweep_dir import SweepDirectory
from toprung.records.test_split_log import describe, openings
from toprung.records.trial_record import End, TrialRecord
from toprung.sweep.confirm import confirmation_spec

SMALL = ("constants.width=4", "constants.depth=1", "constants.batch_size=64", "num_trials=4", "max_epochs=2")


def _trial(number, experiment, seed, value, status="finished"):
    end = End(status)
    config = {"experiment": experiment, "seed": seed}
    return TrialRecord(number, f"t{number}", status, config, {}, value, 1, end=end)


def test_the_median_seed_represents_the_best_configuration():
    trials = [
        _trial(0, "trial 7", 1, 0.90),
        _trial(1, "default", 1, 0.97),
        _trial(2, "trial 7", 2, 0.94),
        _trial(3, "default", 2, 0.80),
        _trial(4, "trial 7", 3, 0.95),
        _trial(5, "default", 3, None, "failed"),
    ]
    assert values_by_seed(trials) == {"trial 7": {1: 0.90, 2: 0.94, 3: 0.95}, "default": {1: 0.97, 2: 0.80}}
    assert representative(trials, mode="max").number == 2
    assert representative(trials[:2], mode="min").number == 0
    assert representative([trials[5]], mode="max") is None


@pytest.fixture(scope="module")
def confirmed(bench, toprung, tmp_path_factory):
    """A small sweep and its confirmation."""
    storage = tmp_path_factory.mktemp("storage")
    settings = (*SMALL, 'metrics=["val/loss", "val/f1_macro"]', f"storage={storage}")
    flags = [word for setting in settings for word in ("--set", setting)]
    swept = toprung("sweep", "tune.smoke", *flags, folder=bench)
    assert swept.code == 0, swept.stdout + swept.stderr
    sweep_dir = next(catalog.list_sweeps(storage))
    words = ("confirm", sweep_dir.sweep_id, "--top", "1", "--seeds", "2", "--storage", storage)
    command = toprung(*words, folder=bench)
    assert command.code == 0, command.stdout + command.stderr
    return bench, storage, SweepDirectory(sweep_dir.path), command


def test_the_leader_and_the_default_are_trained_with_fresh_seeds(confirmed):
    _, _, sweep_dir, _ = confirmed
    (again,) = list_confirmations(sweep_dir)
    spec, trials = again.spec(), ledger.read(again)
    assert spec.seeds == (sweep_dir.spec().seed + 1, sweep_dir.spec().seed + 2)
    assert {trial.status for trial in trials} == {"finished"}
    assert {trial.epochs for trial in trials} == {2}
    leader = max((t for t in ledger.read(sweep_dir) if not t.is_default and t.value is not None), key=lambda t: t.value)
    configs = {trial.config["experiment"]: trial.config for trial in trials}
    assert set(configs) == {f"trial {leader.number}", "default"}
    ours = configs[f"trial {leader.number}"]
    assert {name: ours[name] for name in leader.config} == leader.config


def test_the_exported_model_is_the_median_seed_of_the_winner(confirmed):
    _, _, sweep_dir, _ = confirmed
    (again,) = list_confirmations(sweep_dir)
    chosen = representative(ledger.read(again), mode="max")
    metrics = json.loads((again.export_folder / "metrics.json").read_text())
    assert metrics["verified"]["val/accuracy"] == chosen.value


def test_in_mlflow_the_trials_are_grandchildren_of_the_sweep(confirmed):
    from mlflow import MlflowClient

    _, storage, sweep_dir, _ = confirmed
    (again,) = list_confirmations(sweep_dir)
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    own = client.get_run(again.mlflow_run_id)
    assert own.data.tags["mlflow.parentRunId"] == sweep_dir.mlflow_run_id
    runs = client.search_runs([own.info.experiment_id], f"tags.`mlflow.parentRunId` = '{again.mlflow_run_id}'")
    assert len(runs) == 4
    assert {run.data.params["seed"] for run in runs} == {"1", "2"}


@pytest.fixture(scope="module")
def refit(confirmed, toprung):
    """The same confirmation, and its winner refitted on training and validation images."""
    bench, storage, sweep_dir, _ = confirmed
    words = ("confirm", sweep_dir.sweep_id, "--top", "1", "--seeds", "2", "--refit", "--storage", storage)
    command = toprung(*words, folder=bench)
    assert command.code == 0, command.stdout + command.stderr
    return command, json.loads((sweep_dir.refit_folder / "refit.json").read_text())


def test_a_refit_trains_on_both_parts_for_the_median_best_epoch_of_the_seeds(confirmed, refit):
    _, _, sweep_dir, _ = confirmed
    (again,) = list_confirmations(sweep_dir)
    command, record = refit
    winner = representative(ledger.read(again), mode="max")
    best = [trial.epoch for trial in trials_of_experiment(ledger.read(again), winner.config["experiment"])]
    assert record["epochs"] == statistics.median_high(best)
    assert (record["config"], record["max_epochs"]) == (winner.config, 2)
    assert record["num_images"] == 800 + 288  # max_train of the recipe, and all validation images
    assert (
        f"trained on all 1088 training and validation images for {pluralize(record['epochs'], 'epoch')}"
        in command.stdout
    )


def test_a_refit_states_no_metric_for_images_it_was_not_trained_on(confirmed, refit):
    _, _, sweep_dir, _ = confirmed
    export = sweep_dir.refit_folder / "export"
    card, metrics = (export / "README.md").read_text(), json.loads((export / "metrics.json").read_text())
    assert set(metrics) == {"epochs", "last", "seen", "formats", "onnx"}
    assert not [name for name in metrics["last"] if name.startswith("val/")]
    assert "There is no score on unseen images" in card
    assert f"Epochs: {refit[1]['epochs']}, the median" in card
    assert not (sweep_dir.refit_folder / "model.pth").exists()
    from toprung.vision import load_model

    assert not load_model(export).training


def test_a_refit_does_not_open_the_test_split_and_is_made_once(confirmed, refit, toprung):
    bench, storage, sweep_dir, _ = confirmed
    assert len(openings(sweep_dir)) == 1
    words = ("confirm", sweep_dir.sweep_id, "--top", "1", "--seeds", "2", "--refit", "--storage", storage)
    shown = toprung(*words, folder=bench)
    assert f"The winner was refit on {refit[1]['time']}" in shown.stdout
    assert len(openings(sweep_dir)) == 1


def test_confirmation_refit_and_report_are_in_the_sweeps_run_in_mlflow(confirmed, refit, toprung):
    from mlflow import MlflowClient

    bench, storage, sweep_dir, _ = confirmed
    command = toprung("report", sweep_dir.sweep_id, "--storage", storage, folder=bench)
    assert command.code == 0, command.stderr
    (again,) = list_confirmations(sweep_dir)
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    parent = client.get_run(sweep_dir.mlflow_run_id)
    artifacts = {file.path for file in client.list_artifacts(sweep_dir.mlflow_run_id, "report")}
    assert artifacts >= {"report/report.html", "report/summary.md", "report/learning-curves.png"}
    assert [file.path for file in client.list_artifacts(sweep_dir.mlflow_run_id, "confirmation")] == [
        "confirmation/confirmation.md"
    ]
    assert parent.data.tags["toprung.confirmed_by"] == again.sweep_id
    assert parent.data.tags["toprung.verdict"] in (again.path / "confirmation.md").read_text()
    (run,) = client.search_runs([parent.info.experiment_id], "tags.`toprung.kind` = 'refit'")
    assert run.data.tags["mlflow.parentRunId"] == sweep_dir.mlflow_run_id
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == refit[1]["epochs"]
    assert not [name for name in run.data.metrics if name.startswith("val/")]
    assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {"model.pth", "README.md"}


def test_the_model_card_has_the_score_on_the_test_split(confirmed):
    _, _, sweep_dir, _ = confirmed
    (again,) = list_confirmations(sweep_dir)
    score = openings(sweep_dir)[-1]
    card = (again.export_folder / "README.md").read_text()
    assert f"On the test split ({score['num_images']} images, opened on {score['time']}): {describe(score)}." in card


def test_a_confirmed_winner_becomes_the_champion_and_has_its_score_on_the_test_split(confirmed, toprung):
    from mlflow import MlflowClient

    bench, storage, sweep_dir, _ = confirmed
    (again,) = list_confirmations(sweep_dir)
    command = toprung("register", sweep_dir.sweep_id, "--storage", storage, folder=bench)
    assert command.code == 0, command.stderr
    assert f"{sweep_dir.spec().name} version 1 is now the champion: there was no champion." in command.stdout
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    version = client.get_model_version_by_alias(sweep_dir.spec().name, "champion")
    assert version.tags["toprung.confirmed_by"] == again.sweep_id
    means = [statistics.mean(values.values()) for values in values_by_seed(ledger.read(again)).values()]
    assert float(version.tags["toprung.confirmed_value"]) == pytest.approx(max(means))
    experiment_id = client.get_run(version.run_id).info.experiment_id
    (model,) = client.search_logged_models([experiment_id], filter_string=f"name = '{version.name}'")
    scores = {metric.key: metric.value for metric in model.metrics}
    for name in ("accuracy", "loss", "f1_macro"):
        assert scores[f"test/{name}"] == openings(sweep_dir)[-1][name]
    assert scores["confirmed/val/accuracy"] == pytest.approx(max(means))


def test_the_other_confirmed_configurations_become_models_of_their_runs(confirmed, toprung):
    from mlflow import MlflowClient

    bench, storage, sweep_dir, _ = confirmed
    (again,) = list_confirmations(sweep_dir)
    words = ("register", sweep_dir.sweep_id, "--model", "all", "--with-leaders", "--json", "--storage", storage)
    command = toprung(*words, folder=bench)
    assert command.code == 0, command.stderr
    result = json.loads(command.stdout)
    (leader,) = result["leaders"]
    by_name = values_by_seed(ledger.read(again))
    assert leader["mean"] == pytest.approx(statistics.mean(by_name[leader["configuration"]].values()))
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    run = client.get_run(client.get_logged_model(leader["model_id"]).source_run_id)
    trial = next(trial for trial in ledger.read(again) if trial.mlflow_run_id == run.info.run_id)
    assert trial.config["experiment"] == leader["configuration"]
    assert (again.trial_export_folder(trial.number) / "model.onnx").is_file()
    ranked = client.search_logged_models(
        [run.info.experiment_id], filter_string="name = 'all'",
        order_by=[{"field_name": "metrics.confirmed/val/accuracy", "ascending": False}],
    )  # fmt: skip
    assert [model.tags["toprung.confirmed_value"] for model in ranked] == sorted(
        (repr(statistics.mean(values.values())) for values in by_name.values()), reverse=True
    )
    (version,) = client.search_model_versions("name = 'all'")
    assert version.model_id != leader["model_id"]


def test_a_sweep_that_cannot_be_confirmed_is_refused(confirmed):
    _, _, sweep_dir, _ = confirmed
    (again,) = list_confirmations(sweep_dir)
    with pytest.raises(UserError, match="is a controlled experiment"):
        confirmation_spec(again, num_leaders=1, num_seeds=1)
    with sweep_dir.lock(), pytest.raises(UserError, match="is running"):
        confirmation_spec(sweep_dir, num_leaders=1, num_seeds=1)


def test_another_confirmation_uses_other_seeds(confirmed):
    _, _, sweep_dir, _ = confirmed
    assert confirmation_spec(sweep_dir, num_leaders=1, num_seeds=2).seeds == (3, 4)


def test_the_test_split_is_opened_once_and_the_winner_is_evaluated(confirmed, toprung):
    bench, storage, sweep_dir, command = confirmed
    assert "is not significantly better than the default" in command.stdout or "default" in command.stdout
    (opening,) = openings(sweep_dir)
    assert set(opening) >= {"time", "who", "accuracy", "loss", "f1_macro", "num_images", "intervals"}
    images = f"({opening['num_images']} images)"
    first = f"On the test split {images}, opened now for the first time by this sweep: {describe(opening)}."
    assert first in command.stdout
    words = ("confirm", sweep_dir.sweep_id, "--top", "1", "--seeds", "2", "--storage", storage)
    shown = toprung(*words, folder=bench)
    assert shown.code == 0, shown.stderr
    assert "was confirmed by" in shown.stderr
    assert f"The test split was opened on {opening['time']}: accuracy {opening['accuracy']:.4f}" in shown.stdout
    assert openings(sweep_dir) == [opening]
    assert len(list_confirmations(sweep_dir)) == 1


def test_a_second_opening_is_refused_and_a_broken_record_is_reported(confirmed, tmp_path):
    _, _, sweep_dir, _ = confirmed
    with pytest.raises(UserError, match="was opened for"):
        score_on_test(tmp_path, sweep_dir=sweep_dir, sweep=sweep_dir.spec(), prepared_root=tmp_path, again=False)
    with pytest.raises(ExportFailed):
        score_on_test(tmp_path, sweep_dir=sweep_dir, sweep=sweep_dir.spec(), prepared_root=tmp_path, again=True)
    content = sweep_dir.test_log.read_text()
    sweep_dir.test_log.write_text('{"time": "now"')
    with pytest.raises(UserError, match="it is unknown whether"):
        openings(sweep_dir)
    sweep_dir.test_log.write_text(content)


def test_the_report_says_what_was_confirmed(confirmed, toprung):
    bench, storage, sweep_dir, command = confirmed
    report = toprung("report", sweep_dir.sweep_id, "--storage", storage, folder=bench)
    assert report.code == 0, report.stderr
    page = (sweep_dir.path / "report" / "report.html").read_text()
    (again,) = list_confirmations(sweep_dir)
    verdict = next(line for line in command.stdout.splitlines() if " the default (" in line or "has the best" in line)
    assert html.escape(verdict, quote=False) in page or verdict in page
    assert again.sweep_id in page
    assert "The test split was opened once." in page


def test_removing_a_sweep_removes_its_confirmations(confirmed, toprung):
    bench, storage, sweep_dir, _ = confirmed  # must be the last test here: it removes the sweep
    (again,) = list_confirmations(sweep_dir)
    with again.lock():
        refused = toprung("rm", sweep_dir.sweep_id, "--yes", "--storage", storage, folder=bench)
    assert (refused.code, refused.stderr) == (2, f"{again.sweep_id} is running. Type: toprung stop {again.sweep_id}\n")
    assert sweep_dir.path.is_dir()
    removed = toprung("rm", sweep_dir.sweep_id, "--yes", "--storage", storage, folder=bench)
    assert removed.stdout == f"Deleted {sweep_dir.sweep_id}, {again.sweep_id}.\n"
    assert list(catalog.list_sweeps(storage)) == []
