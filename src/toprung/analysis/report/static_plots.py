"""The report's main plots as PNG files, drawn with Matplotlib and Optuna so that no browser is needed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import optuna.visualization.matplotlib as optuna_plots
from matplotlib import pyplot
from matplotlib.figure import Figure
from optuna.exceptions import ExperimentalWarning
from sklearn.metrics import ConfusionMatrixDisplay

from toprung.analysis.importance import MEANINGS
from toprung.analysis.report import style
from toprung.analysis.report.data import EPOCHS, ReportData
from toprung.analysis.report.panel import end_label
from toprung.analysis.report.winner_panels import MAX_CLASSES, WinnerEvaluation

DOTS_PER_INCH = 110
MARKERS = "odsx^+v"


def draw_plots(data: ReportData, evaluation: WinnerEvaluation | str, *, folder: Path) -> list[Path]:
    """Write the plots and return their files; plots without data are left out.

    Args:
        data: the sweep.
        evaluation: its winner on the validation split, or the reason why it could not be evaluated.
        folder: an existing folder.
    """
    matplotlib.use("Agg")
    plots: dict[str, Callable[[], Figure | None]] = {
        "best-so-far": lambda: _history(data),
        "learning-curves": lambda: _learning_curves(data),
        "parallel-coordinates": lambda: _parallel_coordinates(data),
        "slices": lambda: _slices(data),
        "importance": lambda: _importance(data),
        "confusion": lambda: None if isinstance(evaluation, str) else _confusion(evaluation),
    }
    files = []
    for name, draw in plots.items():
        with _isolated_style():
            if (figure := draw()) is not None:
                path = folder / f"{name}.png"
                figure.savefig(path, dpi=DOTS_PER_INCH, bbox_inches="tight")
                files.append(path)
    return files


@contextmanager
def _isolated_style() -> Iterator[None]:
    """Undo the process-wide style that Optuna's plots set, and ignore warnings about constant axes."""
    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"(optuna\.visualization\.)?matplotlib")
        yield
    pyplot.close("all")


def _history(data: ReportData) -> Figure:
    axes = optuna_plots.plot_optimization_history(data.scored_study, target_name=data.sweep.metric)
    axes.set(title="", xlabel="trial")
    for line in axes.get_lines():
        line.set_label("best so far")
    axes.legend(loc="lower right")
    return _checked(axes.figure)


def _learning_curves(data: ReportData) -> Figure:
    figure, axes = pyplot.subplots(figsize=(9, 5))
    groups = sorted(
        {(trial.rung or data.sweep.asha.max_epochs + 1, end_label(trial)) for trial in data.distinct_trials}
    )
    for index, (_, outcome) in enumerate(groups, start=1):  # one line per group with gaps: thousands would be slow
        steps: list[float] = []
        values: list[float] = []
        for trial in [trial for trial in data.distinct_trials if end_label(trial) == outcome]:
            by_epoch = sorted(trial.epochs_by_number.items())
            steps += [*(step for step, _ in by_epoch), float("nan")]
            values += [*(epoch.metrics[data.sweep.metric] for _, epoch in by_epoch), float("nan")]
        colour, marker = style.PALETTE[index % len(style.PALETTE)], MARKERS[index % len(MARKERS)]
        axes.plot(steps, values, color=colour, marker=marker, markersize=3, linewidth=0.7, alpha=0.6, label=outcome)
    axes.set(xlabel="epoch", ylabel=data.sweep.metric)
    axes.legend(loc="lower right")
    return figure


def _parallel_coordinates(data: ReportData) -> Figure | None:
    shared = [name for name in data.distributions if all(name in data.params[t.number] for t in data.scored)]
    if not shared:
        return None
    epochs_differ = len({trial.epochs for trial in data.scored}) > 1  # Matplotlib cannot draw a constant axis
    axes = optuna_plots.plot_parallel_coordinate(
        data.scored_study, params=shared + [EPOCHS] * epochs_differ, target_name=data.sweep.metric
    )
    axes.set_title("")
    figure = _checked(axes.figure)
    figure.set_size_inches(14, 5)
    return figure


def _slices(data: ReportData) -> Figure | None:
    if not data.distributions:
        return None
    axes = optuna_plots.plot_slice(data.scored_study, params=[*data.distributions], target_name=data.sweep.metric)
    first = axes if hasattr(axes, "figure") else axes[0]
    first.figure.suptitle("")
    return _checked(first.figure)


def _importance(data: ReportData) -> Figure | None:
    result = data.importances
    if result.too_few:
        return None
    names = list(dict.fromkeys(importance.name for importance in result.shares))[::-1]
    figure, axes = pyplot.subplots(figsize=(8, 1 + 0.5 * len(names)))
    for index, evaluator in enumerate(MEANINGS):
        by_name = {importance.name: importance for importance in result.shares if importance.evaluator == evaluator}
        shares = [by_name[name] for name in names]
        spread = [[e.share - e.low for e in shares], [e.high - e.share for e in shares]]
        heights = [row + (0.2, -0.2)[index] for row in range(len(names))]
        axes.barh(
            heights, [e.share for e in shares], 0.38, xerr=spread, color=style.PALETTE[index],
            ecolor=style.GREY, hatch=("", "//")[index], label=evaluator,
        )  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("share of the importance")
    axes.legend(loc="lower right")
    return figure


def _confusion(evaluation: WinnerEvaluation) -> Figure:
    side = max(4.0, min(14.0, 0.5 * len(evaluation.classes)))
    figure, axes = pyplot.subplots(figsize=(side, side))
    display = ConfusionMatrixDisplay(evaluation.counts, display_labels=evaluation.classes)
    has_counts = len(evaluation.classes) <= MAX_CLASSES
    display.plot(ax=axes, cmap="cividis", colorbar=False, include_values=has_counts, xticks_rotation="vertical")
    axes.set(xlabel="predicted class", ylabel="true class")
    return figure


def _checked(figure: object) -> Figure:
    assert isinstance(figure, Figure)
    return figure
