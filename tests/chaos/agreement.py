"""Check that the records of a sweep agree: Tune's trials, Optuna's study and MLflow's runs, each read directly."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
import optuna
import torch
from mlflow.entities import Run
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from toprung.vision import load_model

# The final status of a trial in the ledger, in Optuna and in MLflow.
WORDS = {
    "finished": ("COMPLETE", "FINISHED"),
    "stopped": ("PRUNED", "KILLED"),
    "failed": ("FAIL", "FAILED"),
}


@dataclass
class Agreement:
    """The result of the comparison; `problems` has one line for each disagreement."""

    num_trials: int = 0
    num_lost: int = 0
    num_doubled: int = 0
    num_running: int = 0
    steps_increase: bool = True
    winner_loads: bool = False
    problems: list[str] = field(default_factory=list)


def agreement(
    folder: Path,
    *,
    uri: str,
    num_trials: int,
    failed: int = 0,
    metric: str = "val/accuracy",
    gone: frozenset[int] = frozenset(),
) -> Agreement:
    """Compare all records of a sweep that has ended.

    Args:
        folder: the sweep's directory.
        uri: MLflow's tracking URI.
        num_trials: the number of trials that must have ended.
        failed: the number of trials that must have failed.
        metric: the sweep's metric; more is better.
        gone: numbers of the trials whose weights were only in the MLflow of a lost machine.
    """
    result = Agreement()
    echo = result.problems.append
    study = optuna.load_study(
        study_name=folder.name, storage=JournalStorage(JournalFileBackend(str(folder / "ledger.log")))
    )
    trials = {trial.user_attrs.get("start", {}).get("trial_id", ""): trial for trial in study.get_trials()}
    runs, parents = runs_of(folder.name, uri=uri)
    run_ids = [run.data.tags["toprung.trial_id"] for run in runs]
    # Ray Tune appends a suffix to the folder of a trial that it creates again.
    tune_ids = {path.name.partition("_")[0] for path in (folder / "tune").iterdir() if path.is_dir()}

    # Lost and duplicate trials.
    ended = {name for name, trial in trials.items() if name and trial.state.is_finished()}
    result.num_trials = len(trials)
    result.num_lost = num_trials - len(ended & set(run_ids))
    result.num_doubled = len(study.get_trials()) - len(trials) + len(run_ids) - len(set(run_ids)) + len(parents) - 1
    if result.num_lost or result.num_doubled:
        echo(f"{result.num_lost} lost, {result.num_doubled} doubled of {num_trials}")
    if set(trials) != set(run_ids):
        echo(f"Optuna has {sorted(trials)}, MLflow has {sorted(run_ids)}")
    if not tune_ids <= set(trials):
        echo(f"Tune has {sorted(tune_ids - set(trials))}, which Optuna lacks")

    # Running trials, and how each ended.
    states = [trial.state.name for trial in trials.values()] + [run.info.status for run in (*runs, *parents)]
    result.num_running = sum(state in ("RUNNING", "WAITING", "SCHEDULED") for state in states)
    if result.num_running:
        echo(f"{result.num_running} are running")
    if [run.info.status for run in parents] != ["FINISHED"]:
        echo(f"the run of the sweep itself is {[run.info.status for run in parents]}")
    state = json.loads((folder / "status.json").read_text())
    if state["status"] != "finished" or state.get("tracking_error"):
        echo(f"status.json says {state}")
    num_failed = sum(trial.state.name == "FAIL" for trial in trials.values())
    if num_failed != failed:
        causes = [trial.user_attrs.get("end", {}).get("cause") for trial in trials.values()]
        echo(f"{num_failed} trials failed: {[cause for cause in causes if cause]}")
    for run in runs:
        if trial := trials.get(run.data.tags["toprung.trial_id"]):
            result.problems += _status_problems(trial, run)

    # Every epoch once, in order, in every record.
    client = mlflow.MlflowClient(tracking_uri=uri)
    for run in runs:
        if trial := trials.get(run.data.tags["toprung.trial_id"]):
            problems = _step_problems(trial, run, client, metric=metric)
            result.steps_increase = result.steps_increase and not problems
            result.problems += problems
            result.problems += [] if trial.number in gone else _weights_problems(trial, run, uri=uri)

    problems = _winner_problems(folder, trials, metric=metric)
    result.winner_loads = not problems
    result.problems += problems
    return result


def runs_of(sweep_id: str, *, uri: str) -> tuple[list[Run], list[Run]]:
    """Return a sweep's active runs in MLflow: those of its trials, and that of the sweep itself."""
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, f"tags.toprung.sweep_id = '{sweep_id}'", max_results=1000)
    own = [run for run in runs if run.data.tags["toprung.kind"] == "sweep"]
    of_trials = [run for run in runs if run not in own]
    assert all(run.data.tags["mlflow.parentRunId"] in {parent.info.run_id for parent in own} for run in of_trials)
    return of_trials, own


def _status_problems(trial: FrozenTrial, run: Run) -> list[str]:
    status = trial.user_attrs.get("end", {}).get("status")
    message = (trial.state.name, run.info.status)
    if WORDS.get(status) != message or run.data.tags.get("toprung.status") != status:
        tag = run.data.tags.get("toprung.status")
        return [f"trial {trial.number}: the ledger says {status}, Optuna and MLflow say {message}, its tag {tag}"]
    return []


def _step_problems(trial: FrozenTrial, run: Run, client: mlflow.MlflowClient, *, metric: str) -> list[str]:
    """Check that ledger, Optuna and MLflow have the same epochs 1, 2, 3, ... with the same values."""
    reported = {
        int(name.removeprefix("epoch/")): content["metrics"]
        for name, content in trial.user_attrs.items()
        if name.startswith("epoch/")
    }
    steps = list(range(1, len(reported) + 1))
    problems = []
    if sorted(reported) != steps or list(trial.intermediate_values) != steps:
        problems.append(f"trial {trial.number}: the ledger has epochs {sorted(reported)}, Optuna has "
                     f"{list(trial.intermediate_values)}")  # fmt: skip
    known = {name for name in run.data.metrics if not name.startswith("best/")}
    for name in sorted({name for metrics in reported.values() for name in metrics} | known):
        history = client.get_metric_history(run.info.run_id, name)
        history = sorted(history, key=lambda metric: (metric.timestamp, metric.step))
        if [metric.step for metric in history] != steps:
            problems.append(
                f"trial {trial.number}: MLflow has steps {[m.step for m in history]} of {name}, not {steps}"
            )
        elif [metric.value for metric in history] != [reported[step].get(name) for step in steps]:
            problems.append(f"trial {trial.number}: MLflow has other values of {name}")
    values = trial.intermediate_values
    for name in sorted(set(run.data.metrics) - known - {"best/epoch"}):
        bests = sorted(client.get_metric_history(run.info.run_id, name), key=lambda metric: metric.step)
        if [best.value for best in bests] != [values[best.step] for best in bests]:
            problems.append(f"trial {trial.number}: MLflow has other values of {name}")
        if bests[-1].value not in (max(values.values()), min(values.values())):
            problems.append(f"trial {trial.number}: MLflow has {bests[-1].value} as {name}")
        if run.data.metrics["best/epoch"] != bests[-1].step:
            problems.append(f"trial {trial.number}: MLflow has {run.data.metrics['best/epoch']:g} as best/epoch")
    if trial.intermediate_values != {step: metrics[metric] for step, metrics in reported.items()}:
        problems.append(f"trial {trial.number}: Optuna has other values")
    return problems


def _weights_problems(trial: FrozenTrial, run: Run, *, uri: str) -> list[str]:
    """Check that the trial's weights in MLflow are those of its best epoch."""
    values = trial.intermediate_values
    if not values:
        return []
    best = min(step for step, value in values.items() if value == max(values.values()))
    with tempfile.TemporaryDirectory() as folder:
        source = {"run_id": run.info.run_id, "tracking_uri": uri, "dst_path": folder}
        try:
            file = Path(mlflow.artifacts.download_artifacts(artifact_path="model.json", **source))
            epoch = json.loads(file.read_text())["epoch"]
        except (OSError, mlflow.MlflowException) as error:
            return [f"trial {trial.number}: MLflow has no weights of it: {error}"]
    return [] if epoch == best else [f"trial {trial.number}: MLflow has the weights of epoch {epoch}, not of {best}"]


def _winner_problems(folder: Path, trials: Mapping[str, FrozenTrial], *, metric: str) -> list[str]:
    """Check that the exported model returns logits and scores the best value of the trials that did not fail."""
    best = max(
        value for trial in trials.values() if trial.state.name != "FAIL" for value in trial.intermediate_values.values()
    )
    try:
        model = load_model(folder / "export")
        classes = json.loads((folder / "export" / "labels.json").read_text())["classes"]
        verified = json.loads((folder / "export" / "metrics.json").read_text())["verified"][metric]
        shape = json.loads((folder / "export" / "config.json").read_text())["toprung"]["arguments"]["image_shape"]
        with torch.no_grad():
            logits_NK = model.eval()(torch.zeros(2, *shape, dtype=torch.uint8))
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        return [f"the winner does not load: {type(error).__name__}: {error}"]
    problems = []
    if logits_NK.shape != (2, len(classes)) or not logits_NK.isfinite().all():
        problems.append(f"the winner gives {logits_NK}")
    if verified != best:
        problems.append(f"the winner scores {verified}, the best trial {best}")
    return problems
