"""A successful sweep: its output, the ledger, Optuna and MLflow, and that they agree."""

import json
import re

import mlflow
import optuna
import torch
from optuna.trial import TrialState

from toprung.records import ledger
from toprung.records.study_storage import storage_for_reading
from toprung.records.sweep_dir import SweepDirectory

OPTUNA_STATES = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED}


def test_it_exits_with_0_and_says_where_everything_is(finished):
    command, best = finished.command, finished.shown["best"]
    assert (command.code, command.stderr) == (0, "")
    assert f"{finished.shown['sweep_id']} finished in " in command.stdout
    assert re.search(r"6 trials, \d+ epochs, \d to the top rung, 0 failed\.", command.stdout)
    assert f"model    {finished.shown['export_dir']}" in command.stdout
    assert f"(verified: a fresh process scores {best['value']:.4f})" in command.stdout
    assert f"toprung show {finished.shown['sweep_id']}" in command.stdout
    assert command.stdout.rstrip().splitlines()[-1].split() == ["log", finished.shown["log"]]


def test_output_of_ray_and_mlflow_goes_to_the_log_and_not_to_the_screen(finished):
    lines = finished.command.stdout.splitlines()
    events = [line for line in lines if re.match(r"\d\d:\d\d:\d\d ", line)]
    assert lines[: len(events)] == events
    assert all(
        re.match(r"\S+ (smoke-|image data|trial \d|starting|stopping Ray|exporting|sending)", line) for line in events
    )
    assert (finished.folder / "sweep.log").is_file()


def test_every_trial_has_a_line_when_it_ends(finished):
    for trial in finished.shown["trials"]:
        assert len(re.findall(rf"trial {trial['number']} {trial['status']}\b", finished.command.stdout)) == 1


def test_no_process_is_left(finished):
    assert finished.command.left_behind() == []


def test_show_has_the_documented_fields(finished):
    shown = finished.shown
    assert set(shown) >= {
        "sweep_id", "status", "tracking_uri", "mlflow_run_id", "optuna_storage", "export_dir", "best", "trials"
    }  # fmt: skip
    assert shown["status"] == "finished"
    assert shown["name"] == "well"
    assert shown["tracking_uri"] == finished.uri
    assert set(shown["best"]) >= {"trial_id", "value", "epoch", "config"}
    assert len(shown["trials"]) == 6
    for trial in shown["trials"]:
        assert set(trial) >= {"trial_id", "status", "epochs", "value", "mlflow_run_id", "config"}
    assert [trial["number"] for trial in shown["trials"]] == list(range(6))
    ranked = sorted(shown["trials"], key=lambda trial: trial["rank"])
    assert [trial["rank"] for trial in ranked] == list(range(1, 7))
    assert [trial["value"] for trial in ranked] == sorted((trial["value"] for trial in ranked), reverse=True)


def test_the_best_has_the_best_value_of_all_trials(finished):
    best = finished.shown["best"]
    assert best["value"] == max(trial["value"] for trial in finished.shown["trials"])
    trial = finished.trials[best["trial_id"]]
    assert (best["value"], best["epoch"], best["config"]) == (trial["value"], trial["epoch"], trial["config"])


def test_the_first_trial_is_the_authors_default_and_ran_to_the_top_rung(finished):
    first = finished.shown["trials"][0]
    assert (first["status"], first["epochs"]) == ("finished", 3)
    assert (first["config"]["optimizer"], first["config"]["lr"], first["config"]["augment"]) == ("adamw", 1e-3, "none")
    assert (first["config"]["width"], first["config"]["depth"]) == (8, 2)


def test_stopped_trials_end_at_a_rung_and_finished_ones_at_the_top_rung(finished):
    for trial in finished.shown["trials"]:
        if trial["status"] == "finished":
            assert (trial["epochs"], trial["rung"]) == (3, None)
        else:
            assert (trial["status"], trial["epochs"], trial["rung"]) == ("stopped", 1, 1)
            assert re.fullmatch(r"ASHA: \d\.\d{4}, needed \d\.\d{4}", trial["cause"])


def test_a_sweep_can_be_shown_by_its_name(finished, toprung, bench):
    by_name = toprung("show", "well", "--json", "--storage", finished.storage, folder=bench)
    assert json.loads(by_name.stdout) == finished.shown
    plain = toprung("show", "well", "--storage", finished.storage, folder=bench)
    assert plain.code == 0
    assert plain.stdout.startswith(f"{finished.shown['sweep_id']}: finished in ")
    assert finished.uri in plain.stdout


def test_list_has_one_line_per_sweep(finished, toprung, bench):
    listed = json.loads(toprung("list", "--json", "--storage", finished.storage, folder=bench).stdout)
    assert [sweep["sweep_id"] for sweep in listed] == [finished.shown["sweep_id"]]
    assert listed[0]["num_trials"] == 6
    assert "trials" not in listed[0]
    plain = toprung("list", "--storage", finished.storage, folder=bench).stdout
    assert finished.shown["sweep_id"] in plain
    assert "well" in plain


def test_a_name_can_be_used_only_once(finished, toprung, bench):
    again = toprung("sweep", "tune.smoke", "--name", "well", "--set", f"storage={finished.storage}", folder=bench)
    assert (again.code, again.stdout) == (2, "")
    assert again.stderr.startswith('A sweep named "well" already exists')
    assert len(list(finished.storage.glob("smoke-*"))) == 1


def test_optuna_has_the_true_states_and_values(finished):
    storage = storage_for_reading(SweepDirectory(finished.folder))
    study = optuna.load_study(study_name=finished.shown["optuna_study"], storage=storage)
    for frozen, trial in zip(study.get_trials(), finished.shown["trials"], strict=True):
        assert frozen.state is OPTUNA_STATES[trial["status"]]
        assert sorted(frozen.intermediate_values) == list(range(1, trial["epochs"] + 1))
        assert max(frozen.intermediate_values.values()) == trial["value"]
        if trial["status"] == "finished":
            assert frozen.value == trial["value"]


def test_mlflow_has_one_parent_and_a_child_for_every_trial(finished):
    client, experiment = finished.client, finished.shown["mlflow_experiment_id"]
    assert client.get_experiment(experiment).name == "smoke"
    assert len(client.search_runs([experiment])) == 7
    children = finished.children
    assert {trial_id: run.info.run_id for trial_id, run in children.items()} == {
        trial["trial_id"]: trial["mlflow_run_id"] for trial in finished.shown["trials"]
    }


def test_mlflow_has_the_true_statuses_and_reasons(finished):
    assert finished.parent.info.status == "FINISHED"
    words = {"finished": "FINISHED", "stopped": "KILLED"}
    for trial_id, run in finished.children.items():
        trial = finished.trials[trial_id]
        assert run.info.status == words[trial["status"]]
        assert run.data.tags["toprung.status"] == trial["status"]
        assert run.data.tags.get("stop_reason") == trial["cause"]
        assert run.data.tags["toprung.rung"] == str(trial["epochs"])
        assert "error" not in run.data.tags
        assert run.info.end_time >= run.info.start_time


def test_parameters_are_in_mlflow_as_parameters_and_not_as_metrics(finished):
    for trial_id, run in finished.children.items():
        config = finished.trials[trial_id]["config"]
        assert run.data.params == {name: str(value) for name, value in config.items()}
        reported = {"train/loss", "val/loss", "val/accuracy", "time/epoch_seconds"}
        assert set(run.data.metrics) == {*reported, "best/val/accuracy", "best/epoch"}


def test_mlflow_sorts_trials_by_the_value_that_ranks_them(finished):
    records = {record.trial_id: record for record in ledger.read(SweepDirectory(finished.folder))}
    for trial_id, run in finished.children.items():
        best = (run.data.metrics["best/val/accuracy"], run.data.metrics["best/epoch"])
        assert best == (records[trial_id].value, records[trial_id].epoch)
    sorted_by_mlflow = finished.client.search_runs(
        [finished.shown["mlflow_experiment_id"]],
        "tags.`toprung.kind` = 'trial'",
        order_by=["metrics.`best/val/accuracy` DESC", "metrics.`best/epoch` ASC"],
    )
    assert sorted_by_mlflow[0].data.tags["toprung.trial_id"] == finished.shown["best"]["trial_id"]


def test_metrics_in_mlflow_equal_the_ledgers_with_one_value_per_step(finished):
    records = {record.trial_id: record for record in ledger.read(SweepDirectory(finished.folder))}
    for trial_id, run in finished.children.items():
        record = records[trial_id]
        for name in ("train/loss", "val/loss", "val/accuracy", "time/epoch_seconds"):
            history = finished.client.get_metric_history(run.info.run_id, name)
            assert [metric.step for metric in history] == list(range(1, record.epochs + 1))
            reported = [epoch for _, epoch in sorted(record.epochs_by_number.items())]
            assert [metric.value for metric in history] == [epoch.metrics[name] for epoch in reported]
            assert [metric.timestamp for metric in history] == [epoch.time_ms for epoch in reported]


def test_every_child_has_its_best_weights_and_its_configuration(finished, tmp_path):
    for trial_id, run in finished.children.items():
        names = {file.path for file in finished.client.list_artifacts(run.info.run_id)}
        assert names == {"config.json", "model.pth", "model.json"}
        folder = mlflow.artifacts.download_artifacts(
            run_id=run.info.run_id, tracking_uri=finished.uri, dst_path=str(tmp_path / trial_id)
        )
        state = torch.load(f"{folder}/model.pth", weights_only=True)
        assert all(isinstance(value, torch.Tensor) for value in state.values())
        with open(f"{folder}/config.json") as file:
            assert json.load(file)["config"] == finished.trials[trial_id]["config"]
        with open(f"{folder}/model.json") as file:
            meta = json.load(file)
        assert meta["epoch"] == finished.trials[trial_id]["epoch"]
        assert meta["metrics"]["val/accuracy"] == finished.trials[trial_id]["value"]


def test_the_parent_run_names_the_winner_and_has_the_export(finished):
    parent = finished.parent
    assert parent.data.metrics["best/val/accuracy"] == finished.shown["best"]["value"]
    assert parent.data.metrics["toprung/trials"] == 6
    assert parent.data.tags["toprung.best_trial_id"] == finished.shown["best"]["trial_id"]
    names = {file.path for file in finished.client.list_artifacts(parent.info.run_id)}
    assert names == {"sweep.json", "lineage.json", "export"}


def test_the_sweeps_run_has_the_lineage_and_every_run_the_source(finished):
    lineage = json.loads((finished.folder / "lineage.json").read_text())
    assert lineage["dirty"] is False
    assert re.fullmatch(r"[0-9a-f]{40}", lineage["commit"])
    tags = finished.parent.data.tags
    for name in ("commit", "data_fingerprint", "split_fingerprint", "lock_hash"):
        assert tags[f"toprung.{name}"] == lineage[name]
    assert {"torch", "ray", "optuna", "mlflow"} <= {
        name.removeprefix("toprung.version.") for name in tags if name.startswith("toprung.version.")
    }
    for run in [finished.parent, *finished.children.values()]:
        assert run.data.tags["toprung.sweep_id"] == finished.shown["sweep_id"]
        assert run.data.tags["mlflow.source.git.commit"] == lineage["commit"]
        assert run.data.tags["mlflow.source.name"] == "tune.smoke"


def test_only_trials_that_can_still_win_keep_their_weights_on_disk(finished):
    best = finished.shown["best"]["trial_id"]
    for trial_id, trial in finished.trials.items():
        files = {path.name for path in (finished.folder / "trials" / trial_id).glob("*.pth")}
        could_win = trial_id == best or trial["status"] == "finished"
        assert files == ({"model.pth", "last.pth"} if could_win else set())
    assert any(trial["status"] == "stopped" for trial in finished.trials.values())


def test_tune_wrote_no_file_for_every_result(finished):
    names = {path.name for path in (finished.folder / "tune").rglob("*")}
    assert any(name.startswith("experiment_state-") for name in names)
    assert not {"progress.csv", "result.json", "params.pkl"} & names
    assert not [name for name in names if name.startswith("events.out.tfevents")]


def test_the_code_of_the_sweep_is_kept(finished, bench):
    for name in ("trainers/convnet.py", "search_spaces/convnet.py", "tune/smoke.py"):
        assert (finished.folder / "code" / name).read_text() == (bench / name).read_text()


def test_train_gives_exactly_the_metrics_of_the_same_trial(finished, toprung, bench, tmp_path):
    settings = [f"{name}={json.dumps(value)}" for name, value in finished.shown["trials"][0]["config"].items()]
    flags = [word for setting in settings for word in ("--set", setting)]
    alone = toprung("train", "trainers.convnet", *flags, "--threads", 1, "--storage", tmp_path, folder=bench)
    assert alone.code == 0, alone.stderr
    assert len(re.findall(r"^epoch \d/3  ", alone.stdout, re.MULTILINE)) == 3
    (folder,) = tmp_path.glob("train-convnet-*")
    meta = json.loads((folder / "model.json").read_text())
    record = ledger.read(SweepDirectory(finished.folder))[0]
    assert meta["epoch"] == record.epoch
    metrics = record.epochs_by_number[record.epoch].metrics
    reported = {name: value for name, value in metrics.items() if name != "time/epoch_seconds"}
    assert {name: meta["metrics"][name] for name in reported} == reported
