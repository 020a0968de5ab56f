"""`toprung verify`: compare a sweep's records and its exported model with what is on this machine now."""

from toprung.sweep.verification.checks import check_records
from toprung.sweep.verification.exported import check_exported
from toprung.sweep.verification.fact import Fact, State, is_verified, verdict
from toprung.sweep.verification.recorded import RecordedSweep, read_recorded
from toprung.sweep.verification.retrain import check_retrain

__all__ = [
    "Fact",
    "RecordedSweep",
    "State",
    "check_exported",
    "check_records",
    "check_retrain",
    "is_verified",
    "read_recorded",
    "verdict",
]
