"""Look at everything a sweep stands on: in full, when a person asks; what can spoil it, before a sweep on a cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil

from toprung import cluster
from toprung.doctor import access, capacity, nodes, services, shared_storage
from toprung.doctor.clock import check_clocks
from toprung.doctor.code import check_code
from toprung.doctor.finding import Finding
from toprung.doctor.node import Look
from toprung.doctor.sockets import beyond_loopback
from toprung.doctor.versions import check_lock, check_versions, versions_here
from toprung.errors import UserError
from toprung.storage import StorageAway

ANSWER_WITHIN_SECONDS = 120.0  # the first task on a node starts a worker, and brings the code there


def quick(
    *,
    code: Path,
    storage: str,
    image_bytes: int,
    mapped: Path | None = None,
    timeout_seconds: float = ANSWER_WITHIN_SECONDS,
) -> list[Finding]:
    """What can spoil a sweep on a cluster that this process is attached to; some seconds.

    Args:
        code: the folder whose workbench was sent to the workers.
        storage: the sweep's storage root: a folder, or the address of object storage.
        image_bytes: of the images that the object store will hold.
        mapped: the folder that trials will map images from; None where the object store holds them.
        timeout_seconds: for the nodes' answers.

    Returns:
        a finding for each check; where one is an error the sweep must not start (`errors`).
    """
    look = Look(mapped=None if mapped is None else str(mapped))
    return _ask_nodes(code=code, storage=storage, image_bytes=image_bytes, look=look, timeout_seconds=timeout_seconds)[
        0
    ]


def examine(*, address: str | None, project: Path, code: Path, storage: str, tracking_uri: str) -> list[Finding]:
    """Everything, on this machine and, where an address is given, on a cluster.

    Args:
        address: of a running cluster, `host:port` or `auto`; None starts a private Ray here and ends it again.
        project: the workbench's root.
        code: a copy of the workbench's source files, which is sent to the workers.
        storage: the storage root: a folder, or the address of object storage.
        tracking_uri: MLflow's.
    """
    with ThreadPoolExecutor(thread_name_prefix="doctor") as pool:
        tracking = pool.submit(services.check_tracking, tracking_uri)
        remote = pool.submit(services.check_data_remote, project)
        dvc_files = pool.submit(services.check_dvc_files, project)
        prepared = services.prepared_bytes(project)
        here = versions_here()
        found = [services.check_git(project), *check_lock(project / "requirements.lock", here=here)]
        image_bytes = max(prepared.values(), default=0)
        found += _of_ray(address, code=code, storage=storage, image_bytes=image_bytes, pool=pool)
        return [*found, services.check_data(prepared), tracking.result(), remote.result(), dvc_files.result()]


def _of_ray(
    address: str | None, *, code: Path, storage: str, image_bytes: int, pool: ThreadPoolExecutor
) -> list[Finding]:
    """What concerns Ray and its nodes; one line where it cannot be used at all."""
    look = Look(with_torch=True, with_sockets=True)
    try:
        with attached(address, code=code):
            without_token = pool.submit(access.knock_without_token, address) if address else None
            found, answers = _ask_nodes(
                code=code, storage=storage, image_bytes=image_bytes, look=look, timeout_seconds=ANSWER_WITHIN_SECONDS
            )
            found += capacity.check_torch(answers)
            if address is None:
                processes = psutil.Process().children(recursive=True)
                found += access.check_private(answers, beyond_loopback(processes))
            else:
                found += access.check_access(answers, without_token=without_token.result() if without_token else None)
                found.append(access.check_dashboard())
            return found
    except UserError as error:
        seen, _, remedy = str(error).partition(". ")
        return [Finding("ray", "error", seen, remedy)]


def _ask_nodes(
    *, code: Path, storage: str, image_bytes: int, look: Look, timeout_seconds: float
) -> tuple[list[Finding], list[nodes.Answer]]:
    """Ask every node, and judge what they say."""
    living, dead = nodes.listed()
    with contextlib.ExitStack() as stack:
        found: list[Finding] = []
        try:
            question = stack.enter_context(shared_storage.question_in(storage))
        except (StorageAway, UserError) as error:
            question = None
            found = [shared_storage.refused(storage, error)]
        answers = nodes.ask(living, replace(look, question=question), timeout_seconds=timeout_seconds)
        if question is not None:
            found = shared_storage.check_storage(answers, question)
    heard = nodes.check_nodes(answers, dead, timeout_seconds=timeout_seconds)
    return [
        *heard,
        *check_versions(answers, here=versions_here()),
        *check_code(answers, code=code),
        *found,
        *(shared_storage.check_mapped(answers, look.mapped) if look.mapped else []),
        *check_clocks(answers),
        *capacity.check_cores(answers),
        *capacity.check_memory(answers),
        *capacity.check_shared_memory(answers),
        *capacity.check_object_store(answers, image_bytes=image_bytes),
        *capacity.check_disk(answers),
    ], answers


@contextlib.contextmanager
def attached(address: str | None, *, code: Path) -> Iterator[None]:
    """A private Ray on this machine, or a cluster that is there; let go of in the end.

    Raises:
        UserError: it does not start, does not answer, or refuses this environment's token.
    """
    if address is None:
        private = cluster.LocalRay(code=code, node=cluster.local_node())
        try:
            private.wait()
            yield
        finally:
            private.stop()
        return
    there = cluster.attach(address, code=code)
    try:
        yield
    finally:
        there.stop()
