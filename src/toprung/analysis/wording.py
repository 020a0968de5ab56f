"""Small pieces of English shared by reports, comparisons and pull-request comments."""

from __future__ import annotations

from collections.abc import Iterable


def join(items: Iterable[object]) -> str:
    """Return a list as text: "1", "1 and 3", "1, 3 and 9"."""
    *first, last = map(str, items)
    return f"{', '.join(first)} and {last}" if first else last
