"""Submit a sweep as a Ray job, follow its log, and stop it; the job runs independently of this process."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from toprung.cluster import import_ray
from toprung.errors import UserError, first_line

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails

JOB_KEY = "toprung"  # the metadata key that marks a job as a sweep of toprung
MAX_RECONNECTS = 30
STABLE_SECONDS = 60  # a connection that lasted longer starts the count again
NO_AGENT = "No available agent"  # a part of Ray's answer while the head's agent starts
AGENT_TIMEOUT_SECONDS = 60
STOPPED_EXIT_CODE = 130


class ResumableLog:
    """Write a log once, although it is sent again from its beginning after each lost connection."""

    def __init__(self, write: Callable[[str], object]) -> None:
        """Create a log of which nothing is written yet.

        Args:
            write: called with each new part of the log.
        """
        self._write, self._num_written, self._position = write, 0, 0

    def restart(self) -> None:
        """Expect the log from its beginning again."""
        self._position = 0

    def write(self, text: str) -> None:
        """Take the next characters of the log, and write those that are new."""
        new = text[max(0, self._num_written - self._position) :]
        self._position += len(text)
        if new:
            self._write(new)
            self._num_written = self._position


class Jobs:
    """The jobs of one cluster."""

    def __init__(self, address: str) -> None:
        """Connect to a cluster's dashboard.

        Args:
            address: the dashboard's address, `http://HOST:8265`.

        Raises:
            UserError: ray[default] is not installed, nothing responds at the address, or the token is missing or wrong.
        """
        if not address.startswith(("http://", "https://")):
            raise UserError(f'--address "{address}" is not the address of a dashboard. Give one: http://127.0.0.1:8265')
        os.environ["RAY_AUTH_MODE"] = "token"  # read on import
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray prefers it to the client's argument
        import_ray()
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        for part in JobSubmissionClient.__mro__:  # each of these modules logs every upload
            logging.getLogger(part.__module__).setLevel(logging.WARNING)
        # Warns that large files, such as weights, should not be sent. Its name is private; without it, Ray prints more.
        logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.ERROR)
        self.address = address
        try:
            self._client = JobSubmissionClient(address)
        except AuthenticationError as error:
            raise UserError(
                f"The cluster at {address} requires its token, and yours is missing or wrong "
                f"({first_line(error)}). Put the cluster's token into ~/.ray/auth_token or RAY_AUTH_TOKEN."
            ) from None
        except ConnectionError:
            raise UserError(
                f"No Ray dashboard responds at {address}. Is the cluster up, and the tunnel to its head open? "
                "Type: ray dashboard cluster.yaml"
            ) from None
        except RuntimeError as error:
            if "ray[default]" in str(error):
                raise UserError(
                    "Jobs need an extra of Ray that is not installed. Type: pip install 'ray[default]'"
                ) from None
            raise UserError(f"{address} does not respond like a Ray dashboard: {first_line(error)}") from None

    def submit(self, command: Sequence[str], *, label: str, runtime_env: dict[str, Any], is_sweep: bool = True) -> str:
        """Submit a job and return its ID. Wait for up to a minute for the agent of a head that has just started.

        Args:
            command: the words of its entrypoint; anybody who can reach the cluster can read them.
            label: the start of the ID.
            runtime_env: the files and variables to send with the job.
            is_sweep: whether the job is a sweep, which `find` finds and a terminal can attach to.

        Raises:
            UserError: the cluster rejects it.
        """
        job = f"job-{label}-{datetime.now():%Y%m%d-%H%M%S}"
        deadline = time.monotonic() + AGENT_TIMEOUT_SECONDS
        while True:
            try:
                return self._client.submit_job(
                    entrypoint=shlex.join(command),
                    submission_id=job,
                    runtime_env=runtime_env,
                    metadata={JOB_KEY: label} if is_sweep else {},
                )
            except (RuntimeError, ValueError) as error:
                if NO_AGENT not in str(error) or time.monotonic() > deadline:
                    raise UserError(f"The cluster at {self.address} rejects the job: {first_line(error)}") from None
                time.sleep(1)

    def find(self, job: str | None) -> str:
        """Return the ID of a sweep's job, after checking that it exists; None means the newest one.

        Raises:
            UserError: there is no such job.
        """
        jobs: list[JobDetails] = [
            details for details in self._client.list_jobs() if JOB_KEY in (details.metadata or {})
        ]
        jobs.sort(key=lambda details: details.start_time or 0, reverse=True)
        ids = [str(details.submission_id) for details in jobs]
        if job is None and ids:
            return ids[0]
        if job in ids:
            return str(job)
        newest = ", ".join(ids[:3]) or "none yet"
        missing = f'No job "{job}"' if job else "No sweep has been submitted as a job"
        raise UserError(f"{missing} at {self.address}. Newest jobs: {newest}. Type: toprung submit RECIPE")

    def follow(self, job: str, *, write: Callable[[str], object]) -> int:
        """Stream a job's log from its beginning until the job ends, and return its exit code.

        After a lost connection, reconnect and continue the log where it stopped.

        Raises:
            UserError: the cluster can no longer be reached.
        """
        import aiohttp

        log, num_failures = ResumableLog(write), 0
        while True:
            began = time.monotonic()
            try:
                asyncio.run(self._tail(job, log))
                if self._client.get_job_status(job).is_terminal():
                    return self._exit_code(job, write=write)
            except (RuntimeError, OSError, aiohttp.ClientError) as error:
                num_failures = 1 if time.monotonic() - began > STABLE_SECONDS else num_failures + 1
                if num_failures > MAX_RECONNECTS:
                    raise UserError(
                        f"The cluster at {self.address} can no longer be reached ({first_line(error)}). "
                        f"The job may still be running; to follow it again, type: {reattach_command(job, self.address)}"
                    ) from None
            time.sleep(1)

    async def _tail(self, job: str, log: ResumableLog) -> None:
        log.restart()
        async for text in self._client.tail_job_logs(job):
            log.write(text)

    def _exit_code(self, job: str, *, write: Callable[[str], object]) -> int:
        details = self._client.get_job_info(job)
        if details.status == "SUCCEEDED":
            return 0
        if details.status == "STOPPED":
            return STOPPED_EXIT_CODE
        if details.driver_exit_code is None and details.message:
            write(f"{details.message}\n")
        code = details.driver_exit_code or 1
        return 128 - code if code < 0 else code  # killed by a signal: the exit code that a shell reports

    def stop(self, job: str) -> bool:
        """Request a job to stop, as Ctrl-C does for a sweep, and return whether it was running.

        Raises:
            UserError: there is no such job.
        """
        try:
            return bool(self._client.stop_job(job))
        except RuntimeError as error:
            raise UserError(f"The job {job} cannot be stopped: {first_line(error)}") from None


def entry_point(
    command: Sequence[str], *, prepared: str, dataset: str | None = None, weights: Sequence[str] = ()
) -> list[str]:
    """Return the job's command, which finds the data and then runs `toprung` on the cluster.

    Args:
        command: the arguments of `toprung`.
        prepared: the folder of all prepared datasets on the cluster.
        dataset: the dataset that a new sweep trains on.
        weights: names of the pretrained weights that a new sweep starts from.
    """
    words = ["python", "-m", "toprung.cluster.jobs.entrypoint", "--prepared", prepared]
    words += ["--dataset", dataset] if dataset else []
    for name in weights:
        words += ["--weights", name]
    return [*words, "--", *command]


def reattach_command(job: str, address: str) -> str:
    """Return the command that follows a job again."""
    return f"toprung submit --attach {job} --address {address}"
