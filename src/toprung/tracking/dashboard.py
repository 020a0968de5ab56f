"""Serve optuna-dashboard for one sweep's study on loopback, in a separate process that cannot write to the ledger.

python -m toprung.tracking.dashboard '{"directory": ..., "port": 8080}'
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

from toprung.errors import UserError
from toprung.records.study_storage import storage_for_reading
from toprung.records.sweep_dir import SweepDirectory
from toprung.tracking.ui import check_port

PACKAGE = "optuna_dashboard"


def serve_dashboard(sweep_dir: SweepDirectory, *, port: int) -> subprocess.Popen[bytes]:
    """Start optuna-dashboard on loopback.

    Args:
        sweep_dir: the directory of the sweep whose study is shown.
        port: a port of this machine's loopback.

    Raises:
        UserError: it is not installed, the port cannot be used, or the sweep has no study yet.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise UserError("optuna-dashboard is not installed. Type: pip install 'toprung[dashboard]'")
    if storage_for_reading(sweep_dir) is None:
        raise UserError(f"{sweep_dir.sweep_id} has no study yet.")
    check_port(port, option="--study-port")
    task = json.dumps({"directory": str(sweep_dir.path), "port": port})
    # Drop its access log. In a session of its own, Ctrl-C reaches only this process.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "toprung.tracking.dashboard", task],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def main(task: dict[str, str | int]) -> None:
    """Serve until the process is ended."""
    from optuna_dashboard import run_server

    storage = storage_for_reading(SweepDirectory(Path(str(task["directory"]))))
    assert storage is not None
    run_server(storage, host="127.0.0.1", port=int(task["port"]))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
