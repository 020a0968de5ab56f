"""What a sweep stands on, looked at: nodes, versions, code, storage, clocks, room, access, MLflow, DVC."""

from toprung.cluster.doctor.checks import preflight, run_checks
from toprung.cluster.doctor.finding import Finding, errors, warnings

__all__ = ["Finding", "errors", "preflight", "run_checks", "warnings"]
