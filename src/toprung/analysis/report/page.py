"""The report as one self-contained HTML file, which opens without a network."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path

import jinja2
from plotly.io.json import to_json_plotly
from plotly.offline import get_plotlyjs

from toprung.analysis.report.panel import Panel
from toprung.analysis.report.style import template

PACKAGE = Path(__file__).parent


def page(panels: Sequence[Panel], *, sweep_id: str, headline: str, written: datetime) -> str:
    """Render the page.

    Args:
        panels: the panels, in the order in which the page shows them.
        sweep_id: the page's title.
        headline: the sweep in one sentence.
        written: when the report was written, in local time.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["b64"] = _base64
    figures = [figure for panel in panels for figure in panel.figures]
    plots = to_json_plotly({figure.key: figure.plot for figure in figures})  # NaN, which is not JSON, becomes null
    templates = json.dumps({theme: template(theme) for theme in ("light", "dark")})
    return environment.from_string((PACKAGE / "page.html").read_text(encoding="utf-8")).render(
        panels=panels,
        sweep_id=sweep_id,
        headline=headline,
        written=f"{written:%Y-%m-%d %H:%M}",
        version=metadata.version("toprung"),
        css=(PACKAGE / "page.css").read_text(encoding="utf-8"),
        js=(PACKAGE / "page.js").read_text(encoding="utf-8"),
        plotly_js=get_plotlyjs(),
        plots=_inside_script(plots),
        templates=_inside_script(templates),
    )


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _inside_script(text: str) -> str:
    """Escape JSON so that it cannot end the script element that contains it."""
    return text.replace("<", "\\u003c")
