"""The course of a sweep: the best so far, against trials and against seconds."""

from __future__ import annotations

from statistics import median

import plotly.graph_objects as go
from optuna.visualization import plot_optimization_history

from toprung.analysis.report import style
from toprung.analysis.report.data import ReportData
from toprung.analysis.report.panel import Figure, Panel, Table, end_label, format_number
from toprung.records.trial_record import TrialRecord

MIN_FOR_RANGE = 8


def best_so_far(data: ReportData) -> Panel:
    """Against trials and against seconds."""
    metric, better = data.sweep.metric, "highest" if data.sweep.mode == "max" else "lowest"
    steps = improvements(data)
    rows = [[f"{s:.1f}", str(trial.number), str(epoch), format_number(value)] for s, trial, epoch, value in steps]
    text = f"The {better} {metric} of any epoch so far. A trial that was cut short counts with what it had reached."
    text += f"{outside_range_note(data)} Seconds include the pauses between two drivers of the sweep."
    return Panel(
        "best-so-far",
        "Best so far",
        [text],
        [
            Figure("history", _against_trials(data), f"Best {metric} so far against the number of trials."),
            Figure("history-seconds", _against_seconds(data), f"Best {metric} so far against seconds."),
        ],
        [Table("Each new best", ["seconds", "trial", "epoch", metric], rows)],
        is_grid=True,
    )


def _against_trials(data: ReportData) -> go.Figure:
    plot = plot_optimization_history(data.scored_study, target_name=data.sweep.metric)
    best = next(trace for trace in plot.data if trace.mode == "lines")
    best.update(name="best so far", line={"color": style.VERMILLION, "shape": "hv"})
    parts = [_points(data.finished, style.FINISHED), _points(data.cut_short, style.CUT_SHORT), best]
    return style.settle(
        go.Figure(parts), xaxis_title="trial", yaxis_title=data.sweep.metric, yaxis_range=value_range(data)
    )


def _points(trials: list[TrialRecord], looks: dict[str, str]) -> go.Scatter:
    return go.Scatter(
        x=[trial.number for trial in trials],
        y=[trial.value for trial in trials],
        mode="markers",
        name=looks["name"],
        marker={"color": looks["color"], "symbol": looks["symbol"], "size": 7},
        text=[end_label(trial) for trial in trials],
        hovertemplate="trial %{x}: %{y:.4f}, %{text}<extra></extra>",
    )


def improvements(data: ReportData) -> list[tuple[float, TrialRecord, int, float]]:
    """Each new best: seconds since the sweep began, the trial, its epoch, the value."""
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
    began = min((trial.started_ms for trial in data.trials if trial.started_ms), default=0)
    best: list[tuple[float, TrialRecord, int, float]] = []
    for time_ms, _, step, value, trial in reports:
        if not best or sign * value > sign * best[-1][3]:
            best.append(((time_ms - began) / 1000, trial, step, value))
    return best


def _against_seconds(data: ReportData) -> go.Figure:
    steps = improvements(data)
    last = max((e.time_ms for trial in data.trials for e in trial.epochs_by_number.values()), default=0)
    began = min((trial.started_ms for trial in data.trials if trial.started_ms), default=0)
    plot = go.Figure(
        go.Scatter(
            x=[*(seconds for seconds, *_ in steps), (last - began) / 1000],
            y=[*(value for *_, value in steps), steps[-1][3]],
            mode="lines+markers",
            line={"color": style.VERMILLION, "shape": "hv"},
            name="best so far",
            text=[*(f"trial {trial.number}, epoch {step}" for _, trial, step, _ in steps), "the last report"],
            hovertemplate="%{x:.1f} s: %{y:.4f}, %{text}<extra></extra>",
        )
    )
    plot.update_xaxes(rangemode="tozero")
    return style.settle(
        plot,
        xaxis_title="seconds since the first trial began",
        yaxis_title=data.sweep.metric,
        yaxis_range=value_range(data),
    )


def value_range(data: ReportData) -> list[float] | None:
    """The axis from the worst finished trial, or the median of all where that is lower, to the best.

    On the whole axis, wrecks cut short at the first rung would press everything that matters into one line.
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
    """A sentence on what `value_range` leaves out."""
    axis = value_range(data)
    values = [trial.value for trial in data.scored if trial.value is not None]
    count = 0 if axis is None else sum(not axis[0] <= value <= axis[1] for value in values)
    return f" {count} trials lie outside the axis; a double click shows them." if count else ""
