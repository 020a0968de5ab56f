"""Small pieces of English shared by reports, comparisons and pull-request comments."""

from __future__ import annotations

from collections.abc import Iterable


def count_of(count: int, noun: str) -> str:
    """Return a number with its noun in the right form: "1 trial", "2 trials"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def join(items: Iterable[object]) -> str:
    """Return a list as text: "1", "1 and 3", "1, 3 and 9"."""
    *first, last = map(str, items)
    return f"{', '.join(first)} and {last}" if first else last
