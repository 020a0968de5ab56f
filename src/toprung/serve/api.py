"""The HTTP interface of an exported model. It imports neither toprung nor torch, so that a plain server can use it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse
from numpy.typing import NDArray
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import BaseModel, Field

PAGE = Path(__file__).with_name("page.html")
RETRY_AFTER_SECONDS = 1


@dataclass(frozen=True)
class Limits:
    """What a server refuses.

    Attributes:
        max_body_bytes: a larger body is refused with 413.
        max_queue: beyond this number of requests at a time, others are refused with 429.
    """

    max_body_bytes: int = 20 * 2**20
    max_queue: int = 128


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
    """Prometheus metrics of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("toprung_requests", "Requests by status.", ["status"], registry=self.registry)
        self.seconds = Histogram("toprung_request_seconds", "Duration of answered requests.", registry=self.registry)
        self.in_progress = Gauge("toprung_requests_in_progress", "Requests in progress.", registry=self.registry)


def build_api(
    decode: Callable[[bytes], NDArray[np.uint8]],
    classify: Callable[[NDArray[np.uint8]], Awaitable[NDArray[np.float32]]],
    *,
    name: str,
    classes: Sequence[str],
    image_shape: Sequence[int],
    limits: Limits,
) -> FastAPI:
    """Build the application: `POST /predict`, `GET /health`, `/metrics`, `/docs`, and a page to drop an image on.

    Args:
        decode: reads an image file's content as uint8, C x H x W; raises ValueError with the reason if it cannot.
        classify: returns the probabilities of one image.
        name: the model's name.
        classes: the names of the classes.
        image_shape: C, H, W.
        limits: what to refuse.
    """
    api = FastAPI(title=name, description="Classifies images. Send an image file as the body of POST /predict.")
    metrics = Metrics()
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
            with metrics.in_progress.track_inprogress(), metrics.seconds.time():
                yield
        finally:
            num_in_progress -= 1

    @api.middleware("http")
    async def count(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        if request.url.path == "/predict":
            metrics.requests.labels(status=response.status_code).inc()
        return response

    @api.post("/predict", openapi_extra={"requestBody": {"content": {"image/*": {}}, "required": True}})
    async def predict(request: Request, top: Annotated[int, Query(ge=1)] = 1) -> Prediction:
        """Return the most probable classes of the image in the body."""
        async with admitted():
            content = await read_body(request, max_bytes=limits.max_body_bytes)
            try:
                image_CHW = await asyncio.to_thread(decode, content)
            except ValueError as error:
                raise HTTPException(422, f"The body {error}.") from None
            probabilities_K = await classify(image_CHW)
        order = np.argsort(-probabilities_K, kind="stable")[:top]
        return Prediction(
            predictions=[Label(label=classes[index], probability=float(probabilities_K[index])) for index in order]
        )

    @api.get("/health")
    async def health() -> Health:
        """Return the model's name, classes and input."""
        return Health(model=name, classes=list(classes), image_shape=list(image_shape))

    @api.get("/metrics", include_in_schema=False)
    async def prometheus() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @api.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"))

    return api


async def read_body(request: Request, *, max_bytes: int) -> bytes:
    """Read a request's body, but never more than `max_bytes`.

    Raises:
        HTTPException: it is larger (413) or empty (422).
    """
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > max_bytes:
            raise HTTPException(413, f"The body is larger than {max_bytes:,} bytes.")
    if not content:
        raise HTTPException(422, "The body is empty. Send an image file.")
    return bytes(content)
