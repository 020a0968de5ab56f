"""Measure the overhead of a sweep: the same training with `toprung sweep`, with Optuna alone, and in bare processes.

    python bench/overhead.py --runs 3 --json overhead.json
    python bench/overhead.py --runs 1 --scale 1 --scale 5      # also with five times the epochs

Each run sweeps 24 trials (ASHA, rungs 1, 3, 9; two at a time, one thread each) on 10,000 Fashion-MNIST images, then
repeats exactly these trainings (same configurations, same epochs, same order) twice in two processes: with Optuna alone
(a study in a journal file, a pruner that is asked after each epoch), and in bare processes that share a queue. Neither
keeps checkpoints or writes to MLflow. `--scale 5` multiplies the rungs by five. The output has for each lane the median
(minimum to maximum) over the runs of:

training share    CPU seconds inside the training loops / (2 x seconds from the first step to the last)
between trials    seconds from a trial's end to the next one's first step in the same process (median of a run)
to first step     seconds from the command to the first training step
to the end        seconds from the last step to the end of the command
memory            peak sum of PSS over the process tree, in GB

For `toprung sweep` it also has the CPU seconds of each of its processes, until the first epoch has ended and after it.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from processes import watch

PROJECT = Path(__file__).resolve().parent.parent
LANES = ("toprung sweep", "Optuna alone", "bare processes")
RECIPE = '''"""The sweep that bench/overhead.py measures."""

from toprung.spec import Asha, Data, Sweep


def sweep() -> Sweep:
    return Sweep(
        name="overhead",
        trainer="trainers.measured",
        space="search_spaces.measured",
        data=Data(name="{data}", max_train={num_train}, max_val=2000),
        num_trials={num_trials},
        max_concurrent_trials=2,
    )
'''
SPACE = '''"""Hyperparameters that change the result, but not the cost of a step."""


def space(trial):
    trial.suggest_float("lr", 1e-4, 1e-1, log=True)
    trial.suggest_float("weight_decay", 1e-5, 1e-1, log=True)
    trial.suggest_categorical("schedule", ["constant", "cosine", "onecycle"])
    trial.suggest_float("label_smoothing", 0.0, 0.2)
'''


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--scale", type=int, action="append", help="factor of the epochs; can be repeated")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--data", default="fashion_mnist", help="a prepared dataset")
    parser.add_argument("--lane", choices=LANES, action="append", help="run only this lane after the sweep")
    parser.add_argument("--json", type=Path, help="write all figures here")
    arguments = parser.parse_args()

    figures: dict[int, dict[str, list[dict]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        project = create_project(Path(folder) / "project", arguments)
        for run in range(arguments.runs):
            for scale in arguments.scale or [1]:
                by_lane = figures.setdefault(scale, {})
                for lane in LANES:
                    if lane == LANES[0] or lane in (arguments.lane or LANES):
                        log = project / f"{run}-{scale}-{LANES.index(lane)}.jsonl"
                        result = sweep(project, log, scale) if lane == LANES[0] else replay(project, log, lane)
                        by_lane.setdefault(lane, []).append(result)
                        print(f"run {run + 1}, {scale} x epochs, {lane}: {json.dumps(result)}", flush=True)
    for scale, by_lane in figures.items():
        print_tables(by_lane, arguments, scale)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def create_project(project: Path, arguments: argparse.Namespace) -> Path:
    """Create a separate project, so that this one is not changed."""
    for name in ("trainers", "search_spaces", "tune"):
        shutil.copytree(PROJECT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    prepared = PROJECT / "data" / "prepared" / arguments.data
    if not prepared.is_dir():
        sys.exit(f"{arguments.data} is not prepared. Type: toprung data prepare {arguments.data}")
    (project / "data" / "prepared").mkdir(parents=True)
    (project / "data" / "prepared" / arguments.data).symlink_to(prepared)
    shutil.copyfile(PROJECT / "bench" / "measured.py", project / "trainers" / "measured.py")
    (project / "search_spaces" / "measured.py").write_text(SPACE, encoding="utf-8")
    recipe = RECIPE.format(data=arguments.data, num_train=arguments.images, num_trials=arguments.trials)
    (project / "tune" / "overhead.py").write_text(recipe, encoding="utf-8")
    return project


def sweep(project: Path, log: Path, scale: int) -> dict:
    """Run one sweep from the command line, with a cold start."""
    rungs = {"asha.max_epochs": 9 * scale, "asha.grace_epochs": scale, "asha.reduction_factor": 3}
    settings = [word for name, value in rungs.items() for word in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "toprung", "sweep", "tune.overhead", *settings]
    environment = {**os.environ, "TOPRUNG_BENCH_LOG": str(log)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    started = time.time()
    process = subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.DEVNULL)
    watched = watch(process.pid, until=lambda: process.poll() is not None, has_begun=log.exists)
    if process.returncode != 0:
        sys.exit(f"the sweep ended with {process.returncode}")
    return {**from_log(log, started), **watched}


def latest(project: Path) -> Path:
    return max((project / "runs").glob("overhead-*"))


def replay(project: Path, log: Path, lane: str) -> dict:
    """Repeat the trainings of the latest sweep in two processes."""
    import optuna

    from toprung.records.ledger import read
    from toprung.records.sweep_dir import SweepDirectory

    trials = [(trial.config, trial.epochs) for trial in read(SweepDirectory(latest(project)))]
    spec = SweepDirectory(latest(project)).spec()
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    target, work = bare_worker, queue
    if lane == "Optuna alone":
        target, work = optuna_worker, str(log.with_suffix(".study"))
        study = optuna.create_study(storage=journal(work), study_name="overhead", direction="maximize")
        for config, epochs in trials:
            params = {name: config[name] for name in ("lr", "weight_decay", "schedule", "label_smoothing")}
            study.enqueue_trial(params, user_attrs={"epochs": epochs})
    else:
        for trial in [*trials, None, None]:
            queue.put(trial)
    started = time.time()
    workers = [
        context.Process(target=target, args=(work, str(project), spec.data.model_dump(), str(log))) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    watched = watch(os.getpid(), until=lambda: not any(worker.is_alive() for worker in workers), include_root=False)
    if any(worker.exitcode for worker in workers):
        sys.exit("a process failed")
    return {**from_log(log, started), **watched}


def journal(file: str):
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(file))


def bare_worker(queue, project: str, data_spec: dict, log: str) -> None:
    train = build_trainer(project, data_spec, log)
    while (job := queue.get()) is not None:
        config, num_epochs = job
        for _ in train(config, num_epochs):
            pass


def optuna_worker(file: str, project: str, data_spec: dict, log: str) -> None:
    train = build_trainer(project, data_spec, log)
    import optuna
    from search_spaces.measured import space

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    study = optuna.load_study(study_name="overhead", storage=journal(file), pruner=pruner)

    def objective(trial: optuna.Trial) -> float:
        if "epochs" not in trial.user_attrs:  # the other process took the last one
            raise optuna.TrialPruned
        space(trial)
        for epoch, metrics in enumerate(train(trial.params, trial.user_attrs["epochs"]), start=1):
            trial.report(metrics["val/accuracy"], epoch)
            trial.should_prune()  # its cost counts; its answer does not, because the number of epochs is given
        return metrics["val/accuracy"]

    while study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,)):
        study.optimize(objective, n_trials=1)


def build_trainer(project: str, data_spec: dict, log: str):
    """Load the images; return a function that trains a configuration and yields the metrics of each epoch."""
    os.environ["TOPRUNG_BENCH_LOG"] = log
    sys.path.insert(0, project)
    import torch

    from toprung import data, session, spec
    from toprung.trial.inputs import load_trial_data
    from trainers import measured

    torch.set_num_threads(1)
    images = load_trial_data(spec.Data.model_validate(data_spec), root=Path(project) / data.PREPARED)
    standalone = session.Session(data=images, folder=Path(log).parent, on_report=lambda metrics: None)

    def train_epochs(config: dict, num_epochs: int):
        config = {**measured.DEFAULTS, **config, "num_epochs": num_epochs}
        trial = time.time_ns()
        with session.open_session(standalone):  # sets device and seed; nothing is reported or saved
            model = session.prepare(measured.build(config, images.card))
            optimizer, schedule, augment = measured.build_training(config, model, images.train, images.card)
            for _ in range(num_epochs):
                yield measured.measured_epoch(model, images, optimizer, schedule, augment, config, trial=trial)

    return train_epochs


def from_log(log: Path, started: float) -> dict:
    """Compute the figures of one run that has just ended."""
    ended = time.time()
    epochs = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    first, last = min(epoch["start"] for epoch in epochs), max(epoch["end"] for epoch in epochs)
    return {
        "training share": sum(epoch["cpu"] for epoch in epochs) / (2 * (last - first)),
        "between trials": statistics.median(gaps(epochs)),
        "to first step": first - started,
        "to the end": ended - last,
        "training CPU seconds": sum(epoch["cpu"] for epoch in epochs),
        "seconds": last - first,
    }


def gaps(epochs: list[dict]) -> list[float]:
    """Return the seconds between a trial's last evaluation and the next trial's first step, for each process."""
    gaps = []
    for pid in {epoch["pid"] for epoch in epochs}:
        own = sorted((epoch for epoch in epochs if epoch["pid"] == pid), key=lambda epoch: epoch["start"])
        gaps += [
            after["start"] - before["end"]
            for before, after in itertools.pairwise(own)
            if after["trial"] != before["trial"]
        ]
    return gaps


def print_tables(by_lane: dict[str, list[dict]], arguments: argparse.Namespace, scale: int) -> None:
    sweeps = by_lane[LANES[0]]
    names = [name for name, value in sweeps[0].items() if not isinstance(value, dict)]
    print(
        f"\n{arguments.trials} trials, {scale} x epochs, {arguments.images} images of {arguments.data}, "
        f"{arguments.runs} interleaved runs"
    )
    print("| lane | " + " | ".join(names) + " |\n|" + " --- |" * (len(names) + 1))
    for lane, runs in by_lane.items():
        print(f"| {lane} | " + " | ".join(spread([run[name] for run in runs], digits=3) for name in names) + " |")
    kinds = sorted({kind for run in sweeps for kind in run["cpu after"]} | {k for r in sweeps for k in r["cpu before"]})
    print("\n| process of `toprung sweep` | CPU s until the first epoch ended | after it |\n| --- | --- | --- |")
    for kind in kinds:
        cells = [spread([run[part].get(kind, 0.0) for run in sweeps], digits=1) for part in ("cpu before", "cpu after")]
        print(f"| {kind} | " + " | ".join(cells) + " |")


def spread(values: list[float], *, digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    main()
