"""Number and list forms in messages."""

import pytest

from toprung.analysis.wording import count_of, join


@pytest.mark.parametrize(("count", "expected"), [(0, "0 trials"), (1, "1 trial"), (2, "2 trials")])
def test_the_noun_agrees_with_the_number(count, expected):
    assert count_of(count, "trial") == expected


@pytest.mark.parametrize(("items", "expected"), [([1], "1"), ([1, 3], "1 and 3"), ([1, 3, 9], "1, 3 and 9")])
def test_items_are_joined_with_commas_and_an_and(items, expected):
    assert join(items) == expected
