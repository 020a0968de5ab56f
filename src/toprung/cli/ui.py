"""`toprung ui`: serve MLflow's UI and optuna-dashboard."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from pathlib import Path
from typing import Annotated

import typer

from toprung.cli.options import Storage, echo_err, storage_root
from toprung.errors import UserError

POLL_SECONDS = 0.5

app = typer.Typer()


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of MLflow's UI on 127.0.0.1.")] = 5000,
    study: Annotated[
        str | None, typer.Option(metavar="SWEEP", help="Sweep to show in optuna-dashboard, by default the newest.")
    ] = None,
    study_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of optuna-dashboard on 127.0.0.1.")] = 8080,
    storage: Storage = "runs",
) -> None:
    """Serve MLflow's UI and, if installed, optuna-dashboard on this machine until you press Ctrl-C."""
    from toprung.secrets import mask_uri
    from toprung.sweep.maintenance import close_orphaned
    from toprung.tracking.server import tracking_uri
    from toprung.tracking.ui import log_file, serve_ui, stop_ui, wait_until_serving

    root = storage_root(storage)
    close_orphaned(root, echo=echo_err)
    uri = tracking_uri(root)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A closed terminal ends the servers too, and Ctrl-C works even if the parent process ignores SIGINT.
        signal.signal(number, signal.default_int_handler)
    servers: list[subprocess.Popen[bytes]] = []
    try:
        if uri.startswith(("http://", "https://")):
            print(f"MLflow: {mask_uri(uri)}    (the server in MLFLOW_TRACKING_URI)", flush=True)
        else:
            servers.append(serve_ui(root, port=port))
            wait_until_serving(servers[0], port=port, root=root)
            page = f"http://127.0.0.1:{port}/{_newest_page(root)}"
            print(f"MLflow: {page}    (Ctrl-C stops it; its log: {log_file(root)})", flush=True)
        dashboard = _dashboard(root, study, port=study_port)
        servers += [dashboard] if dashboard else []
        while servers and all(server.poll() is None for server in servers):
            time.sleep(POLL_SECONDS)
        raise typer.Exit(max((server.poll() or 0 for server in servers), default=0))
    except KeyboardInterrupt:
        pass
    finally:
        with contextlib.ExitStack() as stack:  # even if a second Ctrl-C interrupts stopping one server, stop the other
            for server in servers:
                stack.callback(stop_ui, server)


def _dashboard(root: Path, study: str | None, *, port: int) -> subprocess.Popen[bytes] | None:
    """Start optuna-dashboard and return its process; if that fails, print why and return None.

    Raises:
        UserError: the sweep in `study` cannot be shown.
    """
    from toprung.records import catalog
    from toprung.tracking.dashboard import serve_dashboard

    sweep_dir = catalog.find_sweep(root, study) if study else next(catalog.list_sweeps(root), None)
    if sweep_dir is None:
        return None
    try:
        process = serve_dashboard(sweep_dir, port=port)
    except UserError as error:
        if study:
            raise
        echo_err(f"Optuna: {error}")
        return None
    print(f"Optuna: http://127.0.0.1:{port}/dashboard    (the study of {sweep_dir.sweep_id}, read-only)", flush=True)
    return process


def _newest_page(root: Path) -> str:
    """Return the fragment of MLflow's URL that shows the newest sweep; without it the list of experiments opens."""
    from toprung.analysis.summary import brief
    from toprung.records import catalog

    newest = next((brief(sweep_dir) for sweep_dir in catalog.list_sweeps(root)), {})
    experiment = newest.get("mlflow_experiment_id")
    return f"#/experiments/{experiment}/runs?workflowType=machine_learning" if experiment else ""
