"""`toprung serve`: answer HTTP requests with an exported model."""

from __future__ import annotations

from typing import Annotated

import typer

from toprung.cli.options import Storage, echo_err
from toprung.cli.predict import find_exported

MEBIBYTE = 2**20

serve_app = typer.Typer()


@serve_app.command(epilog="Example: toprung serve photos-20261123-141200 --replicas 2")
def serve(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder of an exported model, or a sweep.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on. By default, only this machine can connect.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    replicas: Annotated[int, typer.Option(min=1, help="Number of processes, each with a copy of the model.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Number of CPU threads of each replica.")] = 1,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs of each replica; torch then runs the model.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Images that are classified together.")] = 32,
    max_queue: Annotated[int, typer.Option(min=1, help="Requests at a time and replica; others get 429.")] = 128,
    max_body: Annotated[int, typer.Option(min=1, metavar="MB", help="Largest body of a request.")] = 20,
    storage: Storage = "runs",
) -> None:
    """Serve an exported model with Ray Serve: a page to drop an image on, POST /predict, /health, /metrics, /docs."""
    from toprung.cluster.environment import prepare_environment
    from toprung.export.predictor import Predictor

    folder = find_exported(model, storage=storage).resolve()
    Predictor(folder)  # a damaged folder is refused before Ray starts
    prepare_environment()
    from toprung.serve.api import Limits
    from toprung.serve.deployment import ServeOptions, run

    echo_err(f"Serving {folder} at http://{host}:{port}. Ctrl-C stops it.")
    options = ServeOptions(
        num_replicas=replicas,
        num_threads=threads,
        num_gpus=gpus,
        max_batch_size=batch_size,
        limits=Limits(max_body_bytes=max_body * MEBIBYTE, max_queue=max_queue),
    )
    run(folder, name=model if "/" not in model else folder.parent.name, host=host, port=port, options=options)
