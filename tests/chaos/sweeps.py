"""Small sweeps through the real command, each in a storage root and process groups of its own, to be harmed."""

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
from toprung.records.sweep_dir import TRIAL_LOCK_FILE, SweepDirectory

PROJECT = Path(__file__).parent.parent.parent
NUM_TRIALS = 6
SMALL = ("constants.width=4", "constants.depth=1", "constants.batch_size=32", "max_train=200")
LONGEST_COMMAND_SECONDS = 240
STARTED, ENDED = '{"start":', '{"end":'  # how the ledger's lines say so

# A recipe is imported by the driver: this one kills it (a real SIGKILL) at an exact line of its ledger.
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
"""

BEFORE_REPORT = """\
        time.sleep(config["pause"])
        for parameter in model.parameters() if config["worsens"] and _epoch > 0 else ():
            parameter.data.zero_()
"""


def new_bench(root: Path) -> Path:
    """A workbench in a git repository, with digits prepared and the recipe `tune.dying`."""
    for name in ("trainers", "search_spaces", "tune"):
        shutil.copytree(PROJECT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("requirements.lock", ".gitignore"):
        shutil.copy(PROJECT / name, root / name)
    (root / "trainers" / "paced.py").write_text(_paced((root / "trainers" / "convnet.py").read_text()))
    (root / "tune" / "dying.py").write_text(DYING_RECIPE)
    data.prepare("digits", out=root / "data" / "prepared" / "digits")
    for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "A workbench"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


def _paced(trainer: str) -> str:
    """The trainer, slow enough that a fault can be aimed: each epoch takes at least `pause` seconds.

    With `worsens`, all epochs but the first score by chance.
    """
    defaults, report = "DEFAULTS = {\n", "        session.report("
    assert defaults in trainer
    assert report in trainer
    paced = trainer.replace(defaults, f'{defaults}    "pause": 0.1,\n    "worsens": False,\n')
    return "import time\n" + paced.replace(report, f"{BEFORE_REPORT}{report}")


@dataclass
class Command:
    """One `toprung` command: its process while it runs, what it printed so far."""

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
        """Return as soon as `check` is true; the command must live that long."""
        deadline = time.monotonic() + LONGEST_COMMAND_SECONDS
        while True:
            began = time.monotonic()
            if check():
                return self
            assert self.code is None, f"before {what}: {self}"
            assert time.monotonic() < deadline, f"waited for {what}: {self}"
            time.sleep(max(0.001, 3 * (time.monotonic() - began)))  # a dear check leaves the cores to the command

    def says(self, text: str) -> "Command":
        """Return as soon as it has printed that."""
        return self.reaches(lambda: text in self.stdout, text)

    def kill(self) -> "Command":
        """SIGKILL to the driver alone: what it started has to notice by itself."""
        self.process.kill()
        return self.dies()

    def dies(self) -> "Command":
        """It ends by SIGKILL, and by nothing before that."""
        self.process.wait(timeout=LONGEST_COMMAND_SECONDS)
        assert self.code == -signal.SIGKILL, f"was not killed: {self}"
        return self

    def interrupt(self) -> "Command":
        """What a terminal does on Ctrl-C: SIGINT to the whole foreground process group."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self

    def finish(self, code: int = 0) -> "Command":
        """It ends by itself, with that code."""
        self.process.wait(timeout=LONGEST_COMMAND_SECONDS)
        assert self.code == code, str(self)
        return self

    def processes(self) -> list[psutil.Process]:
        """Every living process that came of this command (they inherit a variable of its environment)."""
        return processes_marked(self.mark)

    def workers(self) -> dict[str, psutil.Process]:
        """The process that trains, by trial id: it holds the lock file of its trial open."""
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
    """One storage root, and every command that a test runs on it."""

    bench: Path
    root: Path
    logs: Path
    environment: dict[str, str] = field(default_factory=dict)
    storage: str | None = None  # where the sweeps are kept, if not in the root itself
    commands: list[Command] = field(default_factory=list)

    def begin(self, *words: str, **environment: object) -> Command:
        """Start `toprung ...` in a process group of its own, as a terminal does."""
        mark, count = uuid.uuid4().hex, len(self.commands)
        output, errors = self.logs / f"{count}.out", self.logs / f"{count}.err"
        given = {name: str(value) for name, value in environment.items()}
        storage = self.storage or self.root
        where = ("--set", f"storage={storage}") if words[0] == "sweep" else ("--storage", str(storage))
        with output.open("wb") as out, errors.open("wb") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "toprung", *map(str, words), *where],
                cwd=self.bench,
                env={**os.environ, **self.environment, **given, "TEST_MARK": mark, "COLUMNS": "140"},
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
        """Start to take the sweep up again."""
        return self.begin("resume", self.sweep_dir.sweep_id, **environment)

    def run(self, *words: str, code: int = 0) -> Command:
        """Run `toprung ...` to its end."""
        return self.begin(*words).finish(code)

    @property
    def sweep_dir(self) -> SweepDirectory:
        """The newest sweep."""
        return next(catalog.list_sweeps(self.root))

    def has(self, pattern: str) -> Callable[[], bool]:
        """A check whether such a file is there, below the storage root."""
        return lambda: any(True for _ in self.root.glob(pattern))

    def count(self, *texts: str) -> int:
        """How many lines of the newest ledger have all these texts."""
        files = sorted(self.root.glob("*/ledger.log"))
        lines = files[-1].read_text(errors="replace").splitlines() if files else []
        return sum(all(text in line for text in texts) for line in lines)

    def end(self) -> list[str]:
        """What the commands have left running, some seconds after the last one; it is ended now."""
        still_there = [command for command in self.commands if command.code is None]  # of a test that failed
        deadline = time.monotonic() + (0 if still_there else 15)
        while left := [process for command in self.commands for process in command.processes()]:
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        told = []
        for process in left:
            try:
                told.append(" ".join(process.cmdline()))
                process.kill()
            except psutil.NoSuchProcess:
                continue
        for command in self.commands:
            command.process.wait(timeout=30)
        return told
