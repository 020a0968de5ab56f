"""Serve MLflow's pages on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from toprung.errors import UserError
from toprung.machine import LOOPBACK
from toprung.tracking import local_store
from toprung.tracking.server import artifact_location, check_usable, follow_move, tracking_uri

LOG_FILE = "mlflow-ui.log"
START_TIMEOUT_SECONDS = 120
POLL_SECONDS = 0.1


def check_port(port: int, *, option: str) -> None:
    """Check that a server can listen on a port of loopback.

    Args:
        port: the port.
        option: the option of `toprung ui` that gives another port, for the message.

    Raises:
        UserError: it cannot.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do, so soon after the last one
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise UserError(
                f"Port {port} cannot be used ({error.strerror or error}). Give another: toprung ui {option} {port + 1}"
            ) from None


def serve_ui(root: Path, *, port: int) -> subprocess.Popen[bytes]:
    """Start MLflow's own server on loopback, over the store of a storage root; its output goes to `log_file(root)`.

    Raises:
        UserError: the port is in use, nothing has been recorded yet, or MLflow cannot use the store.
    """
    uri = tracking_uri(root)
    if (file := local_store.database_file(uri)) is not None and not file.exists():
        raise UserError(f"Nothing is recorded in {root} yet. Type: toprung sweep tune.digits")
    check_port(port, option="--port")
    follow_move(root)
    check_usable(root)
    # The URI goes into the environment: it may contain a password, and every user can read a process's arguments.
    # Without background jobs, MLflow starts seven processes fewer.
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    # Keep the project's modules from shadowing those of MLflow's processes; uvicorn puts its application folder first.
    environment |= {"PYTHONSAFEPATH": "1", "UVICORN_APP_DIR": str(root.resolve())}
    if location := artifact_location(root, uri):
        environment["MLFLOW_DEFAULT_ARTIFACT_ROOT"] = location
    address = ["--host", LOOPBACK, "--port", str(port), "--workers", "1"]
    with _open_log(log_file(root)) as log:
        # In a session of its own, Ctrl-C reaches only this process, and `stop_ui` can end the server's children too.
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "mlflow", "server", *address],
            start_new_session=True,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def log_file(root: Path) -> Path:
    """Return the file with the output of MLflow's server."""
    return root / LOG_FILE


def _open_log(file: Path) -> IO[bytes]:
    """Open a new log that only its owner can read: it lists what is looked at."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        return os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror or error}.") from None


def wait_until_serving(process: subprocess.Popen[bytes], *, port: int, root: Path) -> None:
    """Wait until MLflow's server accepts connections.

    Args:
        process: from `serve_ui`.
        port: the port it was given.
        root: the storage root it was given.

    Raises:
        UserError: the server ended, or does not listen after two minutes.
    """
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection((LOOPBACK, port), timeout=1).close()
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise UserError(f"MLflow's server did not start. Its log: {log_file(root)}")
        time.sleep(POLL_SECONDS)


def stop_ui(process: subprocess.Popen[bytes]) -> None:
    """End a server and every process it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
