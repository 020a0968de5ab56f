"""The lanes that bench/tracking.py compares, each a separate command, and the measurement of its driver's CPU time."""

import contextlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

BENCH = Path(__file__).resolve().parent
TICKS = os.sysconf("SC_CLK_TCK")
SAMPLE_SECONDS = 0.1

RECIPE = '''"""The sweep that bench/tracking.py measures, without early stopping."""

from toprung.spec import Asha, Data, Sweep


def sweep() -> Sweep:
    return Sweep(
        name="instant",
        trainer="trainers.instant",
        space="search_spaces.instant",
        data=Data(name="digits", max_train=100, max_val=100),
        metric="val/score",
        mode="max",
        asha=Asha(grace_epochs=1, max_epochs=1),
        max_concurrent_trials=2,
    )
'''
SPACE = '''"""The same four hyperparameters as in bench/overhead.py."""


def space(trial):
    trial.suggest_float("lr", 1e-4, 1e-1, log=True)
    trial.suggest_float("weight_decay", 1e-5, 1e-1, log=True)
    trial.suggest_categorical("schedule", ["constant", "cosine", "onecycle"])
    trial.suggest_float("label_smoothing", 0.0, 0.2)
'''


def create_project(project):
    """Create a project with one recipe, one search space and the trainer that only reports."""
    prepared = BENCH.parent / "data" / "prepared" / "digits"
    if not prepared.is_dir():
        sys.exit("digits is not prepared. Type: toprung data prepare digits")
    for name in ("trainers", "search_spaces", "tune"):
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").touch()
    (project / "data" / "prepared").mkdir(parents=True)
    (project / "data" / "prepared" / "digits").symlink_to(prepared)
    shutil.copyfile(BENCH / "instant.py", project / "trainers" / "instant.py")
    (project / "search_spaces" / "instant.py").write_text(SPACE, encoding="utf-8")
    (project / "tune" / "instant.py").write_text(RECIPE, encoding="utf-8")
    return project


@dataclass(frozen=True)
class Size:
    """The number of trials in a run, and of reports per trial."""

    trials: int
    reports: int = 1


@dataclass(frozen=True)
class Lane:
    """A way to run instant trials."""

    name: str
    toprung: bool = False
    searcher: str = "random"
    tracked: bool = False
    failing: bool = False

    def command(self, size, *, storage, startup, uri=None):
        """Return the command line. `uri` replaces the SQLite file of MLflow."""
        if self.toprung:
            settings = {
                "num_trials": size.trials,
                "asha.max_epochs": size.reports,  # first, so that grace_epochs never exceeds it
                "asha.grace_epochs": size.reports,
                "search.num_startup_trials": startup,
                "search.sampler": "random" if startup > size.trials else "tpe",
                "storage": storage,
            }
            pairs = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
            return [sys.executable, "-m", "toprung", "sweep", "tune.instant", *pairs]
        words = [sys.executable, BENCH / "tracking_stock.py", "--searcher", self.searcher, "--startup", startup]
        words += ["--trials", size.trials, "--reports", size.reports, "--storage", storage]
        if self.tracked:
            words += ["--mlflow", uri or f"sqlite:///{storage}/mlflow.db"]
        return [str(word) for word in words]


RANDOM = Lane("stock Tune, random search")
OPTUNA = Lane("stock Tune, OptunaSearch", searcher="optuna")
CALLBACK = Lane("stock Tune, MLflow callback", searcher="optuna", tracked=True)
TOPRUNG = Lane("toprung sweep, all features", toprung=True, tracked=True)
FAILING = Lane("toprung sweep, a third fail", toprung=True, tracked=True, failing=True)


@dataclass(frozen=True)
class Measurement:
    """One run, from its first report.

    `samples` are pairs of the number of reports and the driver's CPU seconds, `memory_mb` is the driver's peak resident
    memory, and `mlflow_runs` the number of MLflow's runs by status.
    """

    reports: int
    cpu_seconds: float
    seconds_reporting: float
    seconds: float
    samples: tuple[tuple[int, float], ...]
    memory_mb: float = 0.0
    writer_cpu_seconds: float = 0.0
    mlflow_runs: dict[str, int] = field(default_factory=dict)

    def as_json(self):
        """Return a dictionary with a few hundred samples, which are enough to show the slope."""
        step = max(1, len(self.samples) // 200)
        return {**asdict(self), "samples": [*self.samples[::step], self.samples[-1]]}


def run(lane, size, *, project, startup, uri=None, pause=0.0):
    """Run a lane in a separate storage folder, which is removed afterwards, and return its measurement."""
    storage, log = project / "storage", project / "reports.log"
    log.write_text("", encoding="utf-8")
    storage.mkdir()
    environment = {**os.environ, "TOPRUNG_BENCH_LOG": str(log), "TOPRUNG_BENCH_PAUSE": str(pause)}
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [os.environ.get("PYTHONPATH"), *([] if lane.toprung else [str(BENCH), str(project)])])
    )
    environment.pop("MLFLOW_TRACKING_URI", None)
    if lane.failing:
        environment["TOPRUNG_BENCH_FAIL"] = "1"
    if lane.toprung and uri:
        environment["MLFLOW_TRACKING_URI"] = uri
    output = project / "output.log"
    with output.open("w", encoding="utf-8") as file:
        command = lane.command(size, storage=storage, startup=startup, uri=uri)
        process = subprocess.Popen(command, cwd=project, env=environment, stdout=file, stderr=subprocess.STDOUT)
        try:
            measurement = measure(process, log)
        finally:
            end(process)
    if process.returncode != 0 or measurement.reports != size.trials * size.reports:
        reports = f"{measurement.reports} of {size.trials * size.reports} reports"
        tail = output.read_text(encoding="utf-8")[-2000:]
        sys.exit(f"{lane.name} ended with {process.returncode} after {reports}:\n{tail}")
    measurement = replace(
        measurement, writer_cpu_seconds=writer_cpu_seconds(storage), mlflow_runs=mlflow_runs(storage / "mlflow.db")
    )
    shutil.rmtree(storage)
    return measurement


def writer_cpu_seconds(storage):
    """Return the CPU seconds that the MLflow writer printed to the sweep's log; 0 for stock Tune."""
    logs = "".join(log.read_text(errors="replace", encoding="utf-8") for log in storage.glob("*/sweep.log"))
    return sum(float(seconds) for seconds in re.findall(r"^MLflow writer: ([0-9.]+) s of CPU", logs, re.MULTILINE))


def mlflow_runs(file):
    """Return the number of runs by status in an SQLite file."""
    if not file.exists():
        return {}
    with contextlib.closing(sqlite3.connect(file)) as database:
        return dict(database.execute("SELECT status, count(*) FROM runs GROUP BY status"))


def measure(process, log):
    """Measure the CPU seconds of a driver until it ends, including its threads but no other processes."""
    samples, reports, memory_mb = [], 0, 0.0
    with log.open("rb") as lines:
        while True:
            ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # keeps /proc/<pid>
            reports += lines.read().count(b"\n")
            if reports:
                samples.append((reports, cpu_seconds(process.pid)))
                memory_mb = max(memory_mb, peak_memory_mb(process.pid))
            if ended:
                break
            time.sleep(SAMPLE_SECONDS)
    ended_at, times = time.time(), sorted(float(line) for line in log.read_text(encoding="utf-8").splitlines())
    if not times:
        return Measurement(0, 0.0, 0.0, 0.0, ())
    cpu = samples[-1][1] - samples[0][1]
    return Measurement(reports, cpu, times[-1] - times[0], ended_at - times[0], tuple(samples), memory_mb)


def cpu_seconds(pid):
    """Return the user and system time of a process, which is available even for a zombie."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak_memory_mb(pid):
    """Return the highest resident memory of a process so far; 0 for a zombie."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def end(process):
    """End a process that may still be running. Ctrl-C comes first, so that it can stop its Ray."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(number)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
