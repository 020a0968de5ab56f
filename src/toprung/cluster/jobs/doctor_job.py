"""The doctor as a job: a cluster's head looks around, where this machine reaches no more than its dashboard."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from toprung.cluster.doctor import Finding
from toprung.cluster.doctor.services import check_data_remote, check_dvc_files
from toprung.cluster.jobs import client, package
from toprung.errors import UserError

OF_THIS_MACHINE = ("DVC remote", "DVC files")  # a job brings no settings and no files of DVC's


def run_doctor_job(project: Path, *, address: str, storage: str, prepared: str | None) -> list[Finding]:
    """Send `toprung doctor --address auto` to a cluster, as a sweep is sent, and wait for what it finds.

    Args:
        project: the workbench's root.
        address: of the cluster's dashboard, `http://HOST:8265`.
        storage: the storage root on the cluster, as `package.cluster_paths` wants it.
        prepared: the folder of all prepared datasets on the cluster; None: beside the storage.

    Returns:
        what was found on the cluster, or one line where it cannot be asked; and of this project's data remote
        and .dvc files.

    Raises:
        UserError: the storage is a folder of this machine.
    """
    where = package.cluster_paths(storage, prepared)
    try:
        findings = _run_job(project, address=address, where=where)
    except UserError as error:
        observed, _, remedy = str(error).partition(". ")
        findings = [Finding("ray", "error", observed, remedy)]
    return [
        *(finding for finding in findings if finding.name not in OF_THIS_MACHINE),
        check_data_remote(project),
        check_dvc_files(project),
    ]


def _run_job(project: Path, *, address: str, where: package.ClusterPaths) -> list[Finding]:
    command = ["doctor", "--address", "auto", "--storage", where.storage, "--json"]
    cluster = client.Jobs(address)
    with tempfile.TemporaryDirectory(prefix="toprung-job-") as folder:
        package.stage(project, Path(folder), where=where)
        job = cluster.submit(
            client.entry_point(command, prepared=where.prepared),
            label="doctor",
            runtime_env=package.runtime_env(Path(folder)),
            is_sweep=False,
        )
    log: list[str] = []
    code = cluster.follow(job, write=log.append)
    return _findings("".join(log), job=job, code=code)


def _findings(log: str, *, job: str, code: int) -> list[Finding]:
    """Out of the job's log, in which Ray may have said something before."""
    try:
        report, _ = json.JSONDecoder().raw_decode(log, log.index("{\n"))
        return [Finding(**fields) for fields in report["findings"]]
    except (ValueError, KeyError, TypeError):
        last = (log.strip().splitlines() or ["it printed nothing"])[-1]
        raise UserError(
            f"The examination on the cluster ended with {code} before it had looked ({last.rstrip('.')}). "
            f"Its log: ray job logs {job}"
        ) from None
