"""Colours and plot templates that hold on a light and on a dark page, and for the colour-blind.

The colours are those of Okabe and Ito (2008), darkened or lightened until each has a contrast of 3 : 1 against both
backgrounds (WCAG 2.2, 1.4.11). Nothing is told by colour alone: symbols and dashes differ too.
"""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

LIGHT_BACKGROUND, DARK_BACKGROUND = "#ffffff", "#14171c"

BLUE, VERMILLION, GREEN, PURPLE, OCHRE, GREY = "#2579b5", "#d55e00", "#00936b", "#b5679a", "#a87f00", "#7d7f85"
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, OCHRE, GREY)
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "cross")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

FINISHED = {"name": "finished", "color": BLUE, "symbol": "circle"}
CUT_SHORT = {"name": "cut short", "color": OCHRE, "symbol": "x"}

# Low to high, of even lightness, so that neither end is lost on either page.
SCALE = [[0.0, BLUE], [0.5, GREY], [1.0, VERMILLION]]
# Transparent where there is nothing, never so dark that text is lost on them.
BLUES = [[0.0, "rgba(37, 121, 181, 0.05)"], [1.0, "rgba(37, 121, 181, 0.5)"]]
REDS = [[0.0, "rgba(213, 94, 0, 0.15)"], [1.0, "rgba(213, 94, 0, 0.6)"]]

_INKS = {"light": ("#1d2026", "#d9dce1"), "dark": ("#e6e8eb", "#363b44")}


def template(theme: str) -> dict[str, Any]:
    """Plotly's template for "light" or "dark": ink and grid; everything else is the same in both."""
    ink, grid = _INKS[theme]
    axis = {"gridcolor": grid, "linecolor": grid, "zerolinecolor": grid, "automargin": True, "zeroline": False}
    return {
        "layout": {
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"color": ink, "family": "system-ui, sans-serif", "size": 13},
            "colorway": list(PALETTE),
            "xaxis": axis,
            "yaxis": axis,
            "legend": {"bgcolor": "rgba(0,0,0,0)"},
            "hoverlabel": {"font": {"family": "system-ui, sans-serif"}},
        }
    }


def settle(figure: go.Figure, *, height: int = 420, **layout: Any) -> go.Figure:
    """Take off a figure's own looks: the page gives it a template, a title and its width."""
    plain = {
        "template": None,
        "height": height,
        "width": None,
        "autosize": True,
        "title": None,
        "margin": {"l": 60, "r": 20, "t": 30, "b": 50},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "title": None},
    }
    figure.update_layout(**{**plain, **layout})
    return figure


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, 1 to 21 (WCAG 2.2, "contrast ratio")."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
