"""The comment on a pull request, in GitHub's Markdown: verdict, distributions, ranked trials and best value so far.

The plots are Mermaid charts, which GitHub renders itself. Images would need public hosting and permission to upload.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from toprung.analysis.change_test import ALPHA, RankTest, rank_test
from toprung.analysis.pull_request.record import Record, Seeds
from toprung.analysis.report.style import BLUE, VERMILLION
from toprung.errors import pluralize
from toprung.markdown import table

MARKER = "<!-- toprung ci-report -->"  # the next run finds the comment by this marker
MIN_SEEDS = 5

QUARTILES = {"lowest": 0.0, "lower quartile": 0.25, "median": 0.5, "upper quartile": 0.75, "highest": 1.0}
TITLES = {
    "the same": "identical to the base",
    "worse": "worse than the base",
    "better": "better than the base",
    "no significant difference": "no significant difference from the base",
}
REPRODUCE = "To reproduce it on your machine: `toprung sweep`, `toprung ci-base`, `toprung ci-report`."


def run_rank_test(record: Record, *, level: float = ALPHA) -> RankTest | None:
    """Compare the two sides with a rank test; None if one of them is missing or has too few seeds."""
    ours, base = record.ours, record.base
    if ours is None or base is None or min(len(ours.values), len(base.values)) < MIN_SEEDS:
        return None
    return rank_test([*ours.values.values()], [*base.values.values()], mode=record.mode, level=level)


def comment(record: Record, *, level: float = ALPHA, run_url: str | None = None) -> str:
    """Generate the comment.

    Args:
        record: the record that CI measured. Its texts are shown as code, so that they cannot contain links, images or
            mentions of people.
        level: the significance level of the rank test.
        run_url: the URL of the workflow run that has the full report as an artifact.
    """
    test = run_rank_test(record, level=level)
    verdict = "not compared with the base" if test is None else TITLES[test.verdict]
    parts = [MARKER, f"### Mini-sweep: {verdict}", *_comparison(record, test), *_sweep(record)]
    run = f"[this run]({run_url})" if run_url else "the workflow run"
    parts.append(f"<sub>The full report is in the artifact `mini-sweep` of {run}. {REPRODUCE}</sub>")
    return "\n\n".join(parts) + "\n"


def _comparison(record: Record, test: RankTest | None) -> list[str]:
    ours, base = record.ours, record.base
    if test is None or ours is None or base is None:
        return [_why_not(ours, base)]
    return [
        _verdict(test, ours, base),
        _table(
            ["", "seeds", *QUARTILES, "failed"],
            [_quartile_row("this change", ours), _quartile_row("base", base)],
            note="The distribution of each side's values:",
        ),
        _chart(
            f"{record.metric} by seed (blue: this change, orange: base)",
            "seeds, sorted by value",
            None,
            [(BLUE, _sorted_values(ours)), (VERMILLION, _sorted_values(base))],
            y_title=record.metric,
        ),
        f"Both sides use the same machine, data and package versions; each uses its own code and {code(ours.recipe)}.",
    ]


def _why_not(ours: Seeds | None, base: Seeds | None) -> str:
    for side, name in ((ours, "This change"), (base, "The base")):
        if side is None:
            return f"{name} was not trained with several seeds, so there is no comparison."
        if side.problem is not None:
            return f"{name} could not be trained, so there is no comparison: {code(side.problem)}"
    return f"One side has fewer than {MIN_SEEDS} seeds, so there is no comparison."


def _verdict(test: RankTest, ours: Seeds, base: Seeds) -> str:
    commits = f"{_commit(ours)} against {_commit(base)}"
    counts = f"{len(ours.values)} and {pluralize(len(base.values), 'seed')}"
    if test.verdict == "the same":
        text = f"**All values are identical** ({commits}, {counts}): the change does not affect the score."
    else:
        chance = f"this change beats the base in {test.probability_better:.0%} of all pairs of trainings"
        name = "worse" if test.verdict == "no significant difference" else test.verdict
        result = f"one-sided Mann-Whitney test for {name}: p = {test.pvalue:.2g}, significance level {test.level:g}"
        text = f"**{test.verdict.capitalize()}** ({commits}, {counts}): {chance} ({result})."
    if test.smallest_drop is None:
        return text
    return (
        f"{text} With this spread, the test detects a loss of {test.smallest_drop:.2g} or more four times in five; "
        "it can miss smaller losses."
    )


def _commit(side: Seeds) -> str:
    return f"`{side.commit[:9]}`" if side.commit else "uncommitted code"


def _quartile_row(name: str, side: Seeds) -> list[str]:
    values = [value for value in side.values.values() if value is not None]
    quantiles = [f"{np.quantile(values, share):.4f}" if values else "" for share in QUARTILES.values()]
    return [name, str(len(side.values)), *quantiles, str(len(side.values) - len(values))]


def _sorted_values(side: Seeds) -> list[float]:
    return sorted(value for value in side.values.values() if value is not None)


def _sweep(record: Record) -> list[str]:
    counts = ", ".join(f"{count} {status}" for status, count in sorted(record.statuses.items()))
    duration = "" if record.seconds is None else f" in {record.seconds:.0f} s"
    trials = pluralize(sum(record.statuses.values()), "trial")
    epochs = pluralize(record.num_epochs, "epoch")
    name = code(record.recipe or record.sweep_id)
    head = f"#### {name}\n\n{trials} ({counts}), {epochs}{duration}."
    if not record.rows:
        return [f"{head} No trial has a value."]
    rows = [
        [
            f"{index}{' (default)' if row.is_default else ''}", str(row.number), f"{row.value:.4f}", str(row.epoch),
            code(row.ended), code(row.config),
        ]
        for index, row in enumerate(record.rows, start=1)
    ]  # fmt: skip
    columns = ["rank", "trial", code(record.metric), "epoch", "outcome", "configuration"]
    parts = [f"{head} The best value is partly luck.", _table(columns, rows)]
    if len(record.best_so_far) > 1:
        numbers, values = zip(*record.best_so_far, strict=True)
        parts.append(
            _chart(
                f"Best {record.metric} so far", "epochs trained", numbers, [(VERMILLION, values)], y_title=record.metric
            )
        )
    return parts


def code(text: str) -> str:
    """Show untrusted text as inline code in a table, so that it cannot contain Markdown, links or mentions."""
    plain = "".join(char if char.isprintable() and char != "`" else " " for char in text).strip()
    return f"`{plain.replace('|', chr(92) + '|') or ' '}`"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, note: str | None = None) -> str:
    text = table(columns, rows)
    return f"{note}\n\n{text}" if note else text


def _chart(
    title: str,
    x_title: str,
    x: Sequence[int] | None,
    lines: Sequence[tuple[str, Sequence[float]]],
    *,
    y_title: str,
) -> str:
    """Draw a Mermaid xychart with one line per list of values; without `x` they are numbered from 1."""
    values = [value for _, line in lines for value in line]
    longest = max(len(line) for _, line in lines)
    if longest < 2:
        return ""
    margin = 0.05 * (max(values) - min(values)) or 0.05 * abs(values[0]) or 1.0
    low, high = min(values) - margin, max(values) + margin
    ticks = ", ".join(map(str, x if x is not None else range(1, longest + 1)))
    colours = ", ".join(colour for colour, _ in lines)
    settings = {
        "xyChart": {"height": 320, "titleFontSize": 15},
        "themeVariables": {"xyChart": {"plotColorPalette": colours}},
    }
    chart = [
        "```mermaid",
        f"%%{{init: {json.dumps(settings)}}}%%",
        "xychart-beta",
        f'    title "{title}"',
        f'    x-axis "{x_title}" [{ticks}]',
        f'    y-axis "{y_title}" {low:.5g} --> {high:.5g}',
        *(f"    line [{', '.join(f'{value:.5g}' for value in line)}]" for _, line in lines),
        "```",
    ]
    return "\n".join(chart)
