"""An exported model as a Ray Serve application: replicas that classify images in batches.

On a running cluster, deploy it by a config file of Ray Serve with the import path
`toprung.serve.deployment:build_application` and `ServeOptions` as its `args`; see clusters/serve.yaml.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from toprung import cluster
from toprung.cluster.capacity import OBJECT_STORE, Node
from toprung.cluster.ray_processes import bind_replica_to_loopback
from toprung.errors import UserError, pluralize
from toprung.export.predictor import Predictor
from toprung.serve.api import METRICS_FOLDER_VARIABLE, Limits, build_api
from toprung.sweep.signals import stop_signals

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application

APPLICATION = "toprung"
LOGGING = {"log_level": "WARNING", "enable_access_log": False}
EXTRA_ONGOING_REQUESTS = 100  # that a replica refuses, or answers with its health or metrics, beyond its queue
OBJECT_STORE_BYTES = 256 * 2**20  # images travel inside the requests, not through the object store


class ServeOptions(BaseModel):
    """How to serve a model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Path = Field(description="folder of the exported model; every node must be able to read it")
    name: str = Field("", description="name to show; by default, that of the folder")
    num_replicas: int = Field(1, ge=1, description="processes, each with its own copy of the model")
    num_threads: int = Field(1, ge=1, description="CPU threads of each replica")
    num_gpus: float = Field(0, ge=0, description="GPUs of each replica; with any, torch runs the model")
    max_batch_size: int = Field(32, ge=1, description="images that are classified together")
    batch_wait_seconds: float = Field(0.002, ge=0, description="how long a batch waits for more images")
    drain_seconds: float = Field(30, ge=0, description="how long a replica that stops may finish its requests")
    limits: Limits = Limits()


def build_application(options: ServeOptions | Mapping[str, Any]) -> Application:
    """Return the Ray Serve application of an exported model.

    Args:
        options: how to serve it; a config file of Ray Serve has them as a mapping.
    """
    return _build_application(ServeOptions.model_validate(options), environment={}, is_private=False)


def serve_until_stopped(
    options: ServeOptions, *, host: str, port: int, on_ready: Callable[[], object], on_stop: Callable[[], object]
) -> None:
    """Serve a model with a private Ray until SIGINT or SIGTERM, then finish the requests in progress.

    Args:
        options: what to serve, and how.
        host: the address to listen on.
        port: the port.
        on_ready: called when the server answers.
        on_stop: called when the signal has arrived.

    Raises:
        UserError: there are not enough GPUs, Ray does not start, or the model cannot be served.
    """
    _, num_gpus = cluster.local_capacity()
    if options.num_gpus and options.num_replicas > _max_replicas(num_gpus, options.num_gpus):
        raise UserError(
            f"{pluralize(options.num_replicas, 'replica')} with --gpus {options.num_gpus:g} need more than the "
            f"{pluralize(num_gpus, 'GPU')} of this machine."
        )
    capacity = {
        "CPU": float(options.num_replicas * options.num_threads),
        "GPU": num_gpus,
        OBJECT_STORE: float(OBJECT_STORE_BYTES),
    }
    with tempfile.TemporaryDirectory(prefix="toprung-serve-") as metrics_folder:
        environment = {METRICS_FOLDER_VARIABLE: metrics_folder}
        ray = cluster.LocalCluster(code=None, node=Node("", "this machine", capacity, {}))
        try:
            ray.wait()
            from ray import serve

            try:
                serve.start(http_options=serve.HTTPOptions(host=host, port=port), logging_config=LOGGING)
                application = _build_application(options, environment=environment, is_private=True)
                serve.run(application, name=APPLICATION, route_prefix="/")
            except RuntimeError as error:
                raise UserError(f"{options.model} cannot be served: {str(error).strip().splitlines()[-1]}") from error
            stopped = threading.Event()
            with stop_signals(stopped.set):  # only now, because Ray installs its own handler of SIGTERM
                on_ready()
                stopped.wait()
                on_stop()
                serve.delete(APPLICATION)  # waits until the requests in progress are answered
        finally:
            ray.stop()


def _max_replicas(num_gpus: float, gpus_each: float) -> int:
    """Return how many replicas can be placed: several may share a GPU, but none gets parts of two."""
    return int(num_gpus) * int(1 / gpus_each) if gpus_each <= 1 else int(num_gpus // gpus_each)


def _build_application(options: ServeOptions, *, environment: dict[str, str], is_private: bool) -> Application:
    from ray import serve

    ingress = serve.ingress(lambda: _build_api(options, is_private=is_private))()
    deployment = serve.deployment(
        name="model",
        num_replicas=options.num_replicas,
        ray_actor_options={
            "num_cpus": options.num_threads,
            "num_gpus": options.num_gpus,
            "runtime_env": {"env_vars": environment},
        },
        # The application refuses what is too much for one replica with 429; Ray Serve with 503, for all together.
        max_ongoing_requests=options.limits.max_queue + EXTRA_ONGOING_REQUESTS,
        max_queued_requests=options.limits.max_queue + EXTRA_ONGOING_REQUESTS,
        graceful_shutdown_timeout_s=options.drain_seconds,
        graceful_shutdown_wait_loop_s=0.1,
        logging_config=LOGGING,
    )
    application: Application = deployment(ingress).bind()
    return application


def _build_api(options: ServeOptions, *, is_private: bool) -> FastAPI:
    """Build the HTTP interface inside a replica."""
    from ray import serve

    if is_private:
        bind_replica_to_loopback()
    predictor = Predictor(options.model, backend="torch" if options.num_gpus else None, num_threads=options.num_threads)

    max_batch_size = min(options.max_batch_size, options.limits.max_queue)

    @serve.batch(max_batch_size=max_batch_size, batch_wait_timeout_s=options.batch_wait_seconds)
    async def classify(images: list[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        return list(await asyncio.to_thread(predictor.predict_probabilities, np.stack(images)))

    return build_api(
        predictor,
        classify,
        name=options.name or options.model.name,
        num_threads=options.num_threads,
        limits=options.limits,
    )
