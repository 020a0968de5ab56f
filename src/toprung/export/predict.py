"""Classify image files: decode them in a pool of threads, a bounded number ahead of the model."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toprung.data.image_folder.decode import Unreadable
from toprung.data.image_folder.listing import SUFFIXES
from toprung.errors import UserError
from toprung.export.predictor import Label, Predictor
from toprung.machine import num_cpus

BATCH_SIZE = 32
BATCHES_AHEAD = 4  # decoded or being decoded while the model runs


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of a file, or why it has none."""

    file: str
    labels: Sequence[Label] = ()
    error: str = ""


def predict_files(
    predictor: Predictor,
    files: Iterable[str],
    *,
    top: int = 1,
    batch_size: int = BATCH_SIZE,
    num_workers: int | None = None,
) -> Iterator[Prediction]:
    """Classify image files, and yield a prediction for each, in the order of the files.

    Memory is bounded: at most `BATCHES_AHEAD` batches of files are read ahead of the model.

    Args:
        predictor: the model.
        files: paths of files; read one batch at a time.
        top: how many classes each prediction has.
        batch_size: images per call of the model.
        num_workers: threads that decode; None: one per CPU.
    """
    num_workers = num_workers or num_cpus()
    remaining = iter(files)
    with ThreadPoolExecutor(num_workers) as pool:
        batches: deque[list[tuple[str, Future[NDArray[np.uint8] | str]]]] = deque()

        def read_ahead() -> None:
            while len(batches) < BATCHES_AHEAD and (names := list(islice(remaining, batch_size))):
                batches.append([(name, pool.submit(_read_image, name, predictor)) for name in names])

        read_ahead()
        try:
            while batches:
                decoded = [(name, future.result()) for name, future in batches.popleft()]
                read_ahead()
                yield from _predict_batch(predictor, decoded, top=top)
        finally:
            pool.shutdown(cancel_futures=True)


def find_files(arguments: Iterable[str]) -> Iterator[str]:
    """Yield the image files that arguments name: files as given, those in folders, and those that a pattern matches.

    Args:
        arguments: paths of files or folders, or patterns such as `photos/**/*.jpg`.

    Raises:
        UserError: a folder or pattern has no image files.
    """
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            found: Iterator[Path] = (file for file in _walk(path) if file.suffix.lower() in SUFFIXES)
        elif any(character in argument for character in "*?[") and not path.exists():
            anchor = Path(path.anchor or ".")
            found = iter(sorted(anchor.glob(str(path.relative_to(anchor) if path.anchor else path))))
        else:
            yield argument
            continue
        first = next(found, None)
        if first is None:
            raise UserError(f"{argument} has no image files ({', '.join(sorted(SUFFIXES))}).")
        yield str(first)
        yield from map(str, found)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder, sorted, reading one folder at a time."""
    for root, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(root, name) for name in sorted(names))


def _read_image(name: str, predictor: Predictor) -> NDArray[np.uint8] | str:
    path = Path(name)
    if path.exists() and not path.is_file():
        return "is not a regular file"  # opening a named pipe would wait for its writer
    try:
        return predictor.read_image(path)
    except Unreadable as error:
        return str(error)


def _predict_batch(
    predictor: Predictor, decoded: Sequence[tuple[str, NDArray[np.uint8] | str]], *, top: int
) -> Iterator[Prediction]:
    images = [image for _, image in decoded if not isinstance(image, str)]
    rows = iter(predictor.predict_probabilities(np.stack(images))) if images else iter(())
    for name, image in decoded:
        if isinstance(image, str):
            yield Prediction(name, error=image)
        else:
            yield Prediction(name, predictor.rank_labels(next(rows), top=top))
