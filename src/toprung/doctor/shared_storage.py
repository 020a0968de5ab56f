"""Whether every node reads and writes the same storage.

The driver writes a question, each node reads it and writes an answer, the driver reads the answers. So a folder that
is there on every machine, but on a disk of its own, is found out.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toprung.doctor.finding import Finding, or_ok

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

    from toprung.doctor.nodes import Answer

NAME = "storage"
REMEDY = "Every node must reach the same place: mount that folder there too, or give --storage gs://BUCKET/runs"
FILE = "question"


@dataclass(frozen=True)
class Question:
    """What the driver put into the storage for the nodes to find: a folder, and a text that nobody can guess."""

    storage: str
    folder: str
    text: str


@contextlib.contextmanager
def question_in(storage: str) -> Iterator[Question]:
    """Write a question below the storage root, and take everything away again in the end.

    Args:
        storage: a folder, or a URI that pyarrow knows (`gs://bucket/runs`, `s3://bucket/runs`).

    Raises:
        OSError: the driver itself cannot write there.
    """
    files, root = _open(storage)
    is_new = _is_missing(files, root)
    question = Question(storage, f".toprung-doctor-{secrets.token_hex(4)}", secrets.token_hex(16))
    folder = f"{root}/{question.folder}"
    try:
        files.create_dir(folder, recursive=True)
        _write(files, f"{folder}/{FILE}", question.text)
        yield question
    finally:
        with contextlib.suppress(OSError):
            files.delete_dir(folder)
            if is_new:
                os.rmdir(root)  # a folder that was made for this; refused where anything is in it


def read_and_write(question: Question, *, node_id: str) -> str | None:
    """On a node: read what the driver wrote, and write an answer beside it.

    Returns:
        why that did not work, or None where it did.
    """
    try:
        files, root = _open(question.storage)
        folder = f"{root}/{question.folder}"
        try:
            found = _read(files, f"{folder}/{FILE}")
        except FileNotFoundError:
            return f"it does not find what the driver wrote: {question.storage} is another place there"
        if found != question.text:
            return "it reads something else than the driver wrote"
        _write(files, f"{folder}/{node_id}", question.text)
    except Exception as error:  # each file system has exceptions of its own
        return reason_of(error)
    return None


def check_storage(answers: Sequence[Answer], question: Question) -> list[Finding]:
    """Judge what the nodes said, and read their answers back.

    Args:
        answers: of the nodes.
        question: what the driver wrote.
    """
    files, root = _open(question.storage)
    found = []
    for each in answers:
        if each.view is None:
            continue
        problem = each.view.storage_problem
        if problem is None:
            try:
                answer = _read(files, f"{root}/{question.folder}/{each.node.node_id}")
                problem = None if answer == question.text else "the driver reads another answer than it wrote"
            except OSError as error:
                problem = f"the driver cannot read what it wrote ({reason_of(error)})"
        if problem is not None:
            found.append(Finding(NAME, "error", f"{question.storage}: {problem}", REMEDY, node=each.node.label))
    return or_ok(found, name=NAME, seen=f"{question.storage}: written and read from every node")


def check_mapped(answers: Sequence[Answer], mapped: str) -> list[Finding]:
    """Whether every node sees the folder that images are mapped from."""
    remedy = "Mount that folder there too, or put the images into Ray's object store: --set data.placement=shared"
    found = [
        Finding("data", "error", f"{mapped} is not there", remedy, node=each.node.label)
        for each in answers
        if each.view is not None and not each.view.sees_mapped
    ]
    return or_ok(found, name="data", seen=f"{mapped}: every node sees it")


def refused(storage: str, error: OSError) -> Finding:
    """Where not even the driver can write."""
    seen = f"{storage} cannot be written from here ({reason_of(error)})"
    return Finding(NAME, "error", seen, "Type: ls -ld FOLDER, give yourself the folder, or give another: --storage")


def reason_of(error: BaseException) -> str:
    """An operating system's word where there is one, else an error's first line."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _open(storage: str) -> tuple[FileSystem, str]:
    from pyarrow.fs import FileSystem

    from toprung.storage import is_uri, open_storage

    if is_uri(storage):
        opened = open_storage(storage)  # as trials do: endpoints and patience are the same
        return opened.filesystem, opened.root
    files, root = FileSystem.from_uri(storage)
    return files, root


def _is_missing(files: FileSystem, root: str) -> bool:
    from pyarrow.fs import FileType, LocalFileSystem

    return isinstance(files, LocalFileSystem) and files.get_file_info(root).type == FileType.NotFound


def _write(files: FileSystem, path: str, text: str) -> None:
    with files.open_output_stream(path) as stream:
        stream.write(text.encode())


def _read(files: FileSystem, path: str) -> str:
    with files.open_input_stream(path) as stream:
        return bytes(stream.read()).decode()
