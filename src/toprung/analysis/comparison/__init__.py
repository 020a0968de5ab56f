"""Comparison of configurations and sweeps: a ranking with confidence intervals, and questions answered in sentences."""

from toprung.analysis.comparison.answers import Answer, list_answers
from toprung.analysis.comparison.groups import (
    MEASURES,
    Comparison,
    Group,
    Groups,
    compare,
    group_by_configuration,
    group_by_hyperparameter,
)
from toprung.analysis.comparison.intervals import Interval, difference, mean_interval, tied_with_best
from toprung.analysis.comparison.sweeps import SweepComparison, compare_sweeps

__all__ = [
    "MEASURES",
    "Answer",
    "Comparison",
    "Group",
    "Groups",
    "Interval",
    "SweepComparison",
    "compare",
    "compare_sweeps",
    "difference",
    "group_by_configuration",
    "group_by_hyperparameter",
    "list_answers",
    "mean_interval",
    "tied_with_best",
]
