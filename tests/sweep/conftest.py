"""Whole sweeps run by the real command, each run once and inspected by many tests."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import filelock
import mlflow
import psutil
import pytest

from tests.marked import processes_marked
from tests.servers import Postgres, TrackingServer
from toprung import data

# Fixtures in individual test files that run a sweep or start servers; the tests that use them are slow.
SLOW_FIXTURES = {"confirmed", "interrupted", "killed", "pair", "reached", "recorded", "refit", "swept", "team"}

PROJECT = Path(__file__).parent.parent.parent
TINY = ("constants.width=4", "constants.depth=1", "max_train=200")

# Most trials of this space fail, each in a different way that its configuration specifies.
FAULTS_SPACE = """
FAULTS = ["none", "nan", "raise", "die", "early", "silent", "late"]


def space(trial):
    trial.suggest_float("lr", 1e-4, 1e-2, log=True)
    return {"fault": FAULTS[trial.number % len(FAULTS)]}
"""

FAULTS_TRAINER = """
import os

from toprung import session
from trainers import convnet

DEFAULTS = {"fault": "none", "lr": 1e-3, "model": "convnet", "width": 4, "depth": 1}


def train_loop_per_worker(config):
    fault = config["fault"]
    if fault == "raise":
        raise KeyError("no such thing")
    if fault == "die":
        os._exit(7)
    if fault == "silent":
        return
    loop = {**convnet.DEFAULTS, **config}
    if fault == "nan":
        loop |= {"optimizer": "sgd", "lr": 1e30, "schedule": "constant"}
    if fault == "early":
        loop["num_epochs"] = 1
    report = session.report
    if fault == "late":

        def failing(metrics, run):
            report(metrics, run)
            raise ValueError("after\\nan epoch")

        session.report = failing
    try:
        convnet.train_loop_per_worker(loop)
    finally:
        session.report = report
"""

FAULTS_RECIPE = """
from toprung.spec import Asha, Data, Sweep


def sweep():
    return Sweep(
        name="faults",
        trainer="trainers.faults",
        space="search_spaces.faults",
        data=Data(name="digits", max_train=200),
        num_trials=7,
        asha=Asha(max_epochs=2, grace_epochs=2),
    )
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent and SLOW_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("slow")


@dataclass
class Command:
    """One `toprung` command: its process and, once it has exited, its output."""

    folder: Path
    process: subprocess.Popen
    mark: str
    stdout: str = ""
    stderr: str = ""
    lines: list[str] = field(default_factory=list)

    @property
    def code(self) -> int:
        return self.process.returncode

    def read_until(self, result: Callable[[str], bool]) -> str:
        """Read stdout up to the first line for which `result` is true."""
        for line in self.process.stdout:
            self.lines.append(line)
            if result(line):
                return line
        raise AssertionError(f"not found in {''.join(self.lines)}{self.process.stderr.read()}")

    def finish(self, *, timeout_seconds: float = 240) -> "Command":
        rest, self.stderr = self.process.communicate(timeout=timeout_seconds)
        self.stdout = "".join(self.lines) + rest
        return self

    def interrupt(self) -> "Command":
        """Send SIGINT to the whole process group, as a terminal does on Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self

    def processes(self) -> list[psutil.Process]:
        """Return all running descendants of this command, which inherit one of its environment variables."""
        return processes_marked(self.mark)

    def left_behind(self) -> list[str]:
        """Return the command lines of processes that are still running a few seconds after the command."""
        for _ in range(100):
            left = self.processes()
            if not left:
                return []
            time.sleep(0.1)
        return [" ".join(process.cmdline()) for process in left]


@dataclass
class Swept:
    """A sweep that has ended, as its files, MLflow and `toprung show --json` describe it."""

    command: Command
    storage: Path
    shown: dict
    uri: str

    @property
    def folder(self) -> Path:
        return self.storage / self.shown["sweep_id"]

    @property
    def client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(tracking_uri=self.uri)

    @property
    def parent(self) -> mlflow.entities.Run:
        return self.client.get_run(self.shown["mlflow_run_id"])

    @property
    def children(self) -> dict[str, mlflow.entities.Run]:
        """MLflow's child runs, by trial id."""
        result = self.client.search_runs(
            [self.shown["mlflow_experiment_id"]],
            filter_string=f"tags.mlflow.parentRunId = '{self.shown['mlflow_run_id']}'",
            max_results=1000,
        )
        assert len({run.data.tags["toprung.trial_id"] for run in result}) == len(result)
        return {run.data.tags["toprung.trial_id"]: run for run in result}

    @property
    def trials(self) -> dict[str, dict]:
        return {trial["trial_id"]: trial for trial in self.shown["trials"]}


@pytest.fixture(scope="session")
def prepared_digits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "digits"
    data.prepare("digits", out=folder)
    return folder


@pytest.fixture(scope="session")
def new_bench(tmp_path_factory, prepared_digits) -> Callable[..., Path]:
    """Create a project with the digits prepared, in a Git repository unless `git` is false."""

    def make(*, git: bool = True) -> Path:
        root = tmp_path_factory.mktemp("bench") / "user_project"
        root.mkdir()
        for name in ("trainers", "search_spaces", "tune"):
            shutil.copytree(PROJECT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("requirements.lock", ".gitignore"):
            shutil.copy(PROJECT / name, root / name)
        shutil.copytree(prepared_digits, root / "data" / "prepared" / "digits")
        (root / "trainers" / "faults.py").write_text(FAULTS_TRAINER)
        (root / "search_spaces" / "faults.py").write_text(FAULTS_SPACE)
        (root / "tune" / "faults.py").write_text(FAULTS_RECIPE)
        if git:
            for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "A project"]):
                subprocess.run(["git", *command], cwd=root, check=True)
        return root

    return make


@pytest.fixture(scope="session")
def bench(new_bench) -> Path:
    """A project that tests read and run sweeps in, but do not modify."""
    return new_bench()


@pytest.fixture(scope="session")
def start():
    """Start `toprung ...` in its own process group, as a terminal does; kill what a failed test left running."""
    commands = []

    def begin(
        *arguments: str, folder: Path, env: dict[str, str] | None = None, before: tuple[str, ...] = ()
    ) -> Command:
        mark = uuid.uuid4().hex
        process = subprocess.Popen(
            [*before, sys.executable, "-m", "toprung", *map(str, arguments)],
            cwd=folder,
            env={**os.environ, **(env or {}), "TEST_MARK": mark, "COLUMNS": "140"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        commands.append(Command(folder, process, mark))
        return commands[-1]

    yield begin
    for command in commands:
        for stream in (command.process.stdout, command.process.stderr):
            stream.close()
        if command.process.poll() is None:
            for process in command.processes():
                process.kill()
            command.process.wait()


@pytest.fixture(scope="session")
def toprung(start):
    """Run `toprung ...` and wait until it exits."""
    return lambda *arguments, **where: start(*arguments, **where).finish()


@pytest.fixture(scope="session")
def sweep_of(toprung):
    """A function that returns the sweep that a command ran, with the output of `toprung show`."""

    def read(command: Command, storage: Path, *, uri: str | None = None) -> Swept:
        listed = toprung("list", "--json", "--storage", storage, folder=command.folder)
        assert listed.code == 0, listed.stderr
        newest = json.loads(listed.stdout)[0]["sweep_id"]
        shown = toprung("show", newest, "--json", "--storage", storage, folder=command.folder)
        assert shown.code == 0, shown.stderr
        return Swept(command, storage, json.loads(shown.stdout), uri or f"sqlite:///{storage}/mlflow.db")

    return read


@pytest.fixture(scope="session")
def shared_sweep(bench, toprung, sweep_of, tmp_path_factory):
    """Run a sweep once for the whole session, in whichever pytest-xdist process needs it first."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared-sweeps"

    def run(name: str, *arguments: str) -> Swept:
        storage = root / name
        record = root / f"{name}.json"
        root.mkdir(exist_ok=True)
        with filelock.FileLock(root / f"{name}.lock"):
            if not record.exists():
                command = toprung("sweep", *arguments, "--set", f"storage={storage}", folder=bench)
                swept = sweep_of(command, storage)
                output = {"code": command.code, "stdout": command.stdout, "stderr": command.stderr}
                content = {"folder": str(bench), "shown": swept.shown, "uri": swept.uri, "mark": command.mark, **output}
                record.write_text(json.dumps(content), encoding="utf-8")
        content = json.loads(record.read_text(encoding="utf-8"))
        process = SimpleNamespace(returncode=content["code"])
        command = Command(Path(content["folder"]), process, content["mark"], content["stdout"], content["stderr"])
        return Swept(command, storage, content["shown"], content["uri"])

    return run


@pytest.fixture(scope="session")
def finished(shared_sweep) -> Swept:
    """A successful sweep over all training images of the digits."""
    settings = ["max_train=null", "constants.width=8", "constants.depth=2"]
    return shared_sweep(
        "finished", "tune.smoke", *(word for setting in settings for word in ("--set", setting)), "--name", "well"
    )


@pytest.fixture(scope="session")
def faulty(shared_sweep) -> Swept:
    """A sweep in which all trials but two fail, each in a different way."""
    return shared_sweep("faulty", "tune.faults")


@pytest.fixture(scope="session")
def team(tmp_path_factory):
    """MLflow and PostgreSQL servers, and the environment variables with their addresses and passwords."""
    if reason := Postgres.missing():
        pytest.skip(reason)
    if importlib.util.find_spec("flask_wtf") is None:
        pytest.skip("MLflow's basic auth needs Flask-WTF: pip install 'mlflow[auth]'")
    with Postgres() as postgres:
        folder, backend_uri = tmp_path_factory.mktemp("team"), postgres.new_database("mlflow")
        with TrackingServer(folder, backend_uri=backend_uri, protected=True) as server:
            study_uri = postgres.new_database("studies")
            environment = {"MLFLOW_TRACKING_URI": server.uri, "TOPRUNG_STUDY_URI": study_uri}
            yield SimpleNamespace(
                postgres=postgres, server=server, study_uri=study_uri, environment=environment, folder=folder
            )
