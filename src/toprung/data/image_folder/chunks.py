"""Decode a folder of images in chunks.

Each decoded chunk is saved, so that an interrupted preparation resumes where it stopped. Memory holds only a few chunks
at a time, for folders of any size.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import multiprocessing
import signal
import time
import zipfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from toprung import atomic_write
from toprung.data.image_folder.listing import ImageListing
from toprung.errors import UserError
from toprung.machine import num_cpus

if TYPE_CHECKING:  # Pillow is imported only to decode
    from toprung.data.image_folder.decode import Chunk, Decoded, DecodeOptions

    Mapper = Callable[[Callable[[Chunk], Decoded], Iterable[Chunk]], Iterable[Decoded]]

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]  # number of files done, number of all files
DECODER_VERSION = 1  # part of a chunk's key: if it changes, everything is decoded again
CHUNK_BYTES = 32_000_000
MAX_CHUNK_FILES = 512
SERIAL_SECONDS = 0.5
MIN_POOL_SECONDS = 3.0


def build_chunks(tree: ImageListing, target: DecodeOptions) -> list[Chunk]:
    """Cut the files, class by class, into chunks whose keys are hashes of the files' states and the decode options.

    A file that is repaired later changes the key of its own chunk only.
    """
    from toprung.data.image_folder.decode import Chunk

    height, width = target.size
    num_files = max(1, min(MAX_CHUNK_FILES, CHUNK_BYTES // (3 * height * width)))
    decoder = [DECODER_VERSION, metadata.version("pillow"), asdict(target)]
    chunks = []
    for _, group in itertools.groupby(zip(tree.labels_N.tolist(), tree.files, strict=True), key=lambda pair: pair[0]):
        files = tuple(file for _, file in group)
        for start in range(0, len(files), num_files):
            part = files[start : start + num_files]
            key = hashlib.sha256(json.dumps([decoder, [_state(tree.root / file) for file in part], part]).encode())
            chunks.append(Chunk(key.hexdigest(), str(tree.root), part, target))
    return chunks


def decode_all(chunks: Sequence[Chunk], *, staging: Path, mapper: Mapper | None, progress: Progress | None) -> None:
    """Decode the chunks that earlier runs have not; afterwards `staging` contains exactly these chunks.

    Args:
        chunks: all chunks.
        staging: the folder of decoded chunks; other chunks in it are removed.
        mapper: calls a function on each chunk, anywhere, and yields the results in any order; None:
            `map_on_all_cores`.
        progress: called with the number of files done and of all files, at the start and after each chunk.

    Raises:
        UserError: a process of the pool was killed.
        OSError: `staging` cannot be written.
    """
    from toprung.data.image_folder.decode import decode_chunk

    staging.mkdir(parents=True, exist_ok=True)
    expected = {_file_of(chunk, staging).name for chunk in chunks}
    for path in list(staging.iterdir()):
        if path.name not in expected:
            path.unlink()
    missing = [chunk for chunk in chunks if not _file_of(chunk, staging).exists()]
    sizes = {chunk.key: len(chunk.files) for chunk in chunks}
    total = sum(sizes.values())
    done = total - sum(sizes[chunk.key] for chunk in missing)
    if progress:
        progress(done, total)
    with contextlib.closing(_results(mapper or map_on_all_cores, decode_chunk, missing)) as results:
        for decoded in results:
            _save(decoded, staging)
            done += sizes[decoded.key]
            if progress:
                progress(done, total)


def read_reasons(chunk: Chunk, staging: Path) -> tuple[tuple[str, ...], int]:
    """Return the reason why each file of a decoded chunk is unreadable ("" if it is readable), and its channel count.

    Raises:
        UserError: the chunk is damaged, and was removed.
    """
    with _open_chunk(chunk, staging) as arrays:
        return tuple(arrays["reasons"].tolist()), int(arrays["num_channels"])


def read_images(chunk: Chunk, staging: Path) -> NDArray[np.uint8]:
    """Return the readable images of a decoded chunk, uint8, NCHW.

    Raises:
        UserError: the chunk is damaged, and was removed.
    """
    with _open_chunk(chunk, staging) as arrays:
        images: NDArray[np.uint8] = arrays["images"]
        return images


@contextlib.contextmanager
def _open_chunk(chunk: Chunk, staging: Path) -> Iterator[Mapping[str, Any]]:
    path = _file_of(chunk, staging)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            yield arrays
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        path.unlink(missing_ok=True)
        raise UserError(
            "A chunk of an interrupted preparation was damaged and has been removed. Type the same command again."
        ) from None


def _results(
    mapper: Mapper, function: Callable[[Chunk], Decoded], chunks: Iterable[Chunk]
) -> Generator[Decoded, None, None]:
    yield from mapper(function, chunks)


def map_on_all_cores(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Call `function` on each item, and yield the results in any order.

    The calls run in this process while they take seconds only; a pool, which costs about as much to start, does the
    rest.

    Raises:
        UserError: a process of the pool was killed.
    """
    waiting = list(items)
    started = time.monotonic()
    for done, item in enumerate(waiting, start=1):
        yield function(item)
        seconds = time.monotonic() - started
        if seconds > SERIAL_SECONDS and seconds / done * (len(waiting) - done) > MIN_POOL_SECONDS:
            yield from map_in_pool(function, waiting[done:], num_processes=num_cpus())
            return


def map_in_pool(function: Callable[[Item], Result], items: Iterable[Item], *, num_processes: int) -> Iterator[Result]:
    """Call `function` on each item in a pool of processes, and in this process until the pool has started.

    At most two items per process are in flight.

    Raises:
        UserError: a process was killed, as the system does if memory runs out.
    """
    waiting = iter(items)
    first = list(itertools.islice(waiting, 2 * num_processes))
    if not first:
        return
    spawn = multiprocessing.get_context("spawn")  # a fork would copy locks that the caller's threads hold
    pool = ProcessPoolExecutor(min(num_processes, len(first)), mp_context=spawn, initializer=_ignore_sigint)
    try:
        running: set[Future[Result]] = {pool.submit(function, item) for item in first}
        while not any(future.done() for future in running):
            if (item := next(waiting, None)) is None:
                break
            yield function(item)
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                running |= {pool.submit(function, item) for item in itertools.islice(waiting, 1)}
                yield future.result()
    except BrokenProcessPool:
        raise UserError(
            "A process that reads images was killed, often because memory ran out. Type the same command again: it "
            "continues with what is left."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _ignore_sigint() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _file_of(chunk: Chunk, staging: Path) -> Path:
    return staging / f"{chunk.key}.npz"


def _save(decoded: Decoded, staging: Path) -> None:
    with atomic_write.staged_file(staging / f"{decoded.key}.npz", unique=True) as new, new.open("wb") as file:
        np.savez(
            file,
            images=decoded.images_NCHW,
            num_channels=np.array(decoded.images_NCHW.shape[1] if len(decoded.images_NCHW) else 1),
            reasons=np.array(decoded.reasons, dtype=np.str_),
        )


def _state(path: Path) -> tuple[int, int]:
    try:
        state = path.stat()
    except OSError:  # removed since it was listed: decoding reports it
        return (-1, -1)
    return (state.st_size, state.st_mtime_ns)
