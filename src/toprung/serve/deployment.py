"""An exported model as a Ray Serve application: replicas that classify images in batches."""

from __future__ import annotations

import asyncio
import signal
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from toprung.serve.api import Limits

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application

BATCH_WAIT_SECONDS = 0.005  # how long a batch waits for more images
APPLICATION = "toprung"


@dataclass(frozen=True)
class ServeOptions:
    """How to serve a model.

    Attributes:
        num_replicas: processes, each with its own copy of the model.
        num_threads: threads of the CPU for each replica.
        num_gpus: GPUs of each replica; with one, torch runs the model.
        max_batch_size: images that are classified together.
        drain_seconds: how long a replica that stops may still work on its requests.
        limits: what to refuse.
    """

    num_replicas: int = 1
    num_threads: int = 1
    num_gpus: float = 0
    max_batch_size: int = 32
    drain_seconds: float = 30
    limits: Limits = field(default_factory=Limits)


def build_application(folder: Path, *, name: str, options: ServeOptions) -> Application:
    """Return the Ray Serve application for an exported model.

    Args:
        folder: the exported model, which every node can read.
        name: the name to show.
        options: how to serve it.
    """
    from ray import serve

    def build() -> FastAPI:
        return _build_api(folder, name=name, options=options)

    deployment = serve.deployment(
        serve.ingress(build)(),
        name="model",
        num_replicas=options.num_replicas,
        ray_actor_options={"num_cpus": options.num_threads, "num_gpus": options.num_gpus},
        max_ongoing_requests=2 * options.limits.max_queue,  # the application answers 429 itself
        graceful_shutdown_timeout_s=options.drain_seconds,
    )
    application: Application = deployment.bind()
    return application


def run(folder: Path, *, name: str, host: str, port: int, options: ServeOptions) -> None:
    """Serve a model with a private Ray until SIGINT or SIGTERM, then finish the requests that have begun.

    Args:
        folder: the exported model.
        name: the name to show.
        host: the address to listen on.
        port: the port.
        options: how to serve it.
    """
    import ray
    from ray import serve

    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    ray.init(
        address="local",
        num_cpus=options.num_replicas * options.num_threads + 1,
        include_dashboard=False,
        log_to_driver=False,
    )
    serve.start(http_options=serve.HTTPOptions(host=host, port=port))
    serve.run(build_application(folder, name=name, options=options), name=APPLICATION, route_prefix="/")
    stopped.wait()
    serve.delete(APPLICATION)
    serve.shutdown()
    ray.shutdown()


def _build_api(folder: Path, *, name: str, options: ServeOptions) -> FastAPI:
    """Build the application inside a replica."""
    from ray import serve

    from toprung.data.image_folder.decode import Unreadable, decode
    from toprung.export.predictor import Predictor
    from toprung.serve.api import build_api

    predictor = Predictor(folder, backend="torch" if options.num_gpus else None, num_threads=options.num_threads)

    @serve.batch(max_batch_size=options.max_batch_size, batch_wait_timeout_s=BATCH_WAIT_SECONDS)
    async def classify(images: list[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        return list(await asyncio.to_thread(predictor.predict_probabilities, np.stack(images)))

    def decode_content(content: bytes) -> NDArray[np.uint8]:
        try:
            return decode(content, predictor.decode_options)
        except Unreadable as error:
            raise ValueError(str(error)) from None

    return build_api(
        decode_content,
        classify,
        name=name,
        classes=predictor.classes,
        image_shape=predictor.image_shape,
        limits=options.limits,
    )
