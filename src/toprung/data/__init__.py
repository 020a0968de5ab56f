"""Datasets: sources, prepared arrays, splits and their DVC stages.

Importing this room costs NumPy and pydantic only; torchvision and scikit-learn are imported where they read
a source.
"""

from toprung.data.arrays import split_arrays
from toprung.data.card import OPERATIONS, Card, Operation
from toprung.data.prepare import prepare
from toprung.data.prepared import PREPARED, Prepared, open_prepared, open_test_split, verify
from toprung.data.source import Arrays, Source
from toprung.data.sources import SOURCES
from toprung.data.split import SplitIndices, stratified_split
from toprung.data.stages import reproduce

__all__ = [
    "OPERATIONS",
    "PREPARED",
    "SOURCES",
    "Arrays",
    "Card",
    "Operation",
    "Prepared",
    "Source",
    "SplitIndices",
    "open_prepared",
    "open_test_split",
    "prepare",
    "reproduce",
    "split_arrays",
    "stratified_split",
    "verify",
]
