"""Whether every node reads and writes the same storage.

The driver writes a question, each node reads it and writes an answer, the driver reads the answers. So a folder that
is there on every machine, but on a disk of its own, is found out.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toprung.doctor.finding import Finding, or_ok
from toprung.errors import UserError
from toprung.storage import StorageAway, is_uri, open_storage
from toprung.storage.objects import ObjectStorage

if TYPE_CHECKING:
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
        storage: a folder, or the address of object storage (`gs://bucket/runs`, `s3://bucket/runs`).

    Raises:
        StorageAway: the driver itself cannot write there.
        UserError: it is no address that can be used.
    """
    place = _open(storage)
    is_new = place.is_folder and not Path(place.root).exists()
    question = Question(storage, f".toprung-doctor-{secrets.token_hex(4)}", secrets.token_hex(16))
    try:
        place.put(f"{question.folder}/{FILE}", question.text.encode())
        yield question
    finally:
        with contextlib.suppress(StorageAway, OSError):
            place.delete_all(question.folder)
            if place.is_folder:
                Path(place.root, question.folder).rmdir()
            if is_new:
                Path(place.root).rmdir()  # made for this; refused where anything is in it


def read_and_write(question: Question, *, node_id: str) -> str | None:
    """On a node: read what the driver wrote, and write an answer beside it.

    Returns:
        why that did not work, or None where it did.
    """
    try:
        place = _open(question.storage)
        found = place.get(f"{question.folder}/{FILE}")
        if found is None:
            return f"it does not find what the driver wrote: {question.storage} is another place there"
        if found != question.text.encode():
            return "it reads something else than the driver wrote"
        place.put(f"{question.folder}/{node_id}", question.text.encode())
    except (StorageAway, UserError) as error:
        return str(error)
    return None


def check_storage(answers: Sequence[Answer], question: Question) -> list[Finding]:
    """Judge what the nodes said, and read their answers back.

    Args:
        answers: of the nodes.
        question: what the driver wrote.
    """
    place, found = _open(question.storage), []
    for each in answers:
        if each.view is None:
            continue
        problem = each.view.storage_problem
        if problem is None:
            try:
                answered = place.get(f"{question.folder}/{each.node.node_id}") == question.text.encode()
                problem = None if answered else "the driver does not read what it wrote"
            except StorageAway as error:
                problem = f"the driver cannot read what it wrote ({error})"
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


def refused(storage: str, error: Exception) -> Finding:
    """Where not even the driver can write."""
    seen = f"{storage} cannot be written from here ({error})"
    return Finding(NAME, "error", seen, "Type: ls -ld FOLDER, give yourself the folder, or give another: --storage")


def _open(storage: str) -> ObjectStorage:
    """An address of object storage as it is; a folder as one, which gets whole files too."""
    return open_storage(storage if is_uri(storage) else Path(storage).absolute().as_uri())
