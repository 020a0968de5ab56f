"""The HTTP interface of an exported model, the same for Ray Serve and for a plain server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse
from numpy.typing import NDArray
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import ClientDisconnect

from toprung.data.image_folder.decode import MAX_PIXELS, Unreadable
from toprung.export.predictor import Predictor

METRICS_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client adds up the metrics of several processes
PAGE = Path(__file__).with_name("page.html")
RETRY_AFTER_SECONDS = 1


class Limits(BaseModel):
    """What a server refuses."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_body_bytes: int = Field(20 * 2**20, ge=1, description="a larger body is refused with 413")
    max_pixels: int = Field(
        50_000_000, ge=1, le=MAX_PIXELS, description="an image with more pixels is refused with 422"
    )
    max_queue: int = Field(64, ge=1, description="beyond this number of requests, others are refused with 429")
    body_timeout_seconds: float = Field(
        30.0, gt=0, description="a body that takes longer to arrive is refused with 408"
    )


class Label(BaseModel):
    """A class and its probability."""

    label: str
    probability: float


class Prediction(BaseModel):
    """The most probable classes of an image, the most probable first."""

    predictions: list[Label]


class Health(BaseModel):
    """The model that is served."""

    status: str = "ok"
    model: str
    classes: list[str]
    image_shape: list[int] = Field(description="C, H, W of the model's input, to which each image is fitted")


class Metrics:
    """Prometheus metrics of one process, or of all processes that share the folder in `METRICS_FOLDER_VARIABLE`."""

    def __init__(self) -> None:
        """Create metrics in a registry of their own."""
        registry = CollectorRegistry()
        self.requests = Counter("toprung_requests", "Requests by status.", ["status"], registry=registry)
        self.seconds = Histogram(
            "toprung_request_seconds", "Duration of requests, after their body has arrived.", registry=registry
        )
        self.in_progress = Gauge(
            "toprung_requests_in_progress", "Requests in progress.", registry=registry, multiprocess_mode="livesum"
        )
        self._registry = registry

    def text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        if METRICS_FOLDER_VARIABLE not in os.environ:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


def build_api(
    predictor: Predictor,
    classify: Callable[[NDArray[np.uint8]], Awaitable[NDArray[np.float32]]],
    *,
    name: str,
    num_threads: int,
    limits: Limits,
) -> FastAPI:
    """Build the application: `POST /predict`, `GET /health`, `/metrics`, `/docs`, and a page to drop an image on.

    Args:
        predictor: the exported model.
        classify: returns the probabilities of one image, uint8, C x H x W.
        name: the model's name.
        num_threads: images that are decoded at the same time.
        limits: what to refuse.
    """
    api = FastAPI(title=name, description="Classifies images. Send an image file as the body of POST /predict.")
    metrics = Metrics()
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="decode")
    num_in_progress = 0

    @asynccontextmanager
    async def admitted() -> AsyncIterator[None]:
        """Count a request, or refuse it if there are too many."""
        nonlocal num_in_progress
        if num_in_progress >= limits.max_queue:
            raise HTTPException(
                429, f"{num_in_progress} requests are waiting. Try again.", {"Retry-After": str(RETRY_AFTER_SECONDS)}
            )
        num_in_progress += 1
        try:
            with metrics.in_progress.track_inprogress():
                yield
        finally:
            num_in_progress -= 1

    @api.middleware("http")
    async def count_requests(request: Request, call_next: Any) -> Response:
        status = 500  # an exception that the application does not handle
        try:
            response: Response = await call_next(request)
            status = response.status_code
            return response
        finally:
            if request.url.path == "/predict":
                metrics.requests.labels(status=status).inc()

    @api.post("/predict", openapi_extra={"requestBody": {"content": {"image/*": {}}, "required": True}})
    async def predict(request: Request, top: Annotated[int, Query(ge=1)] = 1) -> Prediction:
        """Return the most probable classes of the image in the body."""
        async with admitted():
            content = await read_body(request, limits)
            with metrics.seconds.time():
                read_image = partial(predictor.read_image, content, max_pixels=limits.max_pixels)
                try:
                    image_CHW = await asyncio.get_running_loop().run_in_executor(pool, read_image)
                except Unreadable as error:
                    raise HTTPException(422, f"The body {error}.") from None
                labels = predictor.rank_labels(await classify(image_CHW), top=top)
        return Prediction(predictions=[Label(label=label.name, probability=label.probability) for label in labels])

    @api.get("/health")
    async def health() -> Health:
        """Return the model's name, classes and input."""
        return Health(model=name, classes=predictor.classes, image_shape=list(predictor.image_shape))

    @api.get("/metrics", include_in_schema=False)
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @api.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE)

    return api


async def read_body(request: Request, limits: Limits) -> bytes:
    """Read a request's body.

    Raises:
        HTTPException: it is too large (413), empty (422), too slow (408), or the client closed the connection (400).
    """
    too_large = HTTPException(413, f"The body is larger than {limits.max_body_bytes:,} bytes.")
    # The server that runs the application has checked that the header is a number.
    if int(request.headers.get("Content-Length", 0)) > limits.max_body_bytes:
        raise too_large
    content = bytearray()
    try:
        async with asyncio.timeout(limits.body_timeout_seconds):
            async for chunk in request.stream():
                content += chunk
                if len(content) > limits.max_body_bytes:
                    raise too_large
    except TimeoutError:
        raise HTTPException(408, f"The body took longer than {limits.body_timeout_seconds:g} s.") from None
    except ClientDisconnect:
        raise HTTPException(400, "The client closed the connection.") from None
    if not content:
        raise HTTPException(422, "The body is empty. Send an image file.")
    return bytes(content)
