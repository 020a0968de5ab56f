"""Pretrained weights, kept with the project like its data: files in `data/weights`, tracked by DVC.

Importing this package imports neither torch nor timm.
"""

from toprung.weights.add import AddedWeights, add
from toprung.weights.card import WEIGHTS, WeightsCard, list_weights, open_weights, read_weights
from toprung.weights.pull import pull

__all__ = [
    "WEIGHTS",
    "AddedWeights",
    "WeightsCard",
    "add",
    "list_weights",
    "open_weights",
    "pull",
    "read_weights",
]
