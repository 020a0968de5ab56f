"""Measure `toprung serve` under a bounded load, beside plain servers.

    python bench/serve.py MODEL --seconds 20 --runs 3

MODEL is the folder of an exported model for RGB photographs. Eight clients on loopback, each with one connection, send
JPEG files of 640 x 480 pixels, each its next one after the answer. Lanes, each in fresh processes, one after another:

toprung serve               Ray Serve, one replica with one thread
toprung serve, 2 replicas   the same with two replicas
plain server                the server of `toprung serve --docker`: uvicorn and onnxruntime in one process
hand-written                FastAPI, uvicorn and onnxruntime in 20 lines, without limits, metrics and checks

The output has for each lane the median (minimum to maximum) over the runs of requests a second, the median and the 99th
percentile of the time to the answer, the CPU milliseconds of the server for each request, and the memory of its
processes (PSS). The clients share the machine with the server.
"""

import argparse
import contextlib
import http.client
import json
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
from predict import write_images

NUM_CLIENTS = 8
WARM_UP_REQUESTS = 64
START_SECONDS = 120
HAND_WRITTEN = """
import io, json, runpy, sys
from pathlib import Path
import numpy as np, onnxruntime, uvicorn
from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool

folder, snippet, port = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
read_image = runpy.run_path(snippet)["read_image"]
preprocessor = json.loads((folder / "preprocessor.json").read_text())
classes = json.loads((folder / "labels.json").read_text())["classes"]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
app = FastAPI()

def classify(content):
    path = Path("/dev/shm", f"hand-written-{id(content)}")
    path.write_bytes(content)
    image = read_image(path, preprocessor)
    path.unlink()
    (probabilities,) = session.run(None, {"images": image[np.newaxis]})
    best = int(probabilities[0].argmax())
    return {"label": classes[best], "probability": float(probabilities[0, best])}

@app.post("/predict")
async def predict(request: Request):
    return await run_in_threadpool(classify, await request.body())

@app.get("/health")
async def health():
    return {}

uvicorn.run(app, port=port, log_level="warning")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder, "images"), num=200)
        images = [file.read_bytes() for file in sorted(Path(folder, "images").iterdir())]
        script = Path(folder, "hand_written.py")
        script.write_text(HAND_WRITTEN, encoding="utf-8")
        from toprung.export.formats import SNIPPET

        model = str(arguments.model)
        toprung = [sys.executable, "-m", "toprung", "serve", model, "--port", "{port}"]
        lanes = {
            "toprung serve": toprung,
            "toprung serve, 2 replicas": [*toprung, "--replicas", "2"],
            "plain server": [sys.executable, "-m", "toprung.serve.uvicorn_server", model, "--port", "{port}"],
            "hand-written": [sys.executable, str(script), model, str(SNIPPET), "{port}"],
        }
        figures: dict[str, list[dict[str, float]]] = {lane: [] for lane in lanes}
        for run in range(arguments.runs):
            for lane, command in lanes.items():
                with serving(command) as (process, port):
                    figures[lane].append(measure(process, port, images, seconds=arguments.seconds))
                print(f"run {run + 1}, {lane}: {json.dumps(figures[lane][-1])}", flush=True)
    print_table(figures)


@contextlib.contextmanager
def serving(command):
    """Start a server, wait until it answers, and end it afterwards."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    started = time.monotonic()
    process = psutil.Popen([word.format(port=port) for word in command], stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    break
            except OSError:
                time.sleep(0.1)
            if process.poll() is not None or time.monotonic() - started > START_SECONDS:
                sys.exit(f"{' '.join(command)} did not start")
        yield process, port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def measure(process, port, images, *, seconds):
    """Send images with all clients for some seconds, and return the figures."""
    request_all(port, images, until=lambda count: count >= WARM_UP_REQUESTS // NUM_CLIENTS)
    cpu_before, started = cpu_seconds(process), time.monotonic()
    durations = request_all(port, images, until=lambda _: time.monotonic() - started >= seconds)
    elapsed = time.monotonic() - started
    durations.sort()
    return {
        "requests/s": len(durations) / elapsed,
        "p50 in ms": 1000 * statistics.median(durations),
        "p99 in ms": 1000 * durations[int(0.99 * len(durations))],
        "CPU ms per request": 1000 * (cpu_seconds(process) - cpu_before) / len(durations),
        "memory in GB": sum(each.memory_full_info().pss for each in tree(process)) / 1e9,
    }


def request_all(port, images, *, until):
    """Send images with each client until `until(number of its answers)` is true; return the durations in seconds."""
    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        clients = [pool.submit(request_in_turn, port, images[client:], until) for client in range(NUM_CLIENTS)]
        return [duration for client in clients for duration in client.result()]


def request_in_turn(port, images, until):
    connection, durations = http.client.HTTPConnection("127.0.0.1", port, timeout=60), []
    while not until(len(durations)):
        started = time.perf_counter()
        connection.request("POST", "/predict", body=images[len(durations) % len(images)])
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            sys.exit(f"{answer.status}: {content.decode()}")
        durations.append(time.perf_counter() - started)
    return durations


def tree(process):
    return [process, *process.children(recursive=True)]


def cpu_seconds(process):
    return sum(sum(each.cpu_times()[:2]) for each in tree(process))


def print_table(figures):
    names = list(next(iter(figures.values()))[0])
    print(f"\n| lane | {' | '.join(names)} |")
    print(f"| --- {'| --- ' * len(names)}|")
    for lane, runs in figures.items():
        columns = ([run[name] for run in runs] for name in names)
        cells = (f"{statistics.median(column):.3g} ({min(column):.3g} to {max(column):.3g})" for column in columns)
        print(f"| {lane} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
