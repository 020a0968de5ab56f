"""`toprung serve` with Ray Serve: it answers as `toprung predict` does, refuses what is too much, and drains."""

import io
import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from PIL import Image

from tests.browser import chromium, open_page, screenshot
from tests.servers import free_port, is_healthy, wait_until
from toprung.export.predict import predict_files
from toprung.export.predictor import Predictor

START_SECONDS = 120


@pytest.fixture(scope="module")
def server(photo_bundle):
    started = start(photo_bundle.folder, "--max-body", "1", "--replicas", "2")
    yield started
    stop(started)


@pytest.fixture(scope="module")
def files(photo_bundle):
    return sorted(str(path) for path in (photo_bundle.data_root / "raw" / "photos").rglob("*") if path.is_file())


def start(folder, *arguments):
    """Start a server and wait until it answers."""
    port = free_port()
    command = [sys.executable, "-m", "toprung", "serve", str(folder), "--port", str(port), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: process.poll() is not None or is_healthy(url), "the server", timeout_seconds=START_SECONDS)
        assert process.poll() is None
    except AssertionError:
        process.kill()
        raise AssertionError(process.communicate()[0]) from None
    return SimpleNamespace(process=process, url=url, port=port)


def stop(server):
    server.process.send_signal(signal.SIGTERM)
    output = server.process.communicate(timeout=60)[0]
    assert server.process.returncode == 0, output
    return output


def request(url, content=None):
    """Return the status and the content of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data=content), timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def slow_image():
    """Return a small file with so many pixels that it takes the server a while to decode them."""
    content = io.BytesIO()
    Image.new("RGB", (7000, 7000)).save(content, "png")
    return content.getvalue()


def in_progress(server):
    lines = request(f"{server.url}/metrics")[1].decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("toprung_requests_in_progress "))


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


def test_metrics_are_those_of_all_replicas(server, files):
    def count():
        lines = request(f"{server.url}/metrics")[1].decode().splitlines()
        return sum(float(line.split()[1]) for line in lines if line.startswith('toprung_requests_total{status="200"}'))

    before = count()
    for path in files[:20]:
        assert request(f"{server.url}/predict", Path(path).read_bytes())[0] == 200
    assert count() - before == 20


def test_a_bad_body_is_refused_with_the_reason(server):
    assert request(f"{server.url}/predict", b"text") == (
        422, b'{"detail":"The body is not a PNG, JPEG, WebP, BMP or TIFF image."}'
    )  # fmt: skip
    status, content = request(f"{server.url}/predict", b"x" * (2**20 + 1))
    assert status == 413, content


def test_the_server_and_rays_processes_listen_on_loopback_only(server):
    processes = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
    listening = {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert len(processes) > 5
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_a_port_in_use_is_refused(server, photo_bundle):
    command = [sys.executable, "-m", "toprung", "serve", str(photo_bundle.folder), "--port", str(server.port)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert refused.stderr == (
        f"The server cannot listen on 127.0.0.1:{server.port} (Address already in use). "
        "Give another --port or --host.\n"
    )


def test_more_gpus_than_there_are_are_refused(photo_bundle):
    command = [sys.executable, "-m", "toprung", "serve", str(photo_bundle.folder), "--gpus", "64"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "1 replica with --gpus 64 need more than the " in refused.stderr


def test_an_image_dropped_on_the_page_gets_its_label(server, photo_bundle, files):
    (expected,) = predict_files(Predictor(photo_bundle.folder), files[:1])
    with chromium() as browser:
        page = open_page(browser, server.url, width=800, height=700)
        page.set_input_files("#file", files[0])
        page.wait_for_selector("#result tr")
        assert page.locator("#result tr").first.inner_text().startswith(expected.labels[0].name)
        screenshot(page, "serve")
        page.set_input_files("#file", {"name": "notes.png", "mimeType": "image/png", "buffer": b"not an image"})
        page.wait_for_function("document.querySelector('#error').textContent")
        assert page.inner_text("#error") == "The body is not a PNG, JPEG, WebP, BMP or TIFF image."
        assert page.problems == []


def test_beyond_the_queue_requests_get_429_and_sigterm_waits_for_those_in_progress(photo_bundle):
    server = start(photo_bundle.folder, "--max-queue", "2")
    image = slow_image()
    with ThreadPoolExecutor(6) as pool:
        begun = [pool.submit(request, f"{server.url}/predict", image) for _ in range(2)]
        wait_until(lambda: in_progress(server) == 2, "two requests in progress")
        refused = list(pool.map(lambda _: request(f"{server.url}/predict", b"text"), range(4)))
        output = stop(server)
        answers = [future.result() for future in begun]
    assert {status for status, _ in refused} == {429}
    assert [status for status, _ in answers] == [200, 200], answers
    assert "finishing the requests in progress" in output
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), timeout=5)
