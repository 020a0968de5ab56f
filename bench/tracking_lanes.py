"""The ways that bench/tracking.py compares, each a command of its own, and a watch over its driver's processor time."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

BENCH = Path(__file__).resolve().parent
TICKS = os.sysconf("SC_CLK_TCK")
LOOK_SECONDS = 0.1

RECIPE = '''"""The sweep that bench/tracking.py measures: nothing is stopped early."""

from toprung.spec import Asha, Data, Sweep


def sweep() -> Sweep:
    return Sweep(
        name="instant",
        trainer="trainers.instant",
        space="search_spaces.instant",
        data=Data(name="digits", max_train=100, max_val=100),
        metric="val/score",
        asha=Asha(grace_epochs=1, max_epochs=1),
        max_concurrent_trials=2,
    )
'''
SPACE = '''"""Four hyperparameters, as in bench/overhead.py."""


def space(trial):
    trial.suggest_float("lr", 1e-4, 1e-1, log=True)
    trial.suggest_float("weight_decay", 1e-5, 1e-1, log=True)
    trial.suggest_categorical("schedule", ["constant", "cosine", "onecycle"])
    trial.suggest_float("label_smoothing", 0.0, 0.2)
'''


def workbench(project):
    """A workbench with one recipe, one space and the trainer that costs nothing."""
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
    """How much a run does."""

    trials: int
    reports: int = 1


@dataclass(frozen=True)
class Lane:
    """One way to run instant trials: its name, and what it is made of."""

    name: str
    toprung: bool = False
    searcher: str = "random"
    tracked: bool = False

    def command(self, size, *, storage, startup, uri=None):
        """The command line; `uri` replaces the sqlite file that tracking goes to."""
        if self.toprung:
            settings = {
                "num_trials": size.trials,
                "asha.max_epochs": size.reports,  # first, so that the grace is never above it
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
TOPRUNG = Lane("toprung sweep, everything on", toprung=True, tracked=True)


@dataclass(frozen=True)
class Watched:
    """One run from its first report on. `looks` are (reports heard of, the driver's CPU seconds) along the way."""

    reports: int
    cpu_seconds: float
    seconds_reporting: float
    seconds: float
    looks: tuple[tuple[int, float], ...]
    writer_cpu_seconds: float = 0.0

    def as_json(self):
        """With some hundred of the looks: they show the slope as well."""
        step = max(1, len(self.looks) // 200)
        return {**asdict(self), "looks": [*self.looks[::step], self.looks[-1]]}


def run(lane, size, *, project, startup, uri=None, pause=0.0):
    """Run a lane to its end in a storage folder of its own, which is removed afterwards."""
    storage, log = project / "storage", project / "reports.log"
    log.write_text("", encoding="utf-8")
    storage.mkdir()
    environment = {**os.environ, "TOPRUNG_BENCH_LOG": str(log), "TOPRUNG_BENCH_PAUSE": str(pause)}
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [os.environ.get("PYTHONPATH"), *([] if lane.toprung else [str(BENCH), str(project)])])
    )
    environment.pop("MLFLOW_TRACKING_URI", None)
    if lane.toprung and uri:
        environment["MLFLOW_TRACKING_URI"] = uri
    output = project / "output.log"
    with output.open("w", encoding="utf-8") as file:
        command = lane.command(size, storage=storage, startup=startup, uri=uri)
        process = subprocess.Popen(command, cwd=project, env=environment, stdout=file, stderr=subprocess.STDOUT)
        try:
            watched = watch(process, log)
        finally:
            end(process)
    if process.returncode != 0 or watched.reports != size.trials * size.reports:
        heard = f"{watched.reports} of {size.trials * size.reports} reports"
        sys.exit(
            f"{lane.name} ended with {process.returncode} after {heard}:\n{output.read_text(encoding='utf-8')[-2000:]}"
        )
    watched = replace(watched, writer_cpu_seconds=writer_cpu_seconds(storage))
    shutil.rmtree(storage)
    return watched


def writer_cpu_seconds(storage):
    """What the process that writes to MLflow says of itself in the sweep's log; none in the stock lanes."""
    logs = "".join(log.read_text(errors="replace", encoding="utf-8") for log in storage.glob("*/sweep.log"))
    return sum(float(seconds) for seconds in re.findall(r"^MLflow writer: ([0-9.]+) s of CPU", logs, re.MULTILINE))


def watch(process, log):
    """Follow a driver until it ends: its own CPU seconds, threads included, and no other process's."""
    looks, reports = [], 0
    with log.open("rb") as lines:
        while True:
            ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # leaves /proc/<pid> there
            reports += lines.read().count(b"\n")
            if reports:
                looks.append((reports, cpu_seconds(process.pid)))
            if ended:
                break
            time.sleep(LOOK_SECONDS)
    ended_at, times = time.time(), sorted(float(line) for line in log.read_text(encoding="utf-8").splitlines())
    if not times:
        return Watched(0, 0.0, 0.0, 0.0, ())
    return Watched(reports, looks[-1][1] - looks[0][1], times[-1] - times[0], ended_at - times[0], tuple(looks))


def cpu_seconds(pid):
    """User and system time of one process; a zombie still has its own."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def end(process):
    """A run that was cut short takes its Ray along: Ctrl-C first, as a person would."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(number)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
