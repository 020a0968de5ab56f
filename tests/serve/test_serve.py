"""`toprung serve` with Ray Serve: it answers as `toprung predict` does, and refuses bad input."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from toprung.export.predict import predict_files
from toprung.export.predictor import Predictor

START_SECONDS = 120


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def request(url, content=None):
    """Return the status and the content of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=content), timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def start(folder, *arguments):
    port = free_port()
    command = [sys.executable, "-m", "toprung", "serve", str(folder), "--port", str(port), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if request(f"{url}/health")[0] == 200:
                return SimpleNamespace(process=process, url=url, port=port)
        except OSError:
            time.sleep(0.2)
    process.kill()
    raise AssertionError(process.communicate()[0])


@pytest.fixture(scope="module")
def server(photo_bundle):
    started = start(photo_bundle.folder, "--max-body", "1")
    yield started
    started.process.send_signal(signal.SIGTERM)
    assert started.process.wait(timeout=60) == 0


@pytest.fixture(scope="module")
def files(photo_bundle):
    return sorted(str(path) for path in (photo_bundle.data_root / "raw" / "photos").rglob("*") if path.is_file())


def test_the_server_answers_as_predict_does_also_in_batches(server, photo_bundle, files):
    def classify(path):
        status, content = request(f"{server.url}/predict?top=3", Path(path).read_bytes())
        assert status == 200, content
        return [(label["label"], label["probability"]) for label in json.loads(content)["predictions"]]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(classify, files))
    expected = predict_files(Predictor(photo_bundle.folder), files, top=3)
    for answer, prediction in zip(answers, expected, strict=True):
        assert [name for name, _ in answer] == [label.name for label in prediction.labels]
        assert [value for _, value in answer] == pytest.approx(
            [label.probability for label in prediction.labels], abs=1e-5
        )


def test_a_bad_body_is_refused_with_the_reason(server):
    assert request(f"{server.url}/predict", b"text") == (
        422, b'{"detail":"The body is not a PNG, JPEG, WebP, BMP or TIFF image."}'
    )  # fmt: skip
    status, content = request(f"{server.url}/predict", b"x" * (2**20 + 1))
    assert status == 413, content


def test_the_server_listens_on_loopback_only(server):
    address = socket.gethostbyname(socket.gethostname())
    if address.startswith("127."):
        pytest.skip("this machine has no other address")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address, server.port), timeout=5)
