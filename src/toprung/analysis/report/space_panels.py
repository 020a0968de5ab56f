"""The search space: parallel coordinates, slices, importance, and optimizer x learning rate x augmentation."""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.visualization import plot_slice
from plotly.subplots import make_subplots

from toprung.analysis.importance import CONFIDENCE, MEANINGS, RESAMPLES
from toprung.analysis.report import style
from toprung.analysis.report.data import EPOCHS, ReportData
from toprung.analysis.report.panel import Figure, Panel, Table, format_number
from toprung.analysis.report.progress_panels import outside_range_note, value_range
from toprung.records.trial_record import TrialRecord

PANEL_BY, COLOUR_BY, ALONG = "augment", "optimizer", "lr"


def parallel_coordinates(data: ReportData) -> Panel:
    """What every trial has, the epochs it trained among it, and its value; one trace, whatever the number of trials."""
    title = "Parallel coordinates"
    shown = [name for name in data.distributions if all(name in data.params[t.number] for t in data.scored)]
    if not shown:
        return Panel("parallel-coordinates", title, ["No hyperparameter is shared by all trials."])
    metric, values = data.sweep.metric, [trial.value for trial in data.scored]
    plot = go.Figure(
        go.Parcoords(
            dimensions=[
                *(_dimension(data, name) for name in shown),
                {"label": EPOCHS, "values": [trial.epochs for trial in data.scored]},
                {"label": metric, "values": values},
            ],
            line={
                "color": values,
                "colorscale": style.SCALE,
                "showscale": True,
                "colorbar": {"title": {"text": metric}},
            },
            unselected={"line": {"opacity": 0.05}},
        )
    )
    style.settle(plot, height=460, margin={"l": 90, "r": 60, "t": 70, "b": 40})
    left_out = [name for name in data.distributions if name not in shown]
    text = ["One line a trial. Drag along an axis to keep the lines that pass there; a click on it lets them go."]
    if left_out:
        text.append(f"Not shown, since it exists only under some choices: {', '.join(left_out)}.")
    alt = f"Parallel coordinates of {len(data.scored)} trials over {', '.join(shown)}, and {metric}."
    return Panel("parallel-coordinates", title, text, [Figure("parallel-coordinates", plot, alt, min_width="56rem")])


def _dimension(data: ReportData, name: str) -> dict[str, Any]:
    distribution, given = data.distributions[name], [data.params[trial.number][name] for trial in data.scored]
    if isinstance(distribution, CategoricalDistribution):
        places = {choice: index for index, choice in enumerate(distribution.choices)}
        ticks = {"tickvals": [*places.values()], "ticktext": [str(choice) for choice in places]}
        return {"label": name, "values": [places[value] for value in given], "range": [0, len(places) - 1], **ticks}
    if isinstance(distribution, FloatDistribution) and distribution.log:
        low, high = math.log10(distribution.low), math.log10(distribution.high)
        powers = range(math.ceil(low), math.floor(high) + 1)
        ticks = {"tickvals": [*powers], "ticktext": [f"{10.0**power:g}" for power in powers]}
        return {"label": name, "values": [math.log10(value) for value in given], "range": [low, high], **ticks}
    return {"label": name, "values": given}


def slices(data: ReportData) -> Panel:
    """Optuna's slice plot, one hyperparameter at a time."""
    figures: list[Figure] = []
    metric = data.sweep.metric
    groups = (
        (data.finished_study, data.finished, style.FINISHED),
        (data.cut_short_study, data.cut_short, style.CUT_SHORT),
    )
    for name, distribution in data.distributions.items():
        plot = go.Figure()
        for study, trials, looks in groups:
            if not any(name in data.params[trial.number] for trial in trials):
                continue
            drawn = plot_slice(study, params=[name], target_name=metric)
            trace = next(trace for trace in drawn.data if len(trace.x or ()))
            numbers = list(trace.marker.color)
            trace.marker = {"color": looks["color"], "symbol": looks["symbol"], "size": 6}
            trace.update(name=looks["name"], customdata=numbers, showlegend=not figures)
            if isinstance(distribution, CategoricalDistribution):
                trace.x = [str(data.params[number][name]) for number in numbers]
            trace.hovertemplate = "trial %{customdata}: " + name + " %{x}, %{y:.4f}<extra></extra>"
            plot.add_trace(trace)
            plot.update_xaxes(drawn.layout.xaxis.to_plotly_json())
        style.settle(plot, height=320, yaxis_title=metric, yaxis_range=value_range(data))
        if isinstance(distribution, FloatDistribution) and distribution.log:
            plot.update_xaxes(dtick=1, exponentformat="power")
        if isinstance(distribution, CategoricalDistribution):
            plot.update_xaxes(categoryarray=[str(choice) for choice in distribution.choices])
        figures.append(Figure(f"slice-{name}", plot, f"{metric} against {name}, one point a trial."))
    text = (
        f"Each trial's best {metric} against one hyperparameter at a time. Trials cut short reached less also because "
        f"they trained less.{outside_range_note(data)}"
    )
    return Panel("slices", "One hyperparameter at a time", [text], figures, is_grid=True)


def importance(data: ReportData) -> Panel:
    """Optuna's evaluators on finished trials, with their spread over resamples."""
    title, given = "What matters", data.importances
    if given.too_few:
        return Panel("importance", title, [given.too_few])
    plot, order = go.Figure(), list(dict.fromkeys(importance.name for importance in given.shares))[::-1]
    for index, evaluator in enumerate(MEANINGS):
        by_name = {importance.name: importance for importance in given.shares if importance.evaluator == evaluator}
        shares = [by_name[name] for name in order]
        plot.add_trace(
            go.Bar(
                y=order,
                x=[importance.share for importance in shares],
                orientation="h",
                name=evaluator,
                marker={"color": style.PALETTE[index], "pattern": {"shape": ("", "/")[index], "solidity": 0.4}},
                error_x={
                    "array": [importance.high - importance.share for importance in shares],
                    "arrayminus": [importance.share - importance.low for importance in shares],
                    "color": style.GREY,
                },
                hovertemplate="%{y}: %{x:.2f}<extra>" + evaluator + "</extra>",
            )
        )
    style.settle(plot, height=120 + 52 * len(order), barmode="group", xaxis_title="share of the importance")
    plot.update_xaxes(range=[0, max(1e-9, *(importance.high for importance in given.shares)) * 1.05])
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in MEANINGS.items())
    text = [
        f"From the {given.num_finished} trials at full budget only. {meanings}.",
        f"The bars are means over {RESAMPLES} resamples of the trials, the whiskers hold {CONFIDENCE:.0%} of them.",
        "Where whiskers overlap, the order means nothing.",
    ]
    if given.conditional:
        text.append(f"Not ranked, since it exists only under some choices: {', '.join(given.conditional)}.")
    rows = [[e.name, e.evaluator, format_number(e.share, 2), f"{e.low:.2f} to {e.high:.2f}"] for e in given.shares]
    table = Table("Importance", ["hyperparameter", "evaluator", "share", f"{CONFIDENCE:.0%} of resamples"], rows)
    alt = f"Importance of {len(order)} hyperparameters; the table below gives the figures."
    return Panel("importance", title, text, [Figure("importance", plot, alt)], [table])


def optimizer_panels(data: ReportData) -> Panel:
    """The metric against the learning rate, coloured by optimizer, one panel for each augmentation."""
    title, metric = "Optimizer × learning rate × augmentation", data.sweep.metric
    trials = [trial for trial in data.scored if isinstance(trial.config.get(ALONG), int | float)]
    if not trials:
        return Panel("optimizer-panels", title, [f"The trials have no hyperparameter {ALONG}."])
    levels, optimizers = _order(data, trials, PANEL_BY), _order(data, trials, COLOUR_BY)
    plot = make_subplots(
        cols=len(levels), shared_xaxes="all", shared_yaxes=True, subplot_titles=[f"{PANEL_BY}: {one}" for one in levels]
    )
    rows, finished = [], {trial.number for trial in data.finished}
    for index, optimizer in enumerate(optimizers):
        plot.add_trace(_cell([], optimizer, index, is_finished=True), row=1, col=1)
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
                    plot.add_trace(_cell(group, optimizer, index, is_finished=is_finished), row=1, col=column)
                if is_finished:
                    values = [trial.value for trial in group if trial.value is not None]
                    best = (max if data.sweep.mode == "max" else min)(values, default=None)
                    rows.append([level, optimizer, str(len(group)), format_number(best)])
    style.settle(plot, height=420, margin={"l": 60, "r": 20, "t": 90, "b": 50})
    plot.update_layout(legend={"y": 1.12})
    plot.update_xaxes(type="log", dtick=1, exponentformat="power", title_text=ALONG)
    plot.update_yaxes(range=value_range(data))
    plot.update_yaxes(title_text=metric, col=1)
    text = [f"Filled points trained for the full budget, hollow ones were cut short.{outside_range_note(data)}"]
    table = Table("Best at full budget", [PANEL_BY, COLOUR_BY, "finished trials", f"best {metric}"], rows)
    alt = f"{metric} against {ALONG} for {len(optimizers)} optimizers, in {len(levels)} panels by {PANEL_BY}."
    return Panel("optimizer-panels", title, text, [Figure("optimizer-panels", plot, alt, min_width="40rem")], [table])


def _order(data: ReportData, trials: list[TrialRecord], name: str) -> list[str]:
    """The values of a hyperparameter in the order of the search space, as text; one "None" where it has none."""
    present = {str(trial.config.get(name)) for trial in trials}
    distribution = data.distributions.get(name)
    known = [str(c) for c in distribution.choices] if isinstance(distribution, CategoricalDistribution) else []
    return [choice for choice in known if choice in present] + sorted(present - set(known))


def _cell(group: list[TrialRecord], optimizer: str, index: int, *, is_finished: bool) -> go.Scatter:
    """One optimizer's points in one panel; an empty group is its entry in the legend."""
    symbol = style.SYMBOLS[index % 4] + ("" if is_finished else "-open")
    return go.Scatter(
        x=[trial.config[ALONG] for trial in group] or [None],
        y=[trial.value for trial in group] or [None],
        customdata=[trial.number for trial in group],
        mode="markers",
        name=optimizer,
        legendgroup=optimizer,
        showlegend=not group and is_finished,
        marker={"color": style.PALETTE[index % len(style.PALETTE)], "symbol": symbol, "size": 8, "line": {"width": 2}},
        hovertemplate=f"trial %{{customdata}}, {optimizer}, {ALONG} %{{x:.2e}}: %{{y:.4f}}<extra></extra>",
    )
