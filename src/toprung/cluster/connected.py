"""A connection to a running Ray cluster, for one sweep; the cluster keeps running afterwards."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from toprung.cluster.capacity import Node, alive_nodes
from toprung.cluster.environment import import_ray, runtime_env_for_cluster, token_source
from toprung.errors import UserError, cause_chain, first_line

CONNECT_TIMEOUT_SECONDS = 5
POLL_SECONDS = 5.0
# How often Ray tries to reach a cluster, one second each; its default is 20.
RETRIES_VARIABLE = "RAY_gcs_server_port_wait_time_s"


class ConnectedCluster:
    """A connection to a running cluster, with the interface of `LocalCluster`."""

    def __init__(self, address: str) -> None:
        """Manage a connection that `connect` has opened.

        Args:
            address: the cluster's address, as the user gave it.
        """
        self.address: str | None = address
        self._connected = True
        self._stopped = threading.Event()

    def wait(self) -> None:
        """Return at once: a running cluster needs no start."""

    def nodes(self) -> list[Node]:
        """List the nodes that are alive now."""
        return alive_nodes()

    def watch_head(self, on_unreachable: Callable[[str], object]) -> None:
        """Check in the background, until `stop`, whether the head answers.

        If it does not answer for a minute (`RAY_gcs_rpc_server_reconnect_timeout_s`), Ray ends this process without a
        message.

        Args:
            on_unreachable: called once with the head's address, in the background thread, when the head does not
                answer.
        """
        import ray

        head = ray.get_runtime_context().gcs_address

        def poll() -> None:
            while not self._stopped.wait(POLL_SECONDS):
                try:
                    _check_port(head)
                except OSError:
                    on_unreachable(head)
                    return

        threading.Thread(target=poll, name="cluster-head", daemon=True).start()

    def stop(self) -> None:
        """Disconnect: Ray ends this sweep's actors and releases its placement groups; the cluster keeps running."""
        self._stopped.set()
        if self._connected:
            self._connected = False
            import ray

            ray.shutdown()


def connect(address: str, *, code: Path) -> ConnectedCluster:
    """Connect to a running cluster; call `prepare_environment(address)` first.

    Args:
        address: `auto` (RAY_ADDRESS, or the cluster that `ray start` joined this machine to) or `HOST:PORT`.
        code: the folder that workers import the project from; it is uploaded before this returns.

    Raises:
        UserError: nothing responds at the address, the cluster rejects the token, it runs another version of Ray or
            Python, or this machine is not one of its nodes.
    """
    _check_reachable(address)
    ray, stderr_text = import_ray(), ""
    try:
        with _captured_stderr() as captured, _limited_retries():
            try:
                ray.init(
                    address=address,
                    runtime_env=runtime_env_for_cluster(code),
                    logging_level=logging.ERROR,
                )
            finally:
                stderr_text = captured()
    except Exception as error:
        raise UserError(_reason(address, error, stderr_text)) from error
    if stderr_text:
        sys.stderr.write(stderr_text)
    return ConnectedCluster(address)


def _check_reachable(address: str) -> None:
    """Fail at once if nothing listens at the address; Ray would try for most of a minute.

    Raises:
        UserError: the address is malformed, or nothing answers.
    """
    if address == "auto":
        return
    if "://" in address:
        raise UserError(f'--address "{address}": give auto or HOST:PORT, the address that ray start printed.')
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(
            f'--address "{address}" is not a cluster address: give auto or HOST:PORT, such as 10.0.0.2:6379.'
        )
    try:
        _check_port(address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"No Ray cluster responds at {address} ({reason}). Start one: ray start --head. Or omit --address."
        ) from None


def _check_port(address: str) -> None:
    """Open a connection and close it."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_SECONDS).close()


def _reason(address: str, error: BaseException, message: str) -> str:
    """Return one line for the user, from the exception that Ray raised and what its core wrote to stderr."""
    where = "that `auto` found" if address == "auto" else f"at {address}"
    text = "\n".join(map(str, cause_chain(error)))
    if "Version mismatch" in text:
        ray_versions, python_versions = re.findall(r"Ray: (\S+)", text), re.findall(r"Python: (\S+)", text)
        return (
            f"The cluster {where} runs Ray {ray_versions[0]} on Python {python_versions[0]}; here it is Ray "
            f"{ray_versions[1]} on Python {python_versions[1]}. Install the same versions in both places."
        )
    if re.search(r"AuthToken|Unauthenticated|authentication token", text + message, re.IGNORECASE):
        source = token_source()
        credentials = f"the token from {source}" if source else "a client without a token"
        return (
            f"The cluster {where} rejects {credentials}. Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE, where "
            "FILE holds the cluster's token (on the head: ~/.ray/auth_token)."
        )
    if "Could not find any running Ray instance" in text:
        return "--address auto found no running Ray cluster. Start one with `ray start --head`, or give HOST:PORT."
    if "No node info found" in text or "Can't find a" in text:
        return (
            f"This machine is not a node of the cluster {where}. Join it: ray start --address={address} "
            "--num-cpus=0. Or send the sweep as a job: toprung submit"
        )
    return f"The Ray cluster {where} cannot be used: {first_line(error)}"


@contextlib.contextmanager
def _limited_retries() -> Iterator[None]:
    """Let Ray give up after a few seconds, unless the user has set the variable."""
    if RETRIES_VARIABLE in os.environ:
        yield
        return
    os.environ[RETRIES_VARIABLE] = str(CONNECT_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        del os.environ[RETRIES_VARIABLE]


@contextlib.contextmanager
def _captured_stderr() -> Iterator[Callable[[], str]]:
    """Capture what Ray's core writes to stderr, the only place where it says why the cluster refused it."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        saved_fd = os.dup(2)
        os.dup2(file.fileno(), 2)

        def read() -> str:
            file.seek(0)
            return file.read().decode(errors="replace")

        try:
            yield read
        finally:
            sys.stderr.flush()
            os.dup2(saved_fd, 2)
            os.close(saved_fd)
