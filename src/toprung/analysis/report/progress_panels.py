"""The progress of a sweep: the best value so far, by trial and by elapsed time."""

from __future__ import annotations

from itertools import accumulate
from statistics import median
from typing import Any

from toprung.analysis.report import style
from toprung.analysis.report.data import ReportData
from toprung.analysis.report.panel import Figure, Panel, Table, end_label, format_number
from toprung.errors import pluralize
from toprung.records.trial_record import TrialRecord

MIN_FOR_RANGE = 8


def best_so_far(data: ReportData) -> Panel:
    """Build the panel of the best value so far, by trial and by elapsed time."""
    metric, better = data.sweep.metric, "highest" if data.sweep.mode == "max" else "lowest"
    steps = improvements(data)
    rows = [[f"{s:.1f}", str(trial.number), str(epoch), format_number(value)] for s, trial, epoch, value in steps]
    text = f"The {better} {metric} of any epoch so far, including trials that were cut short."
    text += f"{outside_range_note(data)} The elapsed time includes pauses during which no driver was running."
    return Panel(
        "best-so-far",
        "Best so far",
        [text],
        [
            Figure("history", _against_trials(data), f"Best {metric} so far by trial."),
            Figure("history-seconds", _against_seconds(data, steps), f"Best {metric} so far by elapsed time."),
        ],
        [Table("New best values", ["seconds", "trial", "epoch", metric], rows)],
        is_grid=True,
    )


def _against_trials(data: ReportData) -> dict[str, Any]:
    values = [trial.value for trial in data.scored if trial.value is not None]
    best = {
        "type": "scatter",
        "x": [trial.number for trial in data.scored],
        "y": [*accumulate(values, max if data.sweep.mode == "max" else min)],
        "mode": "lines",
        "name": "best so far",
        "line": {"color": style.VERMILLION, "shape": "hv"},
    }
    return style.plot(
        [_points(data.finished, style.FINISHED), _points(data.cut_short, style.CUT_SHORT), best],
        xaxis=style.axis("trial"),
        yaxis=style.axis(data.sweep.metric, range=value_range(data)),
    )


def _points(trials: list[TrialRecord], marker_style: dict[str, str]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "x": [trial.number for trial in trials],
        "y": [trial.value for trial in trials],
        "mode": "markers",
        "name": marker_style["name"],
        "marker": {"color": marker_style["color"], "symbol": marker_style["symbol"], "size": 7},
        "text": [end_label(trial) for trial in trials],
        "hovertemplate": "trial %{x}: %{y:.4f}, %{text}<extra></extra>",
    }


def improvements(data: ReportData) -> list[tuple[float, TrialRecord, int, float]]:
    """Return each new best value as seconds since the first trial started, the trial, its epoch and the value."""
    metric, sign = data.sweep.metric, 1 if data.sweep.mode == "max" else -1
    reports = sorted(
        (
            (epoch.time_ms, trial.number, step, epoch.metrics[metric], trial)
            for trial in data.trials
            if trial.status != "failed"
            for step, epoch in trial.epochs_by_number.items()
        ),
        key=lambda report: report[:3],
    )
    start_ms = min((trial.started_ms for trial in data.trials if trial.started_ms), default=0)
    best: list[tuple[float, TrialRecord, int, float]] = []
    for time_ms, _, step, value, trial in reports:
        if not best or sign * value > sign * best[-1][3]:
            best.append(((time_ms - start_ms) / 1000, trial, step, value))
    return best


def _against_seconds(data: ReportData, steps: list[tuple[float, TrialRecord, int, float]]) -> dict[str, Any]:
    last = max((e.time_ms for trial in data.trials for e in trial.epochs_by_number.values()), default=0)
    start_ms = min((trial.started_ms for trial in data.trials if trial.started_ms), default=0)
    best = {
        "type": "scatter",
        "x": [*(seconds for seconds, *_ in steps), (last - start_ms) / 1000],
        "y": [*(value for *_, value in steps), steps[-1][3]],
        "mode": "lines+markers",
        "line": {"color": style.VERMILLION, "shape": "hv"},
        "name": "best so far",
        "text": [*(f"trial {trial.number}, epoch {step}" for _, trial, step, _ in steps), "last report"],
        "hovertemplate": "%{x:.1f} s: %{y:.4f}, %{text}<extra></extra>",
    }
    return style.plot(
        [best],
        xaxis=style.axis("seconds since the first trial started", rangemode="tozero"),
        yaxis=style.axis(data.sweep.metric, range=value_range(data)),
    )


def value_range(data: ReportData) -> list[float] | None:
    """Return the range of the value axis, from the worst finished trial (or the median of all, if worse) to the best.

    With the full range, bad trials that were stopped at the first rung would squeeze the good ones into a thin band.
    """
    values = [trial.value for trial in data.scored if trial.value is not None]
    finished = [trial.value for trial in data.finished if trial.value is not None]
    if not finished or len(values) < MIN_FOR_RANGE:
        return None
    if data.sweep.mode == "max":
        low, high = min(*finished, median(values)), max(values)
    else:
        low, high = min(values), max(*finished, median(values))
    margin = 0.05 * (high - low)
    return [low - margin, high + margin] if margin > 0 else None


def outside_range_note(data: ReportData) -> str:
    """Say how many trials `value_range` leaves out; empty if none."""
    limits = value_range(data)
    values = [trial.value for trial in data.scored if trial.value is not None]
    count = 0 if limits is None else sum(not limits[0] <= value <= limits[1] for value in values)
    if not count:
        return ""
    trials, pronoun = f"{pluralize(count, 'trial')} {'is' if count == 1 else 'are'}", "it" if count == 1 else "them"
    return f" {trials} outside the plotted range; double-click a plot to show {pronoun}."
