"""The report in Markdown: the same words and tables, the pictures beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from toprung.analysis.report.panel import Panel, Table

MAX_ROWS = 30


def markdown(panels: Sequence[Panel], *, sweep_id: str, headline: str, pictures: Sequence[Path]) -> str:
    """Fill it in.

    Args:
        panels: in the order of the page.
        sweep_id: its title.
        headline: the sweep in one sentence.
        pictures: PNGs in the same folder, named after the panel or figure they show.
    """
    by_key = {picture.stem: picture.name for picture in pictures}
    parts = [f"# {sweep_id}", headline, "The plots to look into are in [report.html](report.html)."]
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
    lines = [_row(table.columns), _row(["---"] * len(table.columns)), *(_row(row) for row in table.rows[:MAX_ROWS])]
    more = len(table.rows) - MAX_ROWS
    after = f"\n\n{more} more rows are in the HTML report." if more > 0 else ""
    return f"{table.caption}:\n\n" + "\n".join(lines) + after


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
