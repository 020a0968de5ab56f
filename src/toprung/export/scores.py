"""Compare the scores of one model on two machines.

On the same hardware, the same weights give the same digits. Another CPU or a GPU rounds differently, which can even
change the predicted class of an image that the model cannot decide about.
"""

from __future__ import annotations

import math

RELATIVE_TOLERANCE = 1e-3  # of a loss
ABSOLUTE_TOLERANCE = 0.005  # of a share of the images


def scores_agree(one: float, other: float, *, same_hardware: bool) -> bool:
    """Return whether two scores of the same weights on the same images agree: exactly, or within the tolerances."""
    if same_hardware:
        return one == other
    return math.isclose(one, other, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)


def is_same_hardware(recorded: str | None, here: str) -> bool:
    """Return whether the hardware is the recorded one; earlier versions recorded none, and compared exactly."""
    return recorded in (None, here)
