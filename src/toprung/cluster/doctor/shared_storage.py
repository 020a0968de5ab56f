"""A check that every node reads and writes the same storage.

The driver writes a probe file, each node reads it and writes an answer, and the driver reads the answers. This detects
a folder that exists on every machine, but on a different disk.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toprung.cluster.doctor.finding import Finding, or_ok
from toprung.errors import UserError
from toprung.remote_storage import StorageUnavailable, is_uri, open_storage
from toprung.remote_storage.objects import ObjectStorage

if TYPE_CHECKING:
    from toprung.cluster.doctor.nodes import NodeResponse

NAME = "storage"
REMEDY = "Every node must reach the same storage: mount that folder there too, or give --storage gs://BUCKET/runs"
PROBE_FILE = "probe"


@dataclass(frozen=True)
class StorageProbe:
    """What the driver wrote to the storage for the nodes to read: a folder, and a random text in its probe file."""

    storage: str
    folder: str
    text: str


@contextlib.contextmanager
def write_storage_probe(storage: str) -> Iterator[StorageProbe]:
    """Write a probe file in a new folder below the storage root, and delete the folder at the end.

    Args:
        storage: a folder, or the address of object storage (`gs://bucket/runs`, `s3://bucket/runs`).

    Raises:
        StorageUnavailable: the driver itself cannot write there.
        UserError: the address cannot be used.
    """
    object_storage = _open(storage)
    is_new = object_storage.is_folder and not Path(object_storage.root).exists()
    probe = StorageProbe(storage, f".toprung-doctor-{secrets.token_hex(4)}", secrets.token_hex(16))
    try:
        object_storage.put(f"{probe.folder}/{PROBE_FILE}", probe.text.encode())
        yield probe
    finally:
        with contextlib.suppress(StorageUnavailable, OSError):
            object_storage.delete_all(probe.folder)
            if object_storage.is_folder:
                Path(object_storage.root, probe.folder).rmdir()
            if is_new:
                Path(object_storage.root).rmdir()  # created by this function; fails if it is not empty


def read_and_write(probe: StorageProbe, *, node_id: str) -> str | None:
    """Read what the driver wrote, and write an answer beside it; called on each node.

    Returns:
        why that failed, or None if it worked.
    """
    try:
        object_storage = _open(probe.storage)
        text = object_storage.get(f"{probe.folder}/{PROBE_FILE}")
        if text is None:
            return f"the node does not find what the driver wrote: its {probe.storage} is on another disk"
        if text != probe.text.encode():
            return "the node reads something other than what the driver wrote"
        object_storage.put(f"{probe.folder}/{node_id}", probe.text.encode())
    except (StorageUnavailable, UserError) as error:
        return str(error)
    return None


def check_storage(responses: Sequence[NodeResponse], probe: StorageProbe) -> list[Finding]:
    """Evaluate the nodes' responses, and check that the driver can read their answers.

    Args:
        responses: the nodes' responses.
        probe: what the driver wrote.
    """
    object_storage, findings = _open(probe.storage), []
    for response in responses:
        if response.report is None:
            continue
        problem = response.report.storage_problem
        if problem is None:
            try:
                answered = object_storage.get(f"{probe.folder}/{response.node.node_id}") == probe.text.encode()
                problem = None if answered else "the driver does not find what the node wrote"
            except StorageUnavailable as error:
                problem = f"the driver cannot read what the node wrote ({error})"
        if problem is not None:
            findings.append(Finding(NAME, "error", f"{probe.storage}: {problem}", REMEDY, node=response.node.label))
    return or_ok(findings, name=NAME, observed=f"{probe.storage}: written and read from every node")


def check_mmap_dir(responses: Sequence[NodeResponse], mmap_dir: str) -> list[Finding]:
    """Check that every node has the folder that images are mapped from."""
    remedy = "Mount that folder there too, or put the images into Ray's object store: --set data.placement=object_store"
    findings = [
        Finding("data", "error", f"{mmap_dir} does not exist", remedy, node=response.node.label)
        for response in responses
        if response.report is not None and not response.report.sees_mmap_dir
    ]
    return or_ok(findings, name="data", observed=f"{mmap_dir}: on every node")


def unwritable_storage(storage: str, error: Exception) -> Finding:
    """Return the finding for a storage that the driver itself cannot write."""
    observed = f"{storage} cannot be written from here ({error})"
    return Finding(NAME, "error", observed, "Check who owns the folder: ls -ld FOLDER. Or give another: --storage")


def _open(storage: str) -> ObjectStorage:
    """Open object storage by its address, and a folder as a file:// address, so that both are written alike."""
    return open_storage(storage if is_uri(storage) else Path(storage).absolute().as_uri())
