"""Serve an exported model with uvicorn and onnxruntime alone: python -m toprung.serve.uvicorn_server FOLDER."""

from __future__ import annotations

import argparse
import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import uvicorn
from fastapi import FastAPI
from numpy.typing import NDArray

from toprung.export.predictor import Predictor
from toprung.serve.api import Limits, build_api

DRAIN_SECONDS = 30


def build_app(folder: Path, *, name: str, num_threads: int, limits: Limits) -> FastAPI:
    """Build an application that classifies one image after another.

    Args:
        folder: the exported model.
        name: the model's name.
        num_threads: threads of the CPU.
        limits: what to refuse.
    """
    predictor = Predictor(folder, backend="onnxruntime", num_threads=num_threads)
    pool = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def classify(image_CHW: NDArray[np.uint8]) -> NDArray[np.float32]:
        loop = asyncio.get_running_loop()
        probabilities_1K: NDArray[np.float32] = await loop.run_in_executor(
            pool, predictor.predict_probabilities, image_CHW[np.newaxis]
        )
        probabilities_K: NDArray[np.float32] = probabilities_1K[0]
        return probabilities_K

    return build_api(predictor, classify, name=name, num_threads=num_threads, limits=limits)


def main() -> None:
    """Serve until SIGINT or SIGTERM, then finish the requests that have begun."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the exported model")
    parser.add_argument("--name", help="the name to show (default: that of the folder)")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=1, help="threads of the CPU")
    for limit, field in Limits.model_fields.items():
        option = f"--{limit.replace('_', '-')}"
        parser.add_argument(option, type=type(field.default), default=field.default, help=field.description)
    arguments = parser.parse_args()
    try:
        app = build_app(
            arguments.folder,
            name=arguments.name or arguments.folder.name,
            num_threads=arguments.threads,
            limits=Limits(**{limit: getattr(arguments, limit) for limit in Limits.model_fields}),
        )
    except ValueError as error:  # a damaged model, or a limit that is not allowed
        parser.error(str(error))
    uvicorn.run(
        app,
        host=arguments.host,
        port=arguments.port,
        log_level="warning",
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )


if __name__ == "__main__":
    main()
