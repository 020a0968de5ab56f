"""Run the doctor as a job on a cluster's head, for a machine that can reach only the dashboard."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from toprung.cluster.doctor import Finding
from toprung.cluster.doctor.services import check_data_remote, check_dvc_files
from toprung.cluster.jobs import client, package
from toprung.errors import UserError

LOCAL_CHECKS = ("DVC remote", "DVC files")  # a job is sent without DVC's settings and files


def run_doctor_job(project: Path, *, address: str, storage: str, prepared: str | None) -> list[Finding]:
    """Run `toprung doctor --address auto` as a job on a cluster, and return its findings.

    Args:
        project: the project's root.
        address: the address of the cluster's dashboard, `http://HOST:8265`.
        storage: the storage root on the cluster, as `package.cluster_paths` takes it.
        prepared: the folder of all prepared datasets on the cluster; None means `data/prepared` beside the storage.

    Returns:
        the findings on the cluster, or a single one if the job cannot run; and the findings about this project's DVC
        remote and .dvc files.

    Raises:
        UserError: the storage is a folder on this machine.
    """
    where = package.cluster_paths(storage, prepared)
    try:
        findings = _run_job(project, address=address, where=where)
    except UserError as error:
        observed, _, remedy = str(error).partition(". ")
        findings = [Finding("ray", "error", observed, remedy)]
    return [
        *(finding for finding in findings if finding.name not in LOCAL_CHECKS),
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
    """Parse the findings in the job's log, which may begin with messages of Ray."""
    try:
        report, _ = json.JSONDecoder().raw_decode(log, log.index("{\n"))
        return [Finding(**fields) for fields in report["findings"]]
    except (ValueError, KeyError, TypeError):
        last_line = (log.strip().splitlines() or ["it printed nothing"])[-1]
        raise UserError(
            f"The doctor's job on the cluster ended with exit code {code} and no findings ({last_line.rstrip('.')}). "
            f"Read its log: ray job logs {job}"
        ) from None
