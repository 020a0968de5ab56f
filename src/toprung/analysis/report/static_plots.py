"""The report's main plots as PNG files for the summary and MLflow, drawn with Matplotlib so that no browser is needed.

They show the same traces as the page; of Plotly's properties, only those that these plots use are read. The figures are
created without `pyplot`, which takes longer to import and keeps global state.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from toprung.analysis.report import style
from toprung.analysis.report.panel import Panel
from toprung.analysis.report.winner_evaluation import WinnerEvaluation
from toprung.analysis.report.winner_panels import MAX_CLASSES

COLUMNS = 4
MARKERS = dict(zip(style.SYMBOLS, "oDs^xP", strict=True))
LINE_STYLES = {"solid": "-", "dash": "--", "dot": ":"}


def draw_plots(panels: Sequence[Panel], evaluation: WinnerEvaluation | str, *, folder: Path) -> list[Path]:
    """Write the plots and return their files; plots without data are left out.

    Args:
        panels: the panels of the page.
        evaluation: the winner on the validation split, or the reason why it could not be evaluated.
        folder: an existing folder.
    """
    plots = {panel.key: [figure.plot for figure in panel.figures] for panel in panels if panel.figures}
    figures: dict[str, Figure] = {}
    for key in ("best-so-far", "learning-curves", "importance"):
        if key in plots:
            figures[key] = _draw(plots[key][0])
    if slices := [plot for plot in plots.get("slices", []) if plot["data"]]:
        figures["slices"] = _draw_grid(slices)
    if "parallel-coordinates" in plots:
        figures["parallel-coordinates"] = _draw_parallel_coordinates(*plots["parallel-coordinates"])
    if not isinstance(evaluation, str):
        figures["confusion"] = _draw_confusion(evaluation)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png")
    return [folder / f"{name}.png" for name in figures]


def _draw(plot: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(9, plot["layout"]["height"] / 100))
    axes = figure.subplots()
    _draw_plot(axes, plot)
    axes.legend(loc="lower right")
    figure.tight_layout()
    return figure


def _draw_grid(plots: Sequence[dict[str, Any]]) -> Figure:
    """Draw plots with the same y axis in a grid; its margins are fixed, as to compute them would double the time."""
    num_columns, num_rows = min(len(plots), COLUMNS), -(-len(plots) // COLUMNS)
    figure, first = Figure(figsize=(3.5 * num_columns, 3 * num_rows)), None
    sides = {"left": 0.24 / num_columns, "right": 1 - 0.08 / num_columns}
    ends = {"bottom": 0.18 / num_rows, "top": 1 - 0.05 / num_rows}
    grid = figure.add_gridspec(num_rows, num_columns, **sides, **ends, wspace=0.1, hspace=0.3)
    for index, plot in enumerate(plots):
        axes = figure.add_subplot(grid[index], sharey=first)
        _draw_plot(axes, plot)
        if first is None:
            axes.legend(loc="lower right")
        axes.yaxis.set_visible(index % num_columns == 0)
        first = first or axes
    return figure


def _draw_plot(axes: Axes, plot: dict[str, Any]) -> None:
    x_axis, y_axis = plot["layout"]["xaxis"], plot["layout"]["yaxis"]
    if x_axis.get("type") == "category":
        axes.xaxis.update_units(x_axis["categoryarray"])  # type: ignore[no-untyped-call]  # in this order
    for index, trace in enumerate(plot["data"]):
        if trace["type"] == "bar":
            _draw_bars(axes, trace, offset=(index + 0.5) / len(plot["data"]) - 0.5, height=0.8 / len(plot["data"]))
        else:
            _draw_points(axes, trace)
    if x_axis.get("type") == "log":
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    if y_axis.get("autorange") == "reversed":
        axes.invert_yaxis()
    axes.set(xlabel=x_axis["title"]["text"], ylabel=y_axis.get("title", {}).get("text"), ylim=y_axis.get("range"))


def _draw_points(axes: Axes, trace: dict[str, Any]) -> None:
    line, marker = trace.get("line", {}), trace.get("marker", {})
    axes.plot(
        trace["x"],
        trace["y"],
        color=(line or marker)["color"],
        linestyle=LINE_STYLES[line.get("dash", "solid")] if "lines" in trace["mode"] else "none",
        linewidth=0.6 * line.get("width", 2),
        drawstyle="steps-post" if line.get("shape") == "hv" else "default",
        marker=MARKERS[marker["symbol"].removesuffix("-open")] if "markers" in trace["mode"] else None,
        markersize=0.6 * marker.get("size", 6),
        alpha=trace.get("opacity"),
        label=trace["name"],
    )


def _draw_bars(axes: Axes, trace: dict[str, Any], *, offset: float, height: float) -> None:
    spread = [trace["error_x"]["arrayminus"], trace["error_x"]["array"]]
    rows = np.arange(len(trace["y"]))
    axes.barh(
        rows + 0.8 * offset, trace["x"], height, xerr=spread, color=trace["marker"]["color"],
        ecolor=trace["error_x"]["color"], hatch=2 * trace["marker"]["pattern"]["shape"], label=trace["name"],
    )  # fmt: skip
    axes.set_yticks(rows, trace["y"])


def _draw_parallel_coordinates(plot: dict[str, Any]) -> Figure:
    (trace,) = plot["data"]
    figure = Figure(figsize=(14, 5))
    axes, columns = figure.subplots(), []
    background = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0}
    for position, dimension in enumerate(trace["dimensions"]):
        values = np.array(dimension["values"], dtype=float)
        low, high = dimension.get("range", (values.min(), values.max()))
        ticks = dimension.get("tickvals", MaxNLocator(5).tick_values(low, high))
        texts = dimension.get("ticktext", [f"{tick:g}" for tick in ticks])
        for tick, text in zip(ticks, texts, strict=True):
            if low <= tick <= high:
                axes.text(position, (tick - low) / (high - low or 1), f"– {text}", size=8, va="center", bbox=background)
        axes.axvline(position, color=style.GREY, linewidth=1)
        columns.append((values - low) / (high - low or 1))
    heights_TD = np.column_stack(columns)  # trials, dimensions
    positions_TD = np.broadcast_to(np.arange(len(columns)), heights_TD.shape)
    colours = LinearSegmentedColormap.from_list("", trace["line"]["colorscale"])
    values_T = np.array(trace["line"]["color"])
    order = np.argsort(values_T)  # high values on top, as on the page
    segments = [*np.stack([positions_TD, heights_TD], axis=-1)[order]]
    lines = LineCollection(segments, array=values_T[order], cmap=colours, linewidths=0.7, alpha=0.7)
    axes.add_collection(lines)
    axes.set_xticks(range(len(columns)), [dimension["label"] for dimension in trace["dimensions"]])
    axes.set(xlim=(-0.1, len(columns) - 0.5), yticks=[])
    axes.set_frame_on(False)
    figure.tight_layout()
    return figure


def _draw_confusion(evaluation: WinnerEvaluation) -> Figure:
    from sklearn.metrics import ConfusionMatrixDisplay  # imported here because few reports need scikit-learn

    side = max(4.0, min(14.0, 0.5 * len(evaluation.classes)))
    figure = Figure(figsize=(side, side))
    labels = [name.replace("$", r"\$") for name in evaluation.classes]  # between two, Matplotlib expects a formula
    display = ConfusionMatrixDisplay(100 * evaluation.shares, display_labels=labels)
    has_numbers = len(evaluation.classes) <= MAX_CLASSES
    axes = figure.subplots()
    display.plot(
        ax=axes,
        cmap="cividis",
        colorbar=False,
        include_values=has_numbers,
        values_format=".0f",
        xticks_rotation="vertical",
    )
    axes.set(xlabel="predicted class", ylabel="true class", title="Share of each true class, in percent")
    figure.tight_layout()
    return figure
