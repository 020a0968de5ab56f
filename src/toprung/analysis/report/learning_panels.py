"""Learning curves: all trials by the rung at which they ended, and the gap between training and validation loss."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from toprung.analysis.curves import GAP_RULE, TRAIN_LOSS, VAL_LOSS
from toprung.analysis.report import style
from toprung.analysis.report.data import ReportData
from toprung.analysis.report.panel import Figure, Panel, Table, end_label, format_number
from toprung.analysis.wording import join
from toprung.errors import pluralize
from toprung.records.trial_record import TrialRecord


def learning_curves(data: ReportData) -> Panel:
    """Build the panel of learning curves, one colour and symbol per outcome."""
    metric = data.sweep.metric
    groups: dict[str, list[TrialRecord]] = {}
    for trial in sorted(data.distinct_trials, key=lambda trial: trial.rung or data.sweep.asha.max_epochs + 1):
        if trial.epochs_by_number:
            groups.setdefault(end_label(trial), []).append(trial)
    traces = [
        _curves(trials, metric, f"{outcome} ({len(trials)})", index)
        for index, (outcome, trials) in enumerate(groups.items(), start=1)  # the winner's blue comes last
    ]
    highlighted = [
        ("winner", data.winner, "solid"),
        ("default", next((t for t in data.distinct_trials if t.is_default), None), "dash"),
    ]
    for name, highlight, dash in highlighted:
        if highlight is not None:
            traces.append(_curve(highlight, metric, f"{name}: trial {highlight.number}", dash))
    rungs = data.sweep.rungs[:-1]
    compared = f" ASHA compared the trials at rung{'s' if len(rungs) > 1 else ''} {join(rungs)}." if rungs else ""
    text = (
        f"{metric} after each epoch. The full budget is {pluralize(data.sweep.asha.max_epochs, 'epoch')}.{compared} "
        "Click a name in the legend to hide its curves."
    )
    line = {"color": style.GREY, "width": 1, "dash": "dot"}
    lines = [{"type": "line", "x0": n, "x1": n, "y0": 0, "y1": 1, "yref": "y domain", "line": line} for n in rungs]
    rows = [[outcome, str(len(trials)), *_spread(trials)] for outcome, trials in groups.items()]
    columns = ["outcome", "trials", f"lowest {metric}", f"highest {metric}"]
    plot = style.plot(traces, height=480, xaxis=style.axis("epoch"), yaxis=style.axis(metric), shapes=lines)
    alt = f"Learning curves of {pluralize(sum(map(len, groups.values())), 'trial')}, grouped by outcome."
    figures = [Figure("learning-curves", plot, alt)]
    return Panel(
        "learning-curves", "Learning curves by rung", [text], figures, [Table("Trials by outcome", columns, rows)]
    )


def _curves(trials: Iterable[TrialRecord], metric: str, name: str, index: int) -> dict[str, Any]:
    """Draw all curves of a group as one trace with gaps between trials: thousands of traces would be slow."""
    colour, symbol = style.PALETTE[index % len(style.PALETTE)], style.SYMBOLS[index % len(style.SYMBOLS)]
    x: list[int | None] = []
    y: list[float | None] = []
    numbers: list[int | None] = []
    for trial in trials:
        for step, epoch in sorted(trial.epochs_by_number.items()):
            x.append(step)
            y.append(epoch.metrics[metric])
            numbers.append(trial.number)
        x.append(None)
        y.append(None)
        numbers.append(None)
    return {
        "type": "scatter",
        "x": x,
        "y": y,
        "customdata": numbers,
        "mode": "lines+markers",
        "name": name,
        "opacity": 0.75,
        "line": {"color": colour, "width": 1.2},
        "marker": {"color": colour, "size": 5, "symbol": symbol + ("-open" if index >= len(style.SYMBOLS) else "")},
        "hovertemplate": "trial %{customdata}, epoch %{x}: %{y:.4f}<extra></extra>",
    }


def _curve(trial: TrialRecord, metric: str, name: str, dash: str) -> dict[str, Any]:
    steps = sorted(trial.epochs_by_number)
    return {
        "type": "scatter",
        "x": steps,
        "y": [trial.epochs_by_number[step].metrics[metric] for step in steps],
        "mode": "lines",
        "name": name,
        "line": {"color": style.BLUE, "width": 3, "dash": dash},
        "hovertemplate": "epoch %{x}: %{y:.4f}<extra>" + name + "</extra>",
    }


def _spread(trials: list[TrialRecord]) -> tuple[str, str]:
    values = [trial.value for trial in trials if trial.value is not None]
    return format_number(min(values, default=None)), format_number(max(values, default=None))


def gap(data: ReportData) -> Panel:
    """Build the panel of training and validation loss: of all trials at their last epoch, and the winner's curves."""
    title = "Training against validation"
    if not any(_losses(trial) for trial in data.scored):
        return Panel(
            "gap", title, [f"Not available: the training loop does not report both {TRAIN_LOSS} and {VAL_LOSS}."]
        )
    traces: list[dict[str, Any]] = []
    all_losses: list[float] = []
    for trials, marker_style in ((data.finished, style.FINISHED), (data.cut_short, style.CUT_SHORT)):
        pairs = [(trial.number, *losses) for trial in trials if (losses := _losses(trial))]
        all_losses += [value for _, *losses in pairs for value in losses]
        traces.append(
            {
                "type": "scatter",
                "x": [train for _, train, _ in pairs],
                "y": [val for *_, val in pairs],
                "customdata": [number for number, *_ in pairs],
                "mode": "markers",
                "name": marker_style["name"],
                "marker": {"color": marker_style["color"], "symbol": marker_style["symbol"], "size": 7},
                "hovertemplate": "trial %{customdata}: training %{x:.3f}, validation %{y:.3f}<extra></extra>",
            }
        )
    ends = [min(all_losses), max(all_losses)]
    line = {"color": style.GREY, "dash": "dot"}
    traces.append(
        {"type": "scatter", "x": ends, "y": ends, "mode": "lines", "name": "no gap", "line": line, "hoverinfo": "skip"}
    )
    ticks = [digit * 10.0**power for power in range(-6, 4) for digit in (1, 2, 5)]
    axis: dict[str, Any] = {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    plot = style.plot(
        traces,
        xaxis=style.axis(f"{TRAIN_LOSS} at the last epoch", **axis),
        yaxis=style.axis(f"{VAL_LOSS} at the last epoch", **axis),
    )
    figures = [Figure("gap", plot, "Validation loss against training loss at each trial's last epoch.", "All trials")]
    tables = []
    if data.winner and _losses(data.winner):
        figures.append(_winners_losses(data.winner))
        by_epoch = sorted(data.winner.epochs_by_number.items())
        rows = [[str(n), format_number(e.metrics[TRAIN_LOSS]), format_number(e.metrics[VAL_LOSS])] for n, e in by_epoch]
        tables = [Table("The winner's losses", ["epoch", TRAIN_LOSS, VAL_LOSS], rows)]
    text = [
        GAP_RULE,
        "Trials above the dotted line have a lower loss on the training images than on the validation images.",
    ]
    return Panel("gap", title, text, figures, tables, is_grid=True)


def _losses(trial: TrialRecord) -> tuple[float, float] | None:
    metrics = trial.epochs_by_number[trial.epochs].metrics if trial.epochs_by_number else {}
    return (metrics[TRAIN_LOSS], metrics[VAL_LOSS]) if TRAIN_LOSS in metrics and VAL_LOSS in metrics else None


def _winners_losses(winner: TrialRecord) -> Figure:
    steps = sorted(winner.epochs_by_number)
    traces = [
        {
            "type": "scatter",
            "x": steps,
            "y": [winner.epochs_by_number[step].metrics[metric] for step in steps],
            "mode": "lines+markers",
            "name": metric,
            "line": {"color": style.PALETTE[index], "dash": style.DASHES[index]},
        }
        for index, metric in enumerate((TRAIN_LOSS, VAL_LOSS))
    ]
    plot = style.plot(traces, xaxis=style.axis("epoch"), yaxis=style.axis("loss (nats)"))
    alt = f"Training and validation loss of trial {winner.number} by epoch."
    return Figure("gap-winner", plot, alt, f"The winner, trial {winner.number}")
