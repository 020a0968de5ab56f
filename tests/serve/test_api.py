"""The HTTP interface: what it answers, and what it refuses."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from starlette.testclient import TestClient

from tests.servers import wait_until
from toprung.data.image_folder.decode import Unreadable
from toprung.export.predictor import Label
from toprung.serve.api import Limits, build_api


class Predictor:
    """A stand-in with the interface of `toprung.export.predictor.Predictor`."""

    classes = ("blue", "green", "red")
    image_shape = (3, 2, 2)

    def read_image(self, source, *, max_pixels):
        if source == b"text":
            raise Unreadable("is not an image")
        return np.full(self.image_shape, len(source), dtype=np.uint8)

    def rank_labels(self, probabilities_K, *, top):
        order = np.argsort(-probabilities_K)[:top]
        return [Label(self.classes[index], float(probabilities_K[index])) for index in order]


async def classify(image_CHW):
    return np.array([0.1, 0.2, 0.7], dtype=np.float32)


def client(*, classify=classify, **limits):
    api = build_api(Predictor(), classify, name="colors", num_threads=1, limits=Limits(**limits))
    return TestClient(api)


def test_an_image_in_the_body_is_answered_with_the_most_probable_classes():
    answer = client().post("/predict?top=2", content=b"image")
    assert answer.status_code == 200
    assert [label["label"] for label in answer.json()["predictions"]] == ["red", "green"]
    assert answer.json()["predictions"][0]["probability"] == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("content", "status", "detail"),
    [
        (b"", 422, "The body is empty. Send an image file."),
        (b"text", 422, "The body is not an image."),
        (b"x" * 101, 413, "The body is larger than 100 bytes."),
    ],
)
def test_a_body_that_cannot_be_classified_is_refused_with_the_reason(content, status, detail):
    answer = client(max_body_bytes=100).post("/predict", content=content)
    assert (answer.status_code, answer.json()["detail"]) == (status, detail)


def test_beyond_the_queue_requests_are_refused_and_the_others_are_answered():
    release = threading.Event()

    async def slow(image_CHW):
        await asyncio.to_thread(release.wait)
        return await classify(image_CHW)

    with client(classify=slow, max_queue=2) as http, ThreadPoolExecutor() as pool:
        waiting = [pool.submit(http.post, "/predict", content=b"image") for _ in range(2)]
        wait_until(lambda: "toprung_requests_in_progress 2.0" in http.get("/metrics").text, "two requests")
        refused = http.post("/predict", content=b"image")
        release.set()
        answers = [future.result() for future in waiting]
        metrics = http.get("/metrics").text
    assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
    assert [answer.status_code for answer in answers] == [200, 200]
    assert 'toprung_requests_total{status="429"} 1.0' in metrics
    assert 'toprung_requests_total{status="200"} 2.0' in metrics


def test_health_openapi_and_the_page():
    http = client()
    assert http.get("/health").json() == {
        "status": "ok", "model": "colors", "classes": list(Predictor.classes), "image_shape": [3, 2, 2]
    }  # fmt: skip
    assert "/predict" in http.get("/openapi.json").json()["paths"]
    assert "Drop an image here" in http.get("/").text
