"""List forms in messages."""

import pytest

from toprung.analysis.wording import join


@pytest.mark.parametrize(("items", "expected"), [([1], "1"), ([1, 3], "1 and 3"), ([1, 3, 9], "1, 3 and 9")])
def test_items_are_joined_with_commas_and_an_and(items, expected):
    assert join(items) == expected
