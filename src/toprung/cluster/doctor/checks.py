"""Run the checks: all of them for `toprung doctor`, and a quick selection before a sweep on a cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil

from toprung import cluster
from toprung.cluster.doctor import access, capacity, nodes, services, shared_storage
from toprung.cluster.doctor.clock import check_clocks
from toprung.cluster.doctor.code import check_code
from toprung.cluster.doctor.finding import Finding
from toprung.cluster.doctor.node import ProbeOptions
from toprung.cluster.doctor.sockets import exposed_sockets
from toprung.cluster.doctor.versions import check_lock, check_versions, local_versions
from toprung.errors import UserError
from toprung.remote_storage import StorageUnavailable

TIMEOUT_SECONDS = 120.0  # the first task on a node starts a worker and uploads the code


def preflight(
    *,
    code: Path,
    storage: str,
    image_bytes: int,
    mmap_dir: Path | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> list[Finding]:
    """Run the quick checks on the cluster that this process is connected to; this takes a few seconds.

    Args:
        code: the copy of the project that was sent to the workers.
        storage: the sweep's storage root: a folder, or the address of object storage.
        image_bytes: the size of the images that the object store will hold.
        mmap_dir: the folder that trials will map images from; None if the object store holds them.
        timeout_seconds: how long to wait for the nodes' responses.

    Returns:
        the findings; if one of them is an error (`errors`), the sweep must not start.
    """
    options = ProbeOptions(mmap_dir=None if mmap_dir is None else str(mmap_dir))
    return _check_nodes(
        code=code, storage=storage, image_bytes=image_bytes, options=options, timeout_seconds=timeout_seconds
    )[0]


def run_checks(*, address: str | None, project: Path, code: Path, storage: str, tracking_uri: str) -> list[Finding]:
    """Run all checks on this machine and, if an address is given, on a cluster.

    Args:
        address: the address of a running cluster, `host:port` or `auto`; None starts a private Ray here and stops it
            afterwards.
        project: the project's root.
        code: a copy of the project's source files, which is sent to the workers.
        storage: the storage root: a folder, or the address of object storage.
        tracking_uri: MLflow's tracking URI.
    """
    with ThreadPoolExecutor(thread_name_prefix="doctor") as pool:
        tracking = pool.submit(services.check_tracking, tracking_uri)
        remote = pool.submit(services.check_data_remote, project)
        dvc_files = pool.submit(services.check_dvc_files, project)
        prepared = services.prepared_bytes(project)
        here = local_versions()
        findings = [services.check_git(project), *check_lock(project / "requirements.lock", here=here)]
        image_bytes = max(prepared.values(), default=0)
        findings += _check_ray(address, code=code, storage=storage, image_bytes=image_bytes, pool=pool)
        return [*findings, services.check_data(prepared), tracking.result(), remote.result(), dvc_files.result()]


def _check_ray(
    address: str | None, *, code: Path, storage: str, image_bytes: int, pool: ThreadPoolExecutor
) -> list[Finding]:
    """Check Ray and its nodes; return a single finding if Ray cannot be used at all."""
    options = ProbeOptions(with_torch=True, with_sockets=True)
    try:
        with connected(address, code=code):
            without_token = pool.submit(access.check_without_token, address) if address else None
            findings, responses = _check_nodes(
                code=code, storage=storage, image_bytes=image_bytes, options=options, timeout_seconds=TIMEOUT_SECONDS
            )
            findings += capacity.check_torch(responses)
            if address is None:
                processes = psutil.Process().children(recursive=True)
                findings += access.check_private(responses, exposed_sockets(processes))
            else:
                findings += access.check_access(
                    responses, without_token=without_token.result() if without_token else None
                )
                findings.append(access.check_dashboard())
            return findings
    except UserError as error:
        observed, _, remedy = str(error).partition(". ")
        return [Finding("ray", "error", observed, remedy)]


def _check_nodes(
    *, code: Path, storage: str, image_bytes: int, options: ProbeOptions, timeout_seconds: float
) -> tuple[list[Finding], list[nodes.NodeResponse]]:
    """Query every node and evaluate the responses."""
    alive, dead = nodes.list_nodes()
    with contextlib.ExitStack() as stack:
        findings: list[Finding] = []
        try:
            probe = stack.enter_context(shared_storage.write_storage_probe(storage))
        except (StorageUnavailable, UserError) as error:
            probe = None
            findings = [shared_storage.unwritable_storage(storage, error)]
        responses = nodes.query_nodes(alive, replace(options, storage_probe=probe), timeout_seconds=timeout_seconds)
        if probe is not None:
            findings = shared_storage.check_storage(responses, probe)
    return [
        *nodes.check_nodes(responses, dead, timeout_seconds=timeout_seconds),
        *check_versions(responses, here=local_versions()),
        *check_code(responses, code=code),
        *findings,
        *(shared_storage.check_mmap_dir(responses, options.mmap_dir) if options.mmap_dir else []),
        *check_clocks(responses),
        *capacity.check_cores(responses),
        *capacity.check_memory(responses),
        *capacity.check_shared_memory(responses),
        *capacity.check_object_store(responses, image_bytes=image_bytes),
        *capacity.check_disk(responses),
    ], responses


@contextlib.contextmanager
def connected(address: str | None, *, code: Path) -> Iterator[None]:
    """Connect to a running cluster, or start a private Ray; disconnect or stop it at the end.

    Raises:
        UserError: it does not start, does not respond, or rejects the token from the environment.
    """
    if address is None:
        private = cluster.LocalCluster(code=code, node=cluster.local_node())
        try:
            private.wait()
            yield
        finally:
            private.stop()
        return
    connection = cluster.connect(address, code=code)
    try:
        yield
    finally:
        connection.stop()
