"""All checks that need no training, one fact after another."""

from __future__ import annotations

from collections.abc import Iterator

from toprung.sweep.verification.code import check_code
from toprung.sweep.verification.environment import check_environment
from toprung.sweep.verification.fact import Fact
from toprung.sweep.verification.inputs import check_inputs
from toprung.sweep.verification.model import check_model
from toprung.sweep.verification.recorded import RecordedSweep


def check_records(recorded: RecordedSweep) -> Iterator[Fact]:
    """Compare everything that the sweep recorded with what is here now. Nothing of the sweep is changed.

    Args:
        recorded: the sweep's records, as `read_recorded` returns them.
    """
    yield from recorded.unread
    if recorded.lineage is not None:
        sweep = recorded.sweep
        yield from check_inputs(
            recorded.lineage, project=recorded.project, settings=sweep.data, num_repeats=sweep.num_repeats
        )
    yield from check_code(recorded)
    if recorded.lineage is not None:
        yield from check_environment(recorded.project, recorded.lineage)
    yield from check_model(recorded)
