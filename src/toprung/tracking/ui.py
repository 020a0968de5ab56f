"""Serve MLflow's pages on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from toprung.errors import UserError
from toprung.tracking import local_store
from toprung.tracking.server import artifact_location, check_usable, follow_move, tracking_uri


def check_port(port: int, *, option: str) -> None:
    """Make sure that a server can listen on this port of loopback.

    Raises:
        UserError: it cannot; the message names the option of `toprung ui` that gives another.
    """
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(
                f"Port {port} cannot be used ({error.strerror or error}). Give another: toprung ui {option} {port + 1}"
            ) from None


def serve_ui(root: Path, *, port: int) -> subprocess.Popen[bytes]:
    """Start MLflow's own server on loopback over the local store.

    Raises:
        UserError: the port is in use, nothing has been recorded yet, or MLflow cannot use the store.
    """
    uri = tracking_uri(root)
    if (file := local_store.database_file(uri)) is not None and not file.exists():
        raise UserError(f"Nothing is recorded in {root} yet. Type: toprung sweep tune.digits")
    check_port(port, option="--port")
    follow_move(root)
    check_usable(root)
    # Named by the environment: everybody on a machine can read the arguments of its processes, and a database's URI
    # holds a password. No background jobs: they start seven processes that nobody here needs.
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    # The project's modules must not shadow those of MLflow's processes; uvicorn puts its application folder first.
    environment |= {"PYTHONSAFEPATH": "1", "UVICORN_APP_DIR": str(root.resolve())}
    if location := artifact_location(root, uri):
        environment["MLFLOW_DEFAULT_ARTIFACT_ROOT"] = location
    address = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # A session of its own: Ctrl-C reaches us alone, and `stop_ui` ends the server with all of its children.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "mlflow", "server", *address], start_new_session=True, env=environment
    )


def stop_ui(process: subprocess.Popen[bytes]) -> None:
    """End the server and every process it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=10)
