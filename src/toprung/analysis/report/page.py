"""The report as one HTML file: everything it needs is inside, it opens without a network."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path

import jinja2
from plotly.offline import get_plotlyjs

from toprung.analysis.report.panel import Panel
from toprung.analysis.report.style import template

HERE = Path(__file__).parent


def page(panels: Sequence[Panel], *, sweep_id: str, headline: str, written: datetime) -> str:
    """Fill the page in.

    Args:
        panels: in the order of the page.
        sweep_id: its title.
        headline: the sweep in one sentence.
        written: local time.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["b64"] = _base64
    figures = [figure for panel in panels for figure in panel.figures]
    plots = ",".join(f"{json.dumps(figure.key)}:{figure.plot.to_json()}" for figure in figures)
    templates = json.dumps({theme: template(theme) for theme in ("light", "dark")})
    return environment.from_string((HERE / "page.html").read_text(encoding="utf-8")).render(
        panels=panels,
        sweep_id=sweep_id,
        headline=headline,
        written=f"{written:%Y-%m-%d %H:%M}",
        version=metadata.version("toprung"),
        css=(HERE / "page.css").read_text(encoding="utf-8"),
        js=(HERE / "page.js").read_text(encoding="utf-8"),
        plotly_js=get_plotlyjs(),
        plots=_inside_script(f"{{{plots}}}"),
        templates=_inside_script(templates),
    )


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _inside_script(text: str) -> str:
    """JSON that cannot end the script element it stands in."""
    return text.replace("<", "\\u003c")
