"""`toprung serve`: answer HTTP requests with an exported model."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import socket
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from toprung.cli.options import Storage, echo_err, short_path
from toprung.cli.predict import find_exported
from toprung.errors import UserError

MEBIBYTE, MEGAPIXEL = 2**20, 10**6

app = typer.Typer()


@app.command(epilog="Example: toprung serve photos-20261123-141200 --replicas 2")
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
    max_queue: Annotated[int, typer.Option(min=1, help="Requests at a time for each replica; others get 429.")] = 64,
    max_body: Annotated[int, typer.Option(min=1, metavar="MB", help="Largest image file.")] = 20,
    max_pixels: Annotated[
        int, typer.Option(min=1, max=100, metavar="MILLIONS", help="Largest image in megapixels.")
    ] = 50,
    docker: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Do not serve: write a folder for docker build, without Ray and torch."),
    ] = None,
    storage: Storage = "runs",
) -> None:
    """Serve an exported model with Ray Serve: a page to drop an image on, POST /predict, /health, /metrics, /docs."""
    folder = find_exported(model, storage=storage).resolve()
    name = _model_name(folder)
    if docker is not None:
        _write_docker_context(folder, docker, name=name)
        return
    from toprung.cluster.environment import prepare_environment
    from toprung.sweep.signals import handled_signals, redirect_output

    num_classes, backend = _check_model(folder)
    address = _check_address(host, port)
    prepare_environment()
    deployment = _import_deployment()
    options = deployment.ServeOptions(
        model=folder,
        name=name,
        num_replicas=replicas,
        num_threads=threads,
        num_gpus=gpus,
        max_batch_size=batch_size,
        limits={"max_body_bytes": max_body * MEBIBYTE, "max_pixels": max_pixels * MEGAPIXEL, "max_queue": max_queue},
    )
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    ready = f"Serving {name} ({num_classes} classes, {'torch' if gpus else backend}) at {url}. Ctrl-C stops it."
    log = _create_log()
    echo_err(f"Starting Ray Serve. Its log: {log}")
    with (
        os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8") as terminal,
        redirect_output(log),
        handled_signals(),
    ):
        echo = partial(print, file=terminal, flush=True)
        deployment.serve_until_stopped(
            options,
            host=address,
            port=port,
            on_ready=partial(echo, ready),
            on_stop=partial(echo, "Stopping: finishing the requests in progress."),
        )
    log.unlink()


def _model_name(folder: Path) -> str:
    """Return the name of an exported folder's sweep, with the trial or `refit`, in characters that Docker accepts."""
    sweep_folder = folder.parent.parent
    if folder.name == "export":
        name = f"{sweep_folder.name}-refit" if folder.parent.name == "refit" else folder.parent.name
    else:
        name = f"{sweep_folder.name}-{folder.name}" if folder.parent.name == "exports" else folder.name
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "model"


def _check_model(folder: Path) -> tuple[int, str]:
    """Load a model once, so that a damaged one is refused before Ray starts; return its classes and the backend."""
    from toprung.export.predictor import Predictor

    predictor = Predictor(folder)
    return len(predictor.classes), predictor.backend


def _write_docker_context(folder: Path, out: Path, *, name: str) -> None:
    from toprung.serve.docker import write_docker_context

    write_docker_context(folder, out, name=name)
    path = shlex.quote(str(short_path(out)))
    print(f"Docker build context: {short_path(out)}")
    print(f"Build and run: docker build -t {name} {path} && docker run -p 127.0.0.1:8000:8000 {name}")


def _create_log() -> Path:
    """Create a file for the output of Ray's processes, which only its owner can read."""
    descriptor, log = tempfile.mkstemp(prefix="toprung-serve-", suffix=".log")
    os.close(descriptor)
    return Path(log)


def _check_address(host: str, port: int) -> str:
    """Return the address that a host name stands for, after checking that a server can listen on it.

    Raises:
        UserError: it cannot.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise UserError(
            f"The server cannot listen on {host}:{port} ({error.strerror or error}). Give another --port or --host."
        ) from None
    return str(address[0])


def _import_deployment() -> Any:
    """Import the module that needs Ray Serve.

    Raises:
        UserError: Ray Serve is not installed.
    """
    try:
        importlib.import_module("ray.serve")
        return importlib.import_module("toprung.serve.deployment")
    except ImportError as error:
        raise UserError(f"Ray Serve is not installed ({error}). Type: pip install 'ray[serve]'") from None
