"""Display of a running sweep: a live block in a terminal, one line per event anywhere else."""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from toprung.cli.console import open_console
from toprung.cli.summary import ROWS_SHOWN, print_end
from toprung.errors import pluralize
from toprung.records.ranking import format_config
from toprung.sweep.driver import Outcome
from toprung.sweep.progress import ProgressListener, SweepProgress, TrialView

if TYPE_CHECKING:
    from toprung.spec import Sweep

SAMPLERS = {"tpe": "TPE", "random": "random search"}
SPARKS = "▁▂▃▄▅▆▇█"
WIDE = 60  # columns; in a narrower terminal the parts of the live block are stacked


class Display(ProgressListener, Protocol):
    """A progress listener that can also print the outcome."""

    def summarise(self, outcome: Outcome) -> None:
        """Print how the sweep ended."""


class _Descriptor(io.FileIO):
    """A file descriptor that ignores write errors: a sweep outlives a closed terminal or `| head`."""

    def write(self, content: Any) -> int:
        try:
            return super().write(content) or 0
        except OSError:
            return len(content)


@contextlib.contextmanager
def open_display(stream: TextIO) -> Iterator[Display]:
    """Open a live block if the stream is a terminal, else plain lines.

    The display writes to a duplicate of the stream's descriptor, because a running sweep redirects stdout to its log
    file.
    """
    stream.flush()
    descriptor = io.BufferedWriter(_Descriptor(os.dup(stream.fileno()), "w"))
    with io.TextIOWrapper(descriptor, stream.encoding, stream.errors, line_buffering=True) as output:
        if output.isatty():
            live = LiveBlock(Console(file=output, highlight=False, markup=False))
            try:
                yield live
            finally:
                live.close()
        else:
            yield PlainLines(output)


def format_clock(seconds: float) -> str:
    """Format a duration: `00:41`, `1:02:33`."""
    whole = int(seconds)
    if whole < 3600:
        return f"{whole // 60:02d}:{whole % 60:02d}"
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


def sparkline(values: list[float]) -> str:
    """Return the last 12 values of a learning curve as a sparkline, scaled between the curve's minimum and maximum."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(SPARKS[round((value - low) / span * (len(SPARKS) - 1))] for value in values[-12:])


def _search_label(sweep: Sweep) -> str:
    """Return a short description of the search."""
    if sweep.experiments:
        return sweep.plan_text
    return f"Optuna {SAMPLERS[sweep.search.sampler]} × ASHA (rungs {' · '.join(map(str, sweep.rungs))})"


def _trial_label(trial: TrialView) -> str:
    """Return `trial 12` or, in a controlled experiment, `trial 12 (A baseline, seed 2)`."""
    experiment = trial.config.get("experiment")
    return f"trial {trial.number}" + (f" ({experiment}, seed {trial.config.get('seed')})" if experiment else "")


class LiveBlock:
    """A block redrawn in place in the terminal; failures are printed above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._stop_reason = ""

    def sweep_started(self, progress: SweepProgress) -> None:
        self._live = Live(
            get_renderable=lambda: self._draw(progress),
            console=self._console,
            refresh_per_second=4,
            redirect_stdout=False,
            redirect_stderr=False,
            transient=True,
        )
        self._live.start()

    def trial_reported(self, progress: SweepProgress, trial: TrialView, *, new_best: bool) -> None:
        pass

    def trial_ended(self, progress: SweepProgress, trial: TrialView, *, best_before: float | None) -> None:
        if trial.status == "failed":
            line = failure_line(progress, trial, is_stopping=bool(self._stop_reason))
            self._console.print(Text(f"  {line}", style="red"))

    def trial_restarting(self, progress: SweepProgress, trial: TrialView, *, what: str) -> None:
        self._console.print(Text("  " + restart_line(trial, what), style="yellow"))

    def concurrency_changed(self, progress: SweepProgress) -> None:
        pass

    def warning(self, progress: SweepProgress, text: str) -> None:
        self._console.print(Text(f"  warning  {text}", style="yellow"))

    def stopping(self, progress: SweepProgress, *, reason: str) -> None:
        self._stop_reason = reason

    def phase_changed(self, progress: SweepProgress) -> None:
        pass

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def summarise(self, outcome: Outcome) -> None:
        self.close()
        print_end(open_console(self._console.file), outcome)

    def _draw(self, progress: SweepProgress) -> Group:
        sweep, width = progress.sweep, self._console.width
        left = Text.assemble((sweep.name, "bold"), f" · {_search_label(sweep)}")
        remaining = progress.seconds_left
        total = f" of ~{format_clock(progress.seconds + remaining)}" if remaining is not None else ""
        workers = pluralize(progress.num_concurrent_trials * sweep.resources.workers, "worker")
        right = f"{workers} · {format_clock(progress.seconds)}{total}"
        gap = max(3, width - len(left) - len(right))
        num_ended = sum(trial.end is not None for trial in progress.trials.values())
        lines: list[Any] = [Text.assemble(left, " " * gap, (right, "dim")), Text()]

        grid = Table.grid(padding=(0, 3 if width >= WIDE else 0, 0, 0))
        trials, epochs = pluralize(sweep.num_trials, "trial"), pluralize(progress.epochs_expected, "epoch")
        counts = f"{num_ended} of {trials} · {progress.epochs_done} of ~{epochs}"
        bar = ProgressBar(total=max(1, progress.epochs_expected), completed=progress.epochs_done, width=36)
        text = Text(f"{progress.phase} … {progress.note}" if progress.phase else counts)
        for row in [(bar, text)] if width >= WIDE else [(bar,), (text,)]:
            grid.add_row(*row)
        lines += [Padding(grid, (0, 0, 0, 2)), Text("  " + self._rungs(progress)), Text()]
        lines += [self._leaders(progress), Text(), self._now(progress)]
        if self._stop_reason:
            lines += [
                Text(),
                Text(
                    f"  Stopping ({self._stop_reason}): running trials keep their last epoch. Ctrl-C again interrupts.",
                    style="yellow",
                ),
            ]
        return Group(*lines)

    def _rungs(self, progress: SweepProgress) -> str:
        rungs, stopped = progress.sweep.rungs, progress.num_stopped_by_rung()
        parts = [f"rung {rungs[-1]}   {progress.count('finished')} finished"]
        parts += [f"rung {rung}   {stopped[rung]} stopped" for rung in reversed(rungs[:-1])]
        parts += [f"{progress.count('running')} running", f"{progress.count('failed')} failed"]
        return "      ".join(parts)

    def _leaders(self, progress: SweepProgress) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0), expand=True)
        table.add_column(style="dim", no_wrap=True, width=9)
        table.add_column(no_wrap=True, width=6)
        table.add_column(
            no_wrap=True, width=len(f"trial {progress.sweep.num_trials} · epoch {progress.sweep.asha.max_epochs}")
        )
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        leaders = progress.leaders()
        rows = [("best", leaders[0])] if leaders else []
        rows += [("then", trial) for trial in leaders[1:3]]
        rows += [("default", trial) for trial in leaders[3:] if trial.is_default]
        is_wide, constants = self._console.width >= WIDE, progress.sweep.constants
        for label, trial in rows:
            epoch = f"trial {trial.number} · epoch {trial.best_epoch}"
            config = (
                format_config(trial.config, without=constants) if is_wide else ""
            )  # a few letters of it would be no use
            table.add_row(f"  {label}", f"{trial.best_value:.4f}", epoch, config)
        return table

    def _now(self, progress: SweepProgress) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="dim", min_width=9)
        running = progress.running()
        for index, trial in enumerate(running[: max(2, ROWS_SHOWN // 2)]):
            value = f"{trial.values[-1]:.4f} {sparkline(trial.values)}" if trial.values else "…"
            table.add_row(
                "  now" if index == 0 else "",
                f"trial {trial.number}",
                f"epoch {len(trial.values) + 1}/{progress.sweep.asha.max_epochs}",
                value,
            )
        return table


class PlainLines:
    """One line with a timestamp per notable event, for CI, pipes and logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._console = open_console(stream)
        self._is_stopping = False

    def _print(self, text: str) -> None:
        self._stream.write(f"{time.strftime('%H:%M:%S')} {text}\n")
        self._stream.flush()

    def sweep_started(self, progress: SweepProgress) -> None:
        sweep = progress.sweep
        rungs = f"rung{'s' if len(sweep.rungs) > 1 else ''} {', '.join(map(str, sweep.rungs))}"
        plan = sweep.plan_text if sweep.experiments else f"{pluralize(sweep.num_trials, 'trial')}, {rungs}"
        self._print(f"{progress.sweep_id}: {plan}, {progress.num_concurrent_trials} at a time")
        self._print(progress.note)

    def trial_reported(self, progress: SweepProgress, trial: TrialView, *, new_best: bool) -> None:
        if trial.audited is not None and len(trial.values) == trial.audited.rung:
            needed = f"{trial.audited.value:.4f}, needed {trial.audited.needed:.4f}"
            self._print(
                f"{_trial_label(trial)} would stop at rung {trial.audited.rung} ({needed}): continues for the audit"
            )
        elif new_best and len(trial.values) != progress.sweep.asha.max_epochs:
            self._print(f"{_trial_label(trial)} epoch {len(trial.values)}: {trial.values[-1]:.4f} (best so far)")

    def trial_ended(self, progress: SweepProgress, trial: TrialView, *, best_before: float | None) -> None:
        if trial.status == "failed":
            self._print(failure_line(progress, trial, is_stopping=self._is_stopping))
        elif trial.status == "stopped" and trial.end is not None:
            cause = (trial.end.cause or "").removeprefix("ASHA: ")
            rung = "" if trial.end.rung is None else f" at rung {trial.end.rung}"  # None: a stop rule ended the sweep
            self._print(f"{_trial_label(trial)} stopped{rung}: {cause}")
        elif trial.status == "interrupted" and trial.end is not None:
            self._print(f"{_trial_label(trial)} was interrupted: {trial.end.cause}")
        else:
            before = f", was {best_before:.4f}" if best_before is not None else ""
            note = f" (new best{before})" if progress.leader is trial else ""
            self._print(f"{_trial_label(trial)} finished: {trial.best_value:.4f}{note}")

    def trial_restarting(self, progress: SweepProgress, trial: TrialView, *, what: str) -> None:
        self._print(restart_line(trial, what))

    def concurrency_changed(self, progress: SweepProgress) -> None:
        self._print(f"the cluster has changed: now {progress.num_concurrent_trials} at a time")

    def warning(self, progress: SweepProgress, text: str) -> None:
        self._print(f"warning: {text}")

    def stopping(self, progress: SweepProgress, *, reason: str) -> None:
        self._is_stopping = True
        running = progress.count("running")
        keep = "1 running trial keeps its" if running == 1 else f"{running} running trials keep their"
        self._print(f"stopping ({reason}): {keep} last epoch")

    def phase_changed(self, progress: SweepProgress) -> None:
        if progress.phase:
            self._print(progress.phase)

    def summarise(self, outcome: Outcome) -> None:
        print_end(self._console, outcome)


def restart_line(trial: TrialView, what: str) -> str:
    """Return a line such as `trial 12: its node was lost in epoch 3. It restarts from its last checkpoint.`."""
    return f"{_trial_label(trial)}: {what} in epoch {len(trial.values) + 1}. It restarts from its last checkpoint."


def failure_line(progress: SweepProgress, trial: TrialView, *, is_stopping: bool) -> str:
    """Return, for example, `trial 12 failed: loss is NaN in epoch 2 (sgd, lr 0.94). The sweep continues.`."""
    line = f"{_trial_label(trial)} failed: {trial.end.cause if trial.end else 'unknown'}"
    chosen = {name: value for name, value in trial.config.items() if name in ("optimizer", "lr")}
    if chosen and "experiment" not in trial.config:
        line += f" ({', '.join(format_config(chosen).split('  '))})"
    return f"{line}. The sweep continues." if progress.num_left and not is_stopping else f"{line}."
