"""Small sweeps for fault injection, run by the real command, each in its own storage root and process group."""

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

import psutil

from tests.marked import processes_marked
from toprung import data
from toprung.records import catalog
from toprung.records.sweep_dir import SweepDirectory
from toprung.records.trial_folder import TRIAL_LOCK_FILE

PROJECT = Path(__file__).parent.parent.parent
NUM_TRIALS = 6
SMALL = ("constants.width=4", "constants.depth=1", "constants.batch_size=32", "max_train=200")
LONGEST_COMMAND_SECONDS = 240
STARTED, ENDED = '{"start":', '{"end":'  # in the ledger's lines

# The driver imports its recipe; this one kills the driver with SIGKILL at an exact line of its ledger.
DYING_RECIPE = """
import os
import signal

from tune import smoke

LINES_LEFT = int(os.environ.get("DIES_AT_LINE", "0"))
IN_LINE = "DIES_IN_LINE" in os.environ


def sweep():
    return smoke.sweep().model_copy(update={"trainer": "trainers.paced"})


def dying(file, data):
    global LINES_LEFT
    if not os.readlink(f"/proc/self/fd/{file}").endswith("/ledger.log"):
        return write(file, data)
    lines = bytes(data).splitlines(keepends=True)
    if len(lines) < LINES_LEFT:
        LINES_LEFT -= len(lines)
        return write(file, data)
    last = lines[LINES_LEFT - 1]
    write(file, b"".join(lines[: LINES_LEFT - 1]) + (last[: len(last) // 2] if IN_LINE else last))
    os.kill(os.getpid(), signal.SIGKILL)


if LINES_LEFT:
    write, os.write = os.write, dying


def kill_at_first_reset(*arguments, **settings):
    # Kill the first process that Ray Tune assigns to another trial, while it does so.
    import ray
    from ray.tune.execution.tune_controller import TuneController

    reset = TuneController._schedule_trial_reset

    def reset_and_kill(controller, trial, *values):
        TuneController._schedule_trial_reset = reset
        actor = trial.temporary_state.ray_actor
        pid = ray.get(actor.__ray_call__.remote(lambda trainable: os.getpid()))
        reset(controller, trial, *values)
        os.kill(pid, signal.SIGKILL)

    TuneController._schedule_trial_reset = reset_and_kill
    return build_tuner(*arguments, **settings)


if os.environ.get("WORKER_DIES_AT_RESET"):
    from toprung.sweep import tuner

    build_tuner, tuner.build_tuner = tuner.build_tuner, kill_at_first_reset
"""

BEFORE_REPORT = """\
        time.sleep(config["pause"])
        for parameter in model.parameters() if config["worsens"] and _epoch > 0 else ():
            parameter.data.zero_()
"""


def new_bench(root: Path) -> Path:
    """Create a project in a Git repository, with the digits prepared and the recipe `tune.dying`."""
    for name in ("trainers", "search_spaces", "tune"):
        shutil.copytree(PROJECT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("requirements.lock", ".gitignore"):
        shutil.copy(PROJECT / name, root / name)
    (root / "trainers" / "paced.py").write_text(_paced((root / "trainers" / "convnet.py").read_text()))
    (root / "tune" / "dying.py").write_text(DYING_RECIPE)
    data.prepare("digits", out=root / "data" / "prepared" / "digits")
    for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "A project"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


def _paced(trainer: str) -> str:
    """Return the trainer with slow epochs of at least `pause` seconds each, so that faults can be timed exactly.

    With `worsens`, all epochs but the first score at chance level.
    """
    defaults, report = "DEFAULTS = {\n", "        session.report("
    assert defaults in trainer
    assert report in trainer
    paced = trainer.replace(defaults, f'{defaults}    "pause": 0.1,\n    "worsens": False,\n')
    return "import time\n" + paced.replace(report, f"{BEFORE_REPORT}{report}")


@dataclass
class Command:
    """One `toprung` command: its process, and what it has printed so far."""

    process: subprocess.Popen
    mark: str
    output: Path
    errors: Path

    @property
    def code(self) -> int | None:
        return self.process.poll()

    @property
    def stdout(self) -> str:
        return self.output.read_text()

    @property
    def stderr(self) -> str:
        return self.errors.read_text()

    def __str__(self) -> str:
        return f"{' '.join(self.process.args[2:])} ended with {self.code}\n{self.stdout}{self.stderr}"

    def reaches(self, check: Callable[[], object], what: str) -> "Command":
        """Wait until `check` returns true; the command must still be running then."""
        deadline = time.monotonic() + LONGEST_COMMAND_SECONDS
        while True:
            check_started = time.monotonic()
            if check():
                return self
            assert self.code is None, f"before {what}: {self}"
            assert time.monotonic() < deadline, f"waited for {what}: {self}"
            time.sleep(max(0.001, 3 * (time.monotonic() - check_started)))  # leave the cores to the command

    def says(self, text: str) -> "Command":
        """Wait until it has printed the text."""
        return self.reaches(lambda: text in self.stdout, text)

    def kill(self) -> "Command":
        """Send SIGKILL to the driver only; its child processes must notice this themselves."""
        self.process.kill()
        return self.dies()

    def dies(self) -> "Command":
        """Wait until SIGKILL has ended the command."""
        self.process.wait(timeout=LONGEST_COMMAND_SECONDS)
        assert self.code == -signal.SIGKILL, f"was not killed: {self}"
        return self

    def interrupt(self) -> "Command":
        """Send SIGINT to the whole process group, as a terminal does on Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self

    def finish(self, code: int = 0) -> "Command":
        """Wait for the command to exit, and check its exit code."""
        self.process.wait(timeout=LONGEST_COMMAND_SECONDS)
        assert self.code == code, str(self)
        return self

    def processes(self) -> list[psutil.Process]:
        """Return all running descendants of this command, which inherit one of its environment variables."""
        return processes_marked(self.mark)

    def workers(self) -> dict[str, psutil.Process]:
        """Return the training processes by trial id; each holds the lock file of its trial open."""
        workers = {}
        for process in self.processes():
            try:
                opened = [Path(file.path) for file in process.open_files()]
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            workers |= {path.parent.name: process for path in opened if path.name == TRIAL_LOCK_FILE}
        return workers


@dataclass
class Arena:
    """A storage root, and all commands that a test runs on it."""

    bench: Path
    root: Path
    logs: Path
    environment: dict[str, str] = field(default_factory=dict)
    storage: str | None = None  # where the sweeps are stored, if not in the root itself
    commands: list[Command] = field(default_factory=list)

    def begin(self, *words: str, **environment: object) -> Command:
        """Start `toprung ...` in its own process group, as a terminal does."""
        mark, count = uuid.uuid4().hex, len(self.commands)
        output, errors = self.logs / f"{count}.out", self.logs / f"{count}.err"
        extra_environment = {name: str(value) for name, value in environment.items()}
        storage = self.storage or self.root
        storage_flags = ("--set", f"storage={storage}") if words[0] == "sweep" else ("--storage", str(storage))
        with output.open("wb") as out, errors.open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "toprung", *map(str, words), *storage_flags],
                cwd=self.bench,
                env={**os.environ, **self.environment, **extra_environment, "TEST_MARK": mark, "COLUMNS": "140"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self.commands.append(Command(process, mark, output, errors))
        return self.commands[-1]

    def sweep(self, *settings: str, **environment: object) -> Command:
        """Start a small sweep."""
        flags = [word for setting in (*SMALL, *settings) for word in ("--set", setting)]
        return self.begin("sweep", "tune.dying", *flags, **environment)

    def resume(self, **environment: object) -> Command:
        """Start resuming the newest sweep."""
        return self.begin("resume", self.sweep_dir.sweep_id, **environment)

    def run(self, *words: str, code: int = 0) -> Command:
        """Run `toprung ...` and wait until it exits."""
        return self.begin(*words).finish(code)

    @property
    def sweep_dir(self) -> SweepDirectory:
        """The newest sweep."""
        return next(catalog.list_sweeps(self.root))

    def has(self, pattern: str) -> Callable[[], bool]:
        """Return a check that a file matching the pattern exists below the storage root."""
        return lambda: any(True for _ in self.root.glob(pattern))

    def count(self, *texts: str) -> int:
        """Return how many lines of the newest ledger contain all the texts."""
        files = sorted(self.root.glob("*/ledger.log"))
        lines = files[-1].read_text(errors="replace").splitlines() if files else []
        return sum(all(text in line for text in texts) for line in lines)

    def end(self) -> list[str]:
        """Kill processes that are still running some seconds after the last command; return their command lines."""
        is_any_running = any(command.code is None for command in self.commands)  # the test failed
        # Ray's agents notice the loss of their raylet late on a busy machine.
        deadline = time.monotonic() + (0 if is_any_running else 45)
        while left := [process for command in self.commands for process in command.processes()]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        command_lines = []
        for process in left:
            try:
                command_lines.append(" ".join(process.cmdline()))
                process.kill()
            except psutil.NoSuchProcess:
                continue
        for command in self.commands:
            command.process.wait(timeout=30)
        return command_lines
