"""Checks of everything a sweep relies on: nodes, versions, code, storage, clocks, free space, access, MLflow, DVC."""

from toprung.cluster.doctor.checks import preflight, run_checks
from toprung.cluster.doctor.finding import Finding, errors, warnings

__all__ = ["Finding", "errors", "preflight", "run_checks", "warnings"]
