"""Sets of runs or sweeps side by side: ranked, each figure with its uncertainty, each question with a sentence."""

from toprung.analysis.comparison.answers import Answer, answers
from toprung.analysis.comparison.groups import (
    MEASURES,
    Comparison,
    Group,
    Groups,
    by_configuration,
    by_hyperparameter,
    compare,
)
from toprung.analysis.comparison.intervals import Interval, as_good_as_best, difference, mean_interval
from toprung.analysis.comparison.sweeps import Compared, compare_sweeps

__all__ = [
    "MEASURES",
    "Answer",
    "Compared",
    "Comparison",
    "Group",
    "Groups",
    "Interval",
    "answers",
    "as_good_as_best",
    "by_configuration",
    "by_hyperparameter",
    "compare",
    "compare_sweeps",
    "difference",
    "mean_interval",
]
