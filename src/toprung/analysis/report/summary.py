"""The report in Markdown: the same text and tables, with links to the PNG plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from toprung.analysis.report.panel import Panel, Table
from toprung.errors import pluralize
from toprung.markdown import escape
from toprung.markdown import table as markdown_table

MAX_ROWS = 30


def markdown(panels: Sequence[Panel], *, sweep_id: str, headline: str, pictures: Sequence[Path]) -> str:
    """Render the summary.

    Args:
        panels: the panels, in the order in which the page shows them.
        sweep_id: the summary's title.
        headline: the sweep in one sentence.
        pictures: PNG files in the same folder, each named after the panel or figure that it shows.
    """
    by_key = {picture.stem: picture.name for picture in pictures}
    parts = [f"# {sweep_id}", headline, "[report.html](report.html) has the interactive plots."]
    for panel in panels:
        parts.append(f"## {panel.title}")
        parts += panel.text
        for key in dict.fromkeys([panel.key, *(figure.key for figure in panel.figures)]):
            if key in by_key:
                alt = next((figure.alt for figure in panel.figures if figure.key == key), panel.title)
                parts.append(f"![{alt}]({by_key[key]})")
        parts += [_table(table) for table in panel.tables]
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    columns, *rows = ([*map(escape, row)] for row in (table.columns, *table.rows[:MAX_ROWS]))
    num_omitted = len(table.rows) - MAX_ROWS
    note = f"\n\nThe HTML report has {pluralize(num_omitted, 'more row')}." if num_omitted > 0 else ""
    return f"{table.caption}:\n\n{markdown_table(columns, rows)}{note}"
