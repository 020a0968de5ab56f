"""Measure the overhead of a sweep: the same trainings with `toprung sweep` and in two bare processes.

    python bench/overhead.py --runs 3 --json overhead.json

Each run sweeps 24 trials (ASHA, rungs 1, 3, 9; two at a time, one thread each) on 10,000 Fashion-MNIST images, then
repeats exactly these trainings (same configurations, same epochs, same order) in two plain processes that share a
queue, without any framework, checkpoint or tracking. The output has, for both, the median (minimum to maximum) over the
runs of:

training share    CPU seconds inside the training loops / (2 x seconds from the first step to the last)
between trials    seconds from a trial's end to the next one's first step in the same process (median of a run)
to first step     seconds from the command to the first training step
memory            peak sum of PSS over the process tree, in GB
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

import psutil

PROJECT = Path(__file__).resolve().parent.parent
RECIPE = '''"""The sweep that bench/overhead.py measures."""

from toprung.spec import Asha, Data, Sweep


def sweep() -> Sweep:
    return Sweep(
        name="overhead",
        trainer="trainers.measured",
        space="search_spaces.measured",
        data=Data(name="{data}", max_train={num_train}, max_val=2000),
        num_trials={num_trials},
        asha=Asha(grace_epochs=1, max_epochs=9, reduction_factor=3),
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
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--data", default="fashion_mnist", help="a prepared dataset")
    parser.add_argument("--json", type=Path, help="write all figures here")
    arguments = parser.parse_args()

    figures: dict[str, list[dict[str, float]]] = {"toprung sweep": [], "bare processes": []}
    with tempfile.TemporaryDirectory() as folder:
        project = create_project(Path(folder) / "project", arguments)
        for run in range(arguments.runs):
            log = project / f"sweep-{run}.jsonl"
            figures["toprung sweep"].append(sweep(project, log))
            figures["bare processes"].append(replay(project, project / f"bare-{run}.jsonl"))
            for variant, runs in figures.items():
                print(f"run {run + 1}, {variant}: {json.dumps(runs[-1])}", flush=True)
    print_table(figures, arguments)
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


def sweep(project: Path, log: Path) -> dict[str, float]:
    """Run one sweep from the command line, with a cold start."""
    command = [sys.executable, "-m", "toprung", "sweep", "tune.overhead"]
    environment = {**os.environ, "TOPRUNG_BENCH_LOG": str(log)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    started = time.time()
    process = subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.DEVNULL)
    peak = peak_memory(process.pid, until=lambda: process.poll() is not None)
    if process.returncode != 0:
        sys.exit(f"the sweep ended with {process.returncode}")
    return {**from_log(log, started), "memory": peak}


def latest(project: Path) -> Path:
    return max((project / "runs").glob("overhead-*"))


def replay(project: Path, log: Path) -> dict[str, float]:
    """Repeat the trainings of the latest sweep in two bare processes."""
    from toprung.records.ledger import read
    from toprung.records.sweep_dir import SweepDirectory

    trials = [(trial.config, trial.epochs) for trial in read(SweepDirectory(latest(project)))]
    spec = SweepDirectory(latest(project)).spec()
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    for trial in trials:
        queue.put(trial)
    for _ in range(2):
        queue.put(None)
    started = time.time()
    workers = [
        context.Process(target=bare_worker, args=(queue, str(project), spec.data.model_dump(), str(log)))
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    peak = peak_memory(os.getpid(), until=lambda: not any(worker.is_alive() for worker in workers), include_root=False)
    if any(worker.exitcode for worker in workers):
        sys.exit("a bare process failed")
    return {**from_log(log, started), "memory": peak}


def bare_worker(queue, project: str, data_spec: dict, log: str) -> None:
    os.environ["TOPRUNG_BENCH_LOG"] = log
    sys.path.insert(0, project)
    import torch

    from toprung import data, session, spec, vision
    from trainers import measured

    torch.set_num_threads(1)
    root = Path(project) / data.PREPARED
    arrays, _ = data.split_arrays(spec.Data.model_validate(data_spec), root=root)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    train = vision.ImageSplit(tensors["train_images"], tensors["train_labels"])
    val = vision.ImageSplit(tensors["val_images"], tensors["val_labels"])
    card = data.open_prepared(data_spec["name"], root=root).card
    images = session.TrialData(train, val, card)
    standalone = session.Session(data=images, folder=Path(log).parent, on_report=lambda metrics: None)
    while (job := queue.get()) is not None:
        config, num_epochs = {**measured.DEFAULTS, **job[0]}, job[1]
        trial = time.time_ns()
        with session.open_session(standalone):  # sets device and seed; nothing is reported or saved
            model = session.prepare(measured.build(config, card))
            optimizer, schedule, augment = measured.build_training(config, model, train, card)
            for _ in range(num_epochs):
                measured.measured_epoch(model, images, optimizer, schedule, augment, config, trial=trial)


def from_log(log: Path, started: float) -> dict[str, float]:
    """Compute the figures of one run."""
    epochs = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    first, last = min(epoch["start"] for epoch in epochs), max(epoch["end"] for epoch in epochs)
    return {
        "training share": sum(epoch["cpu"] for epoch in epochs) / (2 * (last - first)),
        "between trials": statistics.median(gaps(epochs)),
        "to first step": first - started,
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


def peak_memory(pid: int, *, until, include_root: bool = True) -> float:
    """Return the highest sum of PSS over a process tree, in GB.

    It is sampled every ten seconds, because each sample costs a few tenths of a second of CPU time.

    Args:
        pid: the root of the tree.
        until: sample until this function returns true.
        include_root: whether to count the root process itself.
    """
    peak = 0
    while not until():
        total = 0
        parent = psutil.Process(pid)
        for process in [*([parent] if include_root else []), *parent.children(recursive=True)]:
            try:
                total += process.memory_full_info().pss
            except psutil.Error:
                continue
        peak = max(peak, total)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and not until():
            time.sleep(0.05)
    return peak / 1e9


def print_table(figures: dict[str, list[dict[str, float]]], arguments: argparse.Namespace) -> None:
    names = list(figures["toprung sweep"][0])
    print(
        f"\n{arguments.trials} trials, {arguments.images} images of {arguments.data}, {arguments.runs} interleaved runs"
    )
    print("| variant | " + " | ".join(names) + " |\n|" + " --- |" * (len(names) + 1))
    for variant, runs in figures.items():
        cells = []
        for name in names:
            values = [run[name] for run in runs]
            cells.append(f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})")
        print(f"| {variant} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
