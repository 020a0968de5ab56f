"""The comment on a pull request, in GitHub's Markdown: verdict, both sides as distributions, ranked table, best so far.

Its plots are Mermaid's, which GitHub draws itself: a picture would need a public place and the right to write there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from toprung.analysis.change_test import ALPHA, RankTest, rank_test
from toprung.analysis.pull_request.record import Record, Seeds
from toprung.analysis.report.style import BLUE, VERMILLION

MARKER = "<!-- toprung ci-report -->"  # by which the next run finds the comment again
MIN_SEEDS = 5

QUARTERS = {"lowest": 0.0, "lower quartile": 0.25, "median": 0.5, "upper quartile": 0.75, "highest": 1.0}
TITLES = {
    "the same": "the very same as the base",
    "worse": "worse than the base",
    "better": "better than the base",
    "no significant difference": "no significant difference from the base",
}
REPEAT = "The same on your machine: `toprung sweep`, `toprung ci-base`, `toprung ci-report`."


def run_rank_test(record: Record, *, level: float = ALPHA) -> RankTest | None:
    """The rank test between the two sides; None where one of them is not there, or has too few seeds."""
    ours, base = record.ours, record.base
    if ours is None or base is None or min(len(ours.values), len(base.values)) < MIN_SEEDS:
        return None
    return rank_test([*ours.values.values()], [*base.values.values()], mode=record.mode, level=level)


def comment(record: Record, *, level: float = ALPHA, run_url: str | None = None) -> str:
    """Write it.

    Args:
        record: what CI measured; its texts are shown as code, so that nothing in them is a link, a picture or a person.
        level: of the rank test.
        run_url: where the artifact with the whole report lies.
    """
    test = run_rank_test(record, level=level)
    verdict = "not compared with the base" if test is None else TITLES[test.verdict]
    parts = [MARKER, f"### Mini-sweep: {verdict}", *_comparison(record, test), *_sweep(record)]
    where = f"[this run]({run_url})" if run_url else "the run"
    parts.append(f"<sub>The whole report is in the artifact `mini-sweep` of {where}. {REPEAT}</sub>")
    return "\n\n".join(parts) + "\n"


def _comparison(record: Record, test: RankTest | None) -> list[str]:
    ours, base = record.ours, record.base
    if test is None or ours is None or base is None:
        return [_why_not(ours, base)]
    return [
        _verdict(test, ours, base),
        _table(
            ["", "seeds", *QUARTERS, "failed"],
            [_quarters("this change", ours), _quarters("the base", base)],
            note="The values of each side, from the lowest to the highest:",
        ),
        _chart(
            f"{record.metric} by seed (blue: this change, orange: the base)",
            "seeds, lowest value first",
            None,
            [(BLUE, _in_order(ours)), (VERMILLION, _in_order(base))],
            y_title=record.metric,
        ),
        f"Both sides: the same machine, data and versions; each its own code and its own {code(ours.recipe)}.",
    ]


def _why_not(ours: Seeds | None, base: Seeds | None) -> str:
    for side, whose in ((ours, "This change"), (base, "The base")):
        if side is None:
            return f"{whose} was not trained with several seeds, so nothing is compared."
        if side.problem is not None:
            return f"{whose} could not be trained, so nothing is compared: {code(side.problem)}"
    return f"Fewer than {MIN_SEEDS} seeds on a side say nothing, so nothing is compared."


def _verdict(test: RankTest, ours: Seeds, base: Seeds) -> str:
    commits = f"{_commit(ours)} against {_commit(base)}"
    counts = f"{len(ours.values)} and {len(base.values)} seeds"
    if test.verdict == "the same":
        text = f"**Every value is the same** ({commits}, {counts}): nothing that decides the score has changed."
    else:
        chance = f"a training here beats one of the base in {test.probability_better:.0%} of all pairs"
        name = "worse" if test.verdict == "no significant difference" else test.verdict
        rank = f"one-sided Mann-Whitney test for {name}: p = {test.pvalue:.2g}, level {test.level:g}"
        text = f"**{test.verdict.capitalize()}** ({commits}, {counts}): {chance} ({rank})."
    if test.smallest_drop is None:
        return text
    return (
        f"{text} With this spread, a loss of {test.smallest_drop:.2g} or more is found four times in five; "
        "a smaller one mostly passes unseen."
    )


def _commit(side: Seeds) -> str:
    return f"`{side.commit[:9]}`" if side.commit else "uncommitted code"


def _quarters(name: str, side: Seeds) -> list[str]:
    values = [value for value in side.values.values() if value is not None]
    figures = [f"{np.quantile(values, share):.4f}" if values else "" for share in QUARTERS.values()]
    return [name, str(len(side.values)), *figures, str(len(side.values) - len(values))]


def _in_order(side: Seeds) -> list[float]:
    return sorted(value for value in side.values.values() if value is not None)


def _sweep(record: Record) -> list[str]:
    counts = ", ".join(f"{count} {status}" for status, count in sorted(record.statuses.items()))
    took = "" if record.seconds is None else f" in {record.seconds:.0f} s"
    name = code(record.recipe or record.sweep_id)
    head = f"#### {name}\n\n{sum(record.statuses.values())} trials ({counts}), {record.num_epochs} epochs{took}."
    if not record.rows:
        return [f"{head} None has a value."]
    rows = [
        [
            f"{index}{' (default)' if row.is_default else ''}", str(row.number), f"{row.value:.4f}", str(row.epoch),
            code(row.ended), code(row.config),
        ]
        for index, row in enumerate(record.rows, start=1)
    ]  # fmt: skip
    columns = ["rank", "trial", record.metric, "epoch", "ended", "configuration"]
    parts = [f"{head} The best is the luckiest of them.", _table(columns, rows)]
    if len(record.best_so_far) > 1:
        numbers, values = zip(*record.best_so_far, strict=True)
        parts.append(
            _chart(
                f"Best {record.metric} so far", "epochs trained", numbers, [(VERMILLION, values)], y_title=record.metric
            )
        )
    return parts


def code(text: str) -> str:
    """A stranger's text as inline code in a table: nothing in it is Markdown, a link or the name of a person."""
    plain = "".join(letter if letter.isprintable() and letter != "`" else " " for letter in text).strip()
    return f"`{plain.replace('|', chr(92) + '|') or ' '}`"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, note: str | None = None) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    drawn = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{note}\n\n{drawn}" if note else drawn


def _chart(
    title: str,
    x_title: str,
    x: Sequence[int] | None,
    lines: Sequence[tuple[str, Sequence[float]]],
    *,
    y_title: str,
) -> str:
    """Mermaid's xychart: a line for each list of values; without `x` they are counted from 1."""
    values = [value for _, line in lines for value in line]
    longest = max(len(line) for _, line in lines)
    if longest < 2:
        return ""
    margin = 0.05 * (max(values) - min(values)) or 0.05 * abs(values[0]) or 1.0
    low, high = min(values) - margin, max(values) + margin
    places = ", ".join(map(str, x if x is not None else range(1, longest + 1)))
    colours = ", ".join(colour for colour, _ in lines)
    looks = {
        "xyChart": {"height": 320, "titleFontSize": 15},
        "themeVariables": {"xyChart": {"plotColorPalette": colours}},
    }
    drawn = [
        "```mermaid",
        f"%%{{init: {json.dumps(looks)}}}%%",
        "xychart-beta",
        f'    title "{title}"',
        f'    x-axis "{x_title}" [{places}]',
        f'    y-axis "{y_title}" {low:.5g} --> {high:.5g}',
        *(f"    line [{', '.join(f'{value:.5g}' for value in line)}]" for _, line in lines),
        "```",
    ]
    return "\n".join(drawn)
