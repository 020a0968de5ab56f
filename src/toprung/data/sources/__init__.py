"""The built-in datasets, one module each."""

from __future__ import annotations

from toprung.data.sources.cifar10 import CIFAR10_SOURCE
from toprung.data.sources.digits import DIGITS
from toprung.data.sources.fashion_mnist import FASHION_MNIST
from toprung.data.sources.source import Source

SOURCES: dict[str, Source] = {source.name: source for source in (DIGITS, FASHION_MNIST, CIFAR10_SOURCE)}

__all__ = ["SOURCES"]
