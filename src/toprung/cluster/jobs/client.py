"""The client of a cluster's jobs: send a sweep, follow its log, stop it; the job lives on without this process."""

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
from toprung.errors import UserError

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails

JOB_PREFIX = "toprung"  # the metadata's key that marks a job as one of toprung's sweeps
MAX_RECONNECTS = 30
STOPPED_EXIT_CODE = 130


class ResumableLog:
    """A log that is sent anew from its beginning after each break, written once."""

    def __init__(self, write: Callable[[str], object]) -> None:
        """Nothing is written yet.

        Args:
            write: is given what is new.
        """
        self._write, self._num_written, self._position = write, 0, 0

    def restart(self) -> None:
        """From here on the log comes from its beginning."""
        self._position = 0

    def write(self, text: str) -> None:
        """The log's next characters."""
        new = text[max(0, self._num_written - self._position) :]
        self._position += len(text)
        if new:
            self._write(new)
            self._num_written = self._position


class Jobs:
    """The jobs of one cluster."""

    def __init__(self, address: str) -> None:
        """Knock at the cluster's door.

        Args:
            address: of its dashboard, `http://HOST:8265`.

        Raises:
            UserError: ray[default] is not installed, nobody answers there, or the token is missing or another.
        """
        if not address.startswith(("http://", "https://")):
            raise UserError(f'--address "{address}" is no dashboard\'s address. Give one: http://127.0.0.1:8265')
        os.environ["RAY_AUTH_MODE"] = "token"  # read on import
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray lets it win over what is given to the client
        import_ray()
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient

        for part in JobSubmissionClient.__mro__:  # each of its modules has a logger that tells of every upload
            logging.getLogger(part.__module__).setLevel(logging.WARNING)
        self.address = address
        try:
            self._client = JobSubmissionClient(address)
        except AuthenticationError as error:
            raise UserError(
                f"The cluster at {address} asks for its token, and none or another is here "
                f"({_first_line(error)}). Put the cluster's into ~/.ray/auth_token, or into RAY_AUTH_TOKEN."
            ) from None
        except ConnectionError:
            raise UserError(
                f"No Ray dashboard answers at {address}. Is the cluster up, and the tunnel to its head open? "
                "Type: ray dashboard cluster.yaml"
            ) from None
        except RuntimeError as error:
            if "ray[default]" in str(error):
                raise UserError("Jobs need more of Ray than is installed. Type: pip install 'ray[default]'") from None
            raise UserError(f"{address} does not answer as a Ray dashboard: {_first_line(error)}") from None

    def submit(self, command: Sequence[str], *, label: str, runtime_env: dict[str, Any], is_sweep: bool = True) -> str:
        """Send a job; gives its id.

        Args:
            command: its entry point, word by word; anybody who reaches the cluster can read it.
            label: what the id begins with.
            runtime_env: what travels with it.
            is_sweep: whether `find` finds it; no terminal comes back to anything else.

        Raises:
            UserError: the cluster refuses it.
        """
        job = f"job-{label}-{datetime.now():%Y%m%d-%H%M%S}"
        try:
            return self._client.submit_job(
                entrypoint=shlex.join(command),
                submission_id=job,
                runtime_env=runtime_env,
                metadata={JOB_PREFIX: label} if is_sweep else {},
            )
        except (RuntimeError, ValueError) as error:
            raise UserError(f"The cluster at {self.address} refuses the job: {_first_line(error)}") from None

    def find(self, job: str | None) -> str:
        """A job by its id; None: the newest of toprung's.

        Raises:
            UserError: there is none.
        """
        jobs: list[JobDetails] = [
            details for details in self._client.list_jobs() if JOB_PREFIX in (details.metadata or {})
        ]
        jobs.sort(key=lambda details: details.start_time or 0, reverse=True)
        ids = [str(details.submission_id) for details in jobs]
        if job is None and ids:
            return ids[0]
        if job in ids:
            return str(job)
        newest = ", ".join(ids[:3]) or "none yet"
        what = f'No job "{job}"' if job else "No job of toprung's"
        raise UserError(f"{what} at {self.address}. Newest there: {newest}. Type: toprung submit RECIPE")

    def follow(self, job: str, *, write: Callable[[str], object]) -> int:
        """Stream a job's log from its beginning until the job ends; gives its exit code.

        A connection that breaks is made again, and the log goes on where it broke.

        Raises:
            UserError: the cluster cannot be reached any more.
        """
        import aiohttp

        log, broken = ResumableLog(write), 0
        while True:
            try:
                asyncio.run(self._tail(job, log))
                if self._client.get_job_status(job).is_terminal():
                    return self._exit_code(job, write=write)
            except (RuntimeError, OSError, aiohttp.ClientError) as error:
                broken += 1
                if broken > MAX_RECONNECTS:
                    raise UserError(
                        f"The cluster at {self.address} cannot be reached any more ({_first_line(error)}). "
                        f"The job may go on there; come back with: {reattach_command(job, self.address)}"
                    ) from None
            time.sleep(1)

    async def _tail(self, job: str, log: ResumableLog) -> None:
        log.restart()
        async for text in self._client.tail_job_logs(job):
            log.write(text)

    def _exit_code(self, job: str, *, write: Callable[[str], object]) -> int:
        about = self._client.get_job_info(job)
        if about.status == "SUCCEEDED":
            return 0
        if about.status == "STOPPED":
            return STOPPED_EXIT_CODE
        if about.driver_exit_code is None and about.message:
            write(f"{about.message}\n")
        code = about.driver_exit_code or 1
        return 128 - code if code < 0 else code  # killed by a signal: as a shell says it

    def stop(self, job: str) -> bool:
        """Ask a job to stop, as Ctrl-C asks a sweep; gives whether it ran.

        Raises:
            UserError: there is no such job.
        """
        try:
            return bool(self._client.stop_job(job))
        except RuntimeError as error:
            raise UserError(f"The job {job} cannot be stopped: {_first_line(error)}") from None


def entry_point(command: Sequence[str], *, prepared: str, dataset: str | None = None) -> list[str]:
    """The job's command: find the data, then run `toprung` on the cluster that the job runs on.

    Args:
        command: the arguments of `toprung`.
        prepared: the folder of all prepared datasets on the cluster.
        dataset: that a new sweep trains on.
    """
    words = ["python", "-m", "toprung.cluster.jobs.entrypoint", "--prepared", prepared]
    return [*words, *(["--dataset", dataset] if dataset else []), "--", *command]


def reattach_command(job: str, address: str) -> str:
    """The command that follows a job again."""
    return f"toprung submit --attach {job} --address {address}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
