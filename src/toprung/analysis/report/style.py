"""Colours and plot templates for light and dark pages, safe for colour-blind readers.

The colours are those of Okabe and Ito (2008), darkened or lightened until each has a contrast of at least 3:1 against
both backgrounds (WCAG 2.2, 1.4.11). No plot relies on colour alone: symbols and dashes differ too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LIGHT_BACKGROUND, DARK_BACKGROUND = "#ffffff", "#14171c"

BLUE, VERMILLION, GREEN, PURPLE, OCHRE, GREY = "#2579b5", "#d55e00", "#00936b", "#b5679a", "#a87f00", "#7d7f85"
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, OCHRE, GREY)
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "cross")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

FINISHED = {"name": "finished", "color": BLUE, "symbol": "circle"}
CUT_SHORT = {"name": "cut short", "color": OCHRE, "symbol": "x"}

# From low to high, with even lightness so that both ends are visible on both backgrounds.
SCALE = [[0.0, BLUE], [0.5, GREY], [1.0, VERMILLION]]
# Transparent at zero, and never so dark that text on top becomes unreadable.
BLUES = [[0.0, "rgba(37, 121, 181, 0.05)"], [1.0, "rgba(37, 121, 181, 0.5)"]]
REDS = [[0.0, "rgba(213, 94, 0, 0.15)"], [1.0, "rgba(213, 94, 0, 0.6)"]]

_TEXT_AND_GRID = {"light": ("#1d2026", "#d9dce1"), "dark": ("#e6e8eb", "#363b44")}


def template(theme: str) -> dict[str, Any]:
    """Return Plotly's template for the theme "light" or "dark"; only the text and grid colours differ."""
    text_colour, grid = _TEXT_AND_GRID[theme]
    axis = {"gridcolor": grid, "linecolor": grid, "zerolinecolor": grid, "automargin": True, "zeroline": False}
    return {
        "layout": {
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"color": text_colour, "family": "system-ui, sans-serif", "size": 13},
            "colorway": list(PALETTE),
            "xaxis": axis,
            "yaxis": axis,
            "legend": {"bgcolor": "rgba(0,0,0,0)"},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": GREY, "activecolor": text_colour},
            "hoverlabel": {"font": {"family": "system-ui, sans-serif"}},
        }
    }


def plot(traces: Sequence[dict[str, Any]], *, height: int = 420, **layout: Any) -> dict[str, Any]:
    """Return a figure as plotly.js reads it; the page supplies its template, title and width.

    It is a dictionary and not a `plotly.graph_objects.Figure`, which takes seconds to validate thousands of trials.

    Args:
        traces: Plotly's traces, each with its `type`.
        height: in pixels.
        layout: more of Plotly's layout; replaces the defaults.
    """
    defaults = {
        "height": height,
        "autosize": True,
        "margin": {"l": 60, "r": 20, "t": 30, "b": 50},
        "legend": legend(y=1.02),
    }
    return {"data": list(traces), "layout": {**defaults, **layout}}


def legend(*, y: float) -> dict[str, Any]:
    """Return a legend above the plot; `y` is its lower edge as a fraction of the plot's height."""
    return {"orientation": "h", "y": y, "yanchor": "bottom", "x": 0}


def axis(title: str, **settings: Any) -> dict[str, Any]:
    """Return an axis with a title, and without the settings that are None."""
    return {"title": {"text": title}, **{name: value for name, value in settings.items() if value is not None}}


def contrast(first: str, second: str) -> float:
    """Return the contrast ratio of two colours, from 1 to 21, as defined in WCAG 2.2."""
    lighter, darker = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
