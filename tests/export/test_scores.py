"""Scores of one model: exactly equal on one machine, within tolerances on another."""

import pytest

from toprung.export.scores import is_same_hardware, scores_agree


@pytest.mark.parametrize(
    ("one", "other", "same_hardware", "agree"),
    [
        (0.91, 0.91, True, True),
        (0.91, 0.9100000001, True, False),
        (0.91, 0.9100000001, False, True),
        (0.91, 0.90, False, False),
        (2.3045, 2.3046, False, True),
        (230.45, 230.46, False, True),
    ],
)
def test_scores_agree(one, other, same_hardware, agree):
    assert scores_agree(one, other, same_hardware=same_hardware) is agree


def test_exports_of_earlier_versions_are_compared_exactly():
    assert is_same_hardware(None, "some CPU")
    assert is_same_hardware("some CPU", "some CPU")
    assert not is_same_hardware("some GPU", "some CPU")
