"""Fault injection, one fault per test, and a table of the results at the end of the run (`make chaos`)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chaos.agreement import Agreement, agreement
from tests.chaos.sweeps import NUM_TRIALS, Arena, new_bench
from tests.servers import FaultyProxy, TrackingServer

COLUMNS = ("trials", "lost", "doubled", "RUNNING", "steps", "winner", "survived")
ROWS = pytest.StashKey[list["Row"]]()
ROW = pytest.StashKey["Row"]()


@dataclass
class Row:
    """One fault, and the comparison of the records after it."""

    fault: str
    result: Agreement | None = None
    outcome: str = "no"

    def cells(self) -> tuple[str, ...]:
        result = self.result
        if result is None:
            return ("-",) * (len(COLUMNS) - 1) + (self.outcome,)
        counts = (result.num_trials, result.num_lost, result.num_doubled, result.num_running)
        words = ("increase" if result.steps_increase else "no", "loads" if result.winner_loads else "no")
        return (*map(str, counts), *words, self.outcome)


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    """A project in which tests run sweeps, but which they do not modify."""
    return new_bench(tmp_path_factory.mktemp("bench") / "user_project")


@pytest.fixture
def new_arena(bench, tmp_path) -> Iterator[Callable[..., Arena]]:
    """Create storage roots, and check that no process that was started there outlives the test."""
    arenas = []

    def make(name: str = "sweeps", *, uri: str | None = None, **environment: str) -> Arena:
        logs = tmp_path / f"{name}-output"
        logs.mkdir()
        tracking = {"MLFLOW_TRACKING_URI": uri} if uri else {}
        arenas.append(Arena(bench, tmp_path / name, logs, environment={**tracking, **environment}))
        return arenas[-1]

    yield make
    left = [line for arena in arenas for line in arena.end()]
    assert left == []


@pytest.fixture
def arena(new_arena) -> Arena:
    """A storage root that contains MLflow's SQLite database."""
    return new_arena()


@pytest.fixture
def fault(request) -> Callable[[str], Row]:
    """A function that sets the name of the test's row in the table."""

    def name(text: str) -> Row:
        row = request.node.stash[ROW] = Row(text)
        return row

    return name


@pytest.fixture
def agreed(request) -> Callable[..., Agreement]:
    """Assert that the records of an arena's newest sweep agree, and enter the result in the table."""

    def judge(arena: Arena, *, folder: Path | None = None, **expected: object) -> Agreement:
        uri = arena.environment.get("MLFLOW_TRACKING_URI") or f"sqlite:///{arena.root}/mlflow.db"
        result = agreement(folder or arena.sweep_dir.path, uri=uri, num_trials=NUM_TRIALS, **expected)
        row = request.node.stash[ROW]
        if row.result is None or result.problems:
            row.result = result
        assert result.problems == [], arena.commands[-1]
        return result

    return judge


@pytest.fixture(scope="session")
def _server(tmp_path_factory) -> Iterator[TrackingServer]:
    with TrackingServer(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def server(_server) -> TrackingServer:
    """A real `mlflow server`, which is running when the test starts."""
    _server.start()
    return _server


@pytest.fixture
def proxy(server) -> Iterator[FaultyProxy]:
    """A proxy in front of the server, initially without a fault."""
    with FaultyProxy(server.url) as faulty:
        yield faulty


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    row = item.stash.get(ROW, None)
    if row is not None:
        rows = item.config.stash.setdefault(ROWS, [])
        if row not in rows:
            rows.append(row)
        if report.skipped:
            row.outcome = "skipped"
        elif report.when == "call" and report.passed:
            row.outcome = "yes"
        elif report.failed:
            row.outcome = "no"
    return report


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash.get(ROWS, [])
    if not rows:
        return
    table = [("fault", *COLUMNS), *((row.fault, *row.cells()) for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(COLUMNS) + 1)]
    terminalreporter.section("survived faults")
    for line in table:
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        terminalreporter.line("  ".join(cells), red=line[-1] == "no")
    for row in rows:
        for problem in row.result.problems if row.result else ():
            terminalreporter.line(f"{row.fault}: {problem}", red=True)
    survived = sum(row.outcome == "yes" for row in rows)
    terminalreporter.line(f"{survived} of {len(rows)} survived.")
