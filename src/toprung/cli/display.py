"""What a person sees while a sweep runs: one live block in a terminal, one line an event elsewhere."""

from __future__ import annotations

import contextlib
import io
import os
import time
from collections.abc import Iterator
from typing import Any, Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from toprung.cli.console import open_console
from toprung.cli.summary import ROWS_SHOWN, print_end
from toprung.records.ranking import format_config
from toprung.spec import Sweep
from toprung.sweep.driver import Outcome
from toprung.sweep.progress import ProgressListener, SweepProgress, TrialView, count_noun

SAMPLERS = {"tpe": "TPE", "random": "random search"}
SPARKS = "▁▂▃▄▅▆▇█"
WIDE = 60  # columns; a narrower terminal gets the live block's parts below each other


class Display(ProgressListener, Protocol):
    """A watcher that can also tell how it ended."""

    def summarise(self, outcome: Outcome) -> None:
        """Print the end of the sweep."""


class _Descriptor(io.FileIO):
    """A descriptor that takes what nobody reads any more: a sweep outlives its terminal, or `| head`."""

    def write(self, content: Any) -> int:
        try:
            return super().write(content) or 0
        except OSError:
            return len(content)


@contextlib.contextmanager
def open_display(stream: TextIO) -> Iterator[Display]:
    """A live block for a terminal, plain lines for anything else.

    The console keeps a descriptor of its own, because a sweep sends stdout into its log file meanwhile.
    """
    stream.flush()
    own_descriptor = io.BufferedWriter(_Descriptor(os.dup(stream.fileno()), "w"))
    with io.TextIOWrapper(own_descriptor, stream.encoding, stream.errors, line_buffering=True) as own:
        if own.isatty():
            live = LiveBlock(Console(file=own, highlight=False, markup=False))
            try:
                yield live
            finally:
                live.close()
        else:
            yield PlainLines(own)


def format_clock(seconds: float) -> str:
    """`00:41`, `1:02:33`."""
    whole = int(seconds)
    if whole < 3600:
        return f"{whole // 60:02d}:{whole % 60:02d}"
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


def sparkline(values: list[float]) -> str:
    """A learning curve in one word, scaled between its own lowest and highest value."""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(SPARKS[round((value - low) / span * (len(SPARKS) - 1))] for value in values[-12:])


def _search_label(sweep: Sweep) -> str:
    """How the trials come about, in the fewest words."""
    if sweep.experiments:
        return sweep.plan_text
    return f"Optuna {SAMPLERS[sweep.search.sampler]} × ASHA (rungs {' · '.join(map(str, sweep.rungs))})"


def _trial_label(trial: TrialView) -> str:
    """`trial 12`, in a controlled experiment `trial 12 (A baseline, seed 2)`."""
    experiment = trial.config.get("experiment")
    return f"trial {trial.number}" + (f" ({experiment}, seed {trial.config.get('seed')})" if experiment else "")


class LiveBlock:
    """One block, redrawn in place; failures scroll away above it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._is_stopping = ""

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
            line = failure_line(progress, trial, is_stopping=bool(self._is_stopping))
            self._console.print(Text(f"  {line}", style="red"))

    def trial_restarting(self, progress: SweepProgress, trial: TrialView, *, what: str) -> None:
        self._console.print(Text("  " + restart_line(trial, what), style="yellow"))

    def concurrency_changed(self, progress: SweepProgress) -> None:
        pass

    def warning(self, progress: SweepProgress, text: str) -> None:
        self._console.print(Text(f"  warning  {text}", style="yellow"))

    def stopping(self, progress: SweepProgress, *, reason: str) -> None:
        self._is_stopping = reason

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
        of = f" of ~{format_clock(progress.seconds + remaining)}" if remaining is not None else ""
        workers = count_noun(progress.num_concurrent_trials * sweep.resources.workers, "worker")
        right = f"{workers} · {format_clock(progress.seconds)}{of}"
        gap = max(3, width - len(left) - len(right))
        done = sum(trial.end is not None for trial in progress.trials.values())
        lines: list[Any] = [Text.assemble(left, " " * gap, (right, "dim")), Text()]

        bar = Table.grid(padding=(0, 3 if width >= WIDE else 0, 0, 0))
        trials = count_noun(sweep.num_trials, "trial")
        epochs = count_noun(progress.epochs_expected, "epoch")
        counts = f"{done} of {trials} · {progress.epochs_done} of ~{epochs}"
        bars = ProgressBar(total=max(1, progress.epochs_expected), completed=progress.epochs_done, width=36)
        text = Text(f"{progress.phase} … {progress.note}" if progress.phase else counts)
        for row in [(bars, text)] if width >= WIDE else [(bars,), (text,)]:
            bar.add_row(*row)
        lines += [Padding(bar, (0, 0, 0, 2)), Text("  " + self._rungs(progress)), Text()]
        lines += [self._leaders(progress), Text(), self._now(progress)]
        if self._is_stopping:
            lines += [
                Text(),
                Text(
                    f"  Stopping ({self._is_stopping}): running trials keep their last epoch. Ctrl-C again interrupts.",
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
        is_wide = self._console.width >= WIDE
        for status, trial in rows:
            where = f"trial {trial.number} · epoch {trial.best_epoch}"
            config = format_config(dict(trial.config)) if is_wide else ""  # cut to a few letters it says nothing
            table.add_row(f"  {status}", f"{trial.best_value:.4f}", where, config)
        return table

    def _now(self, progress: SweepProgress) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="dim", min_width=9)
        running = progress.running()
        for number, trial in enumerate(running[: max(2, ROWS_SHOWN // 2)]):
            value = f"{trial.values[-1]:.4f} {sparkline(trial.values)}" if trial.values else "…"
            table.add_row(
                "  now" if number == 0 else "",
                f"trial {trial.number}",
                f"epoch {len(trial.values) + 1}/{progress.sweep.asha.max_epochs}",
                value,
            )
        return table


class PlainLines:
    """One line an event worth a line, with the time: for CI, pipes and logs."""

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
        what = sweep.plan_text if sweep.experiments else f"{count_noun(sweep.num_trials, 'trial')}, {rungs}"
        self._print(f"{progress.sweep_id}: {what}, {progress.num_concurrent_trials} at a time")
        self._print(progress.note)

    def trial_reported(self, progress: SweepProgress, trial: TrialView, *, new_best: bool) -> None:
        if trial.audited is not None and len(trial.values) == trial.audited.rung:
            needed = f"{trial.audited.value:.4f}, needed {trial.audited.needed:.4f}"
            self._print(
                f"{_trial_label(trial)} would stop at rung {trial.audited.rung} ({needed}): runs on for the audit"
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
            self._print(f"{_trial_label(trial)} was cut short: {trial.end.cause}")
        else:
            best = progress.leader is trial
            before = f", was {best_before:.4f}" if best_before is not None else ""
            self._print(
                f"{_trial_label(trial)} finished: {trial.best_value:.4f}{f' (new best{before})' if best else ''}"
            )

    def trial_restarting(self, progress: SweepProgress, trial: TrialView, *, what: str) -> None:
        self._print(restart_line(trial, what))

    def concurrency_changed(self, progress: SweepProgress) -> None:
        self._print(f"the cluster has changed: {progress.num_concurrent_trials} at a time")

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
    """Such as `trial 12: its node was lost in epoch 3. It starts again from its last checkpoint.`."""
    return f"{_trial_label(trial)}: {what} in epoch {len(trial.values) + 1}. It starts again from its last checkpoint."


def failure_line(progress: SweepProgress, trial: TrialView, *, is_stopping: bool) -> str:
    """Return, for example, `trial 12 failed: loss is NaN in epoch 2 (sgd, lr 0.94). The sweep continues.`."""
    line = f"{_trial_label(trial)} failed: {trial.end.cause if trial.end else 'unknown'}"
    chosen = {name: value for name, value in trial.config.items() if name in ("optimizer", "lr")}
    if chosen and "experiment" not in trial.config:
        line += f" ({', '.join(format_config(chosen).split('  '))})"
    return f"{line}. The sweep continues." if progress.num_left and not is_stopping else f"{line}."
