"""The search space: parallel coordinates, slices, importance, and optimizer by learning rate by augmentation."""

from __future__ import annotations

import math
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution

from toprung.analysis.importance import CONFIDENCE, MEANINGS, RESAMPLES
from toprung.analysis.report import style
from toprung.analysis.report.data import ReportData
from toprung.analysis.report.panel import Figure, Panel, Table, format_number
from toprung.analysis.report.progress_panels import outside_range_note, value_range
from toprung.errors import pluralize
from toprung.records.trial_record import TrialRecord

PANEL_BY, COLOUR_BY, ALONG = "augment", "optimizer", "lr"


def parallel_coordinates(data: ReportData) -> Panel:
    """Build the panel of parallel coordinates: shared hyperparameters, trained epochs and the metric, in one trace."""
    title = "Parallel coordinates"
    shared = [name for name in data.distributions if all(name in data.params[t.number] for t in data.scored)]
    if not shared:
        return Panel("parallel-coordinates", title, ["Not available: the trials have no hyperparameter in common."])
    metric, values = data.sweep.metric, [trial.value for trial in data.scored]
    lines = {
        "type": "parcoords",
        "dimensions": [
            *(_dimension(data, name) for name in shared),
            {"label": "epochs", "values": [trial.epochs for trial in data.scored]},
            {"label": metric, "values": values},
        ],
        "line": {
            "color": values,
            "colorscale": style.SCALE,
            "showscale": True,
            "colorbar": {"title": {"text": metric}},
        },
        "unselected": {"line": {"opacity": 0.05}},
    }
    plot = style.plot([lines], height=460, margin={"l": 90, "r": 60, "t": 70, "b": 40})
    conditional = [name for name in data.distributions if name not in shared]
    text = ["One line per trial. Drag along an axis to select lines; click the axis to reset the selection."]
    if conditional:
        text.append(f"Not shown, because not every trial has it: {', '.join(conditional)}.")
    alt = f"Parallel coordinates of {pluralize(len(data.scored), 'trial')} over {', '.join(shared)} and {metric}."
    return Panel("parallel-coordinates", title, text, [Figure("parallel-coordinates", plot, alt, min_width="56rem")])


def _dimension(data: ReportData, name: str) -> dict[str, Any]:
    distribution, values = data.distributions[name], [data.params[trial.number][name] for trial in data.scored]
    if isinstance(distribution, CategoricalDistribution):
        indices = {choice: index for index, choice in enumerate(distribution.choices)}
        ticks = {"tickvals": [*indices.values()], "ticktext": [str(choice) for choice in indices]}
        return {"label": name, "values": [indices[value] for value in values], "range": [0, len(indices) - 1], **ticks}
    if isinstance(distribution, FloatDistribution) and distribution.log:
        low, high = math.log10(distribution.low), math.log10(distribution.high)
        powers = range(math.ceil(low), math.floor(high) + 1)
        ticks = {"tickvals": [*powers], "ticktext": [f"{10.0**power:g}" for power in powers]}
        return {"label": name, "values": [math.log10(value) for value in values], "range": [low, high], **ticks}
    return {"label": name, "values": values}


def slices(data: ReportData) -> Panel:
    """Build the panel of the metric against one hyperparameter at a time."""
    metric = data.sweep.metric
    figures = [
        Figure(
            f"slice-{name}",
            _slice(data, name, has_legend=name == next(iter(data.distributions))),
            f"{metric} against {name}, one point per trial.",
        )
        for name in data.distributions
    ]
    text = (
        f"Each trial's best {metric} against one hyperparameter at a time. Trials that were cut short also have worse "
        f"values because they trained for fewer epochs.{outside_range_note(data)}"
    )
    return Panel("slices", "One hyperparameter at a time", [text], figures, is_grid=True)


def _slice(data: ReportData, name: str, *, has_legend: bool) -> dict[str, Any]:
    distribution, axis, traces = data.distributions[name], style.axis(name), []
    if isinstance(distribution, CategoricalDistribution):
        choices = [str(choice) for choice in distribution.choices]
        axis |= {"type": "category", "categoryorder": "array", "categoryarray": choices}
    elif isinstance(distribution, FloatDistribution) and distribution.log:
        axis |= {"type": "log", "dtick": 1, "exponentformat": "power"}
    for group, marker_style in ((data.finished, style.FINISHED), (data.cut_short, style.CUT_SHORT)):
        trials = [trial for trial in group if name in data.params[trial.number]]
        values = [data.params[trial.number][name] for trial in trials]
        trace = {
            "type": "scatter",
            "x": [*map(str, values)] if isinstance(distribution, CategoricalDistribution) else values,
            "y": [trial.value for trial in trials],
            "customdata": [trial.number for trial in trials],
            "mode": "markers",
            "name": marker_style["name"],
            "marker": {"color": marker_style["color"], "symbol": marker_style["symbol"], "size": 6},
            "showlegend": has_legend,
            "hovertemplate": "trial %{customdata}: " + name + " %{x}, %{y:.4f}<extra></extra>",
        }
        if trials:
            traces.append(trace)
    return style.plot(traces, height=320, xaxis=axis, yaxis=style.axis(data.sweep.metric, range=value_range(data)))


def importance(data: ReportData) -> Panel:
    """Build the panel of hyperparameter importance, from finished trials, with the spread over resamples."""
    title, result = "Hyperparameter importance", data.importances
    if result.too_few:
        return Panel("importance", title, [result.too_few])
    order, traces = list(dict.fromkeys(importance.name for importance in result.shares)), []
    for index, evaluator in enumerate(MEANINGS):
        by_name = {importance.name: importance for importance in result.shares if importance.evaluator == evaluator}
        shares = [by_name[name] for name in order]
        traces.append(
            {
                "type": "bar",
                "y": order,
                "x": [importance.share for importance in shares],
                "orientation": "h",
                "name": evaluator,
                "marker": {"color": style.PALETTE[index], "pattern": {"shape": ("", "/")[index], "solidity": 0.4}},
                "error_x": {
                    "array": [importance.high - importance.share for importance in shares],
                    "arrayminus": [importance.share - importance.low for importance in shares],
                    "color": style.GREY,
                },
                "hovertemplate": "%{y}: %{x:.2f}<extra>" + evaluator + "</extra>",
            }
        )
    highest = max(1e-9, *(importance.high for importance in result.shares))
    plot = style.plot(
        traces,
        height=120 + 52 * len(order),
        barmode="group",
        xaxis=style.axis("share of the importance", range=[0, highest * 1.05]),
        yaxis={"autorange": "reversed"},  # the first name and the first evaluator on top
    )
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in MEANINGS.items())
    text = [
        f"From the {result.num_finished} finished trials at full budget only. {meanings}.",
        f"Bars are medians over {RESAMPLES} resamples of the trials; whiskers cover {CONFIDENCE:.0%} of the resamples.",
        "If two whiskers overlap, the data do not show which hyperparameter matters more.",
    ]
    if result.conditional:
        text.append(f"Not ranked, because not every trial has it: {', '.join(result.conditional)}.")
    rows = [[e.name, e.evaluator, format_number(e.share, 2), f"{e.low:.2f} to {e.high:.2f}"] for e in result.shares]
    table = Table("Shares", ["hyperparameter", "evaluator", "share", f"{CONFIDENCE:.0%} of resamples"], rows)
    alt = f"Importance of {pluralize(len(order), 'hyperparameter')}; the table below has the numbers."
    return Panel("importance", title, text, [Figure("importance", plot, alt)], [table])


def optimizer_panels(data: ReportData) -> Panel:
    """Build the panel of the metric against the learning rate, one subplot per augmentation, coloured by optimizer."""
    title, metric = "Optimizer × learning rate × augmentation", data.sweep.metric
    trials = [trial for trial in data.scored if isinstance(trial.config.get(ALONG), int | float)]
    if not trials:
        return Panel("optimizer-panels", title, [f"Not available: the trials have no hyperparameter {ALONG}."])
    levels, optimizers = _order(data, trials, PANEL_BY), _order(data, trials, COLOUR_BY)
    rows, finished = [], {trial.number for trial in data.finished}
    traces = [_cell([], optimizer, index, "x", is_finished=True) for index, optimizer in enumerate(optimizers)]
    for column, level in enumerate(levels, start=1):
        for index, optimizer in enumerate(optimizers):
            for is_finished in (True, False):
                group = [
                    trial
                    for trial in trials
                    if (str(trial.config.get(PANEL_BY)), str(trial.config.get(COLOUR_BY))) == (level, optimizer)
                    and (trial.number in finished) == is_finished
                ]
                if group:
                    traces.append(_cell(group, optimizer, index, _x(column), is_finished=is_finished))
                if is_finished:
                    values = [trial.value for trial in group if trial.value is not None]
                    best = (max if data.sweep.mode == "max" else min)(values, default=None)
                    rows.append([level, optimizer, str(len(group)), format_number(best)])
    log = {"type": "log", "dtick": 1, "exponentformat": "power"}
    x_axes: dict[str, Any] = {
        _x(column).replace("x", "xaxis"): style.axis(ALONG, **log, matches="x" if column > 1 else None)
        for column in range(1, len(levels) + 1)
    }
    titles = [_title(f"{PANEL_BY}: {level}", _x(column)) for column, level in enumerate(levels, start=1)]
    plot = style.plot(
        traces,
        margin={"l": 60, "r": 20, "t": 90, "b": 50},
        legend=style.legend(y=1.12),
        grid={"rows": 1, "columns": len(levels), "xgap": 0.2},
        **x_axes,
        yaxis=style.axis(metric, range=value_range(data)),
        annotations=titles if any(PANEL_BY in trial.config for trial in trials) else [],
    )
    text = [f"Filled points are trials with the full budget; hollow points were cut short.{outside_range_note(data)}"]
    table = Table("Best values at full budget", [PANEL_BY, COLOUR_BY, "finished trials", f"best {metric}"], rows)
    alt = f"{metric} against {ALONG} for {pluralize(len(optimizers), 'optimizer')}, one subplot per {PANEL_BY}."
    return Panel("optimizer-panels", title, text, [Figure("optimizer-panels", plot, alt, min_width="40rem")], [table])


def _order(data: ReportData, trials: list[TrialRecord], name: str) -> list[str]:
    """Return a hyperparameter's values as text, in the order of the search space; "None" for trials without it."""
    present = {str(trial.config.get(name)) for trial in trials}
    distribution = data.distributions.get(name)
    known = [str(c) for c in distribution.choices] if isinstance(distribution, CategoricalDistribution) else []
    return [choice for choice in known if choice in present] + sorted(present - set(known))


def _x(column: int) -> str:
    """Return Plotly's name of a column's x axis: "x", "x2", "x3", ..."""
    return "x" if column == 1 else f"x{column}"


def _title(text: str, x: str) -> dict[str, Any]:
    """Return a title above the subplot with this x axis."""
    above = {"x": 0.5, "xref": f"{x} domain", "xanchor": "center", "y": 1, "yref": "paper", "yanchor": "bottom"}
    return {"text": text, "font": {"size": 16}, "showarrow": False, **above}


def _cell(group: list[TrialRecord], optimizer: str, index: int, x: str, *, is_finished: bool) -> dict[str, Any]:
    """Draw one optimizer's points in one subplot; an empty group only makes the entry in the legend."""
    colour = style.PALETTE[index % len(style.PALETTE)]
    symbol = style.SYMBOLS[index % 4] + ("" if is_finished else "-open")
    return {
        "type": "scatter",
        "xaxis": x,
        "x": [trial.config[ALONG] for trial in group] or [None],
        "y": [trial.value for trial in group] or [None],
        "customdata": [trial.number for trial in group],
        "mode": "markers",
        "name": optimizer,
        "legendgroup": optimizer,
        "showlegend": not group and is_finished,
        "marker": {"color": colour, "symbol": symbol, "size": 8, "line": {"width": 2, "color": colour}},
        "hovertemplate": f"trial %{{customdata}}, {optimizer}, {ALONG} %{{x:.2e}}: %{{y:.4f}}<extra></extra>",
    }
