"""Tables in Markdown, for model cards, reports and comments."""

from __future__ import annotations

import re
from collections.abc import Sequence

_MARKUP = re.compile(r"[\\`*<>|\[\]]")


def escape(text: object) -> str:
    """Return a text, such as the name of a class, on one line and without characters that Markdown interprets."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(str(text).split()))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table. Its cells are Markdown: `escape` a text that comes from outside."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows))
