"""Measure `toprung predict` beside a hand-written onnxruntime loop and a torch loop.

    python bench/predict.py MODEL --images 5000 --runs 3

MODEL is the folder of an exported model for RGB photographs. The images are JPEG files of 640 x 480 pixels, cut from
scikit-learn's two photographs. Each run classifies all of them in each lane, in fresh processes, one after another:

toprung predict          `toprung predict MODEL FOLDER --csv`, with onnxruntime
hand-written             onnxruntime and a pool of threads that decode, in 25 lines, without any check
toprung predict, torch   the same command with `--backend torch`

The output has for each lane the median (minimum to maximum) of images a second, CPU seconds and peak memory, with the
start of the process; images a second are also given without it, from a run on one image.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from sklearn.datasets import load_sample_images

HAND_WRITTEN = """
import json, runpy, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np, onnxruntime

folder, images = Path(sys.argv[1]), sorted(Path(sys.argv[2]).iterdir())
read_image = runpy.run_path(sys.argv[3])["read_image"]
preprocessor = json.loads((folder / "preprocessor.json").read_text())
classes = json.loads((folder / "labels.json").read_text())["classes"]
session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
with ThreadPoolExecutor(2) as pool:
    starts = range(0, len(images), 32)
    submit = lambda start: [pool.submit(read_image, path, preprocessor) for path in images[start : start + 32]]
    ahead = [submit(start) for start in starts[:4]]
    for index, start in enumerate(starts):
        batch = np.stack([future.result() for future in ahead.pop(0)])
        if index + 4 < len(starts):
            ahead.append(submit(starts[index + 4]))
        (probabilities,) = session.run(None, {"images": batch})
        for path, row in zip(images[start : start + 32], probabilities):
            best = row.argmax()
            print(path, classes[best], row[best], sep=",")
"""
POLL_SECONDS = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images, one = Path(folder, "images"), Path(folder, "one")
        write_images(images, num=arguments.images)
        write_images(one, num=1)
        script = Path(folder, "hand_written.py")
        script.write_text(HAND_WRITTEN, encoding="utf-8")
        from toprung.export.formats import SNIPPET

        command = [sys.executable, "-m", "toprung", "predict", str(arguments.model), "{}", "--csv"]
        lanes = {
            "toprung predict": command,
            "hand-written": [sys.executable, str(script), str(arguments.model), "{}", str(SNIPPET)],
            "toprung predict, torch": [*command, "--backend", "torch"],
        }
        figures: dict[str, list[tuple[float, float, float, float]]] = {lane: [] for lane in lanes}
        for run in range(arguments.runs):
            for lane, words in lanes.items():
                start_seconds, *_ = measure([word.format(one) for word in words])
                seconds, cpu_seconds, peak = measure([word.format(images) for word in words])
                figures[lane].append(
                    (arguments.images / seconds, arguments.images / (seconds - start_seconds), cpu_seconds, peak)
                )
                print(f"run {run + 1}, {lane}: {figures[lane][-1]}", flush=True)
    print(f"\n{arguments.images} JPEG files of 640 x 480, {arguments.runs} interleaved runs")
    print("| lane | images/s | images/s without the start | CPU seconds | peak memory in GB |")
    print("| --- | --- | --- | --- | --- |")
    for lane, rows in figures.items():
        cells = (
            f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"
            for values in zip(*rows, strict=True)
        )
        print(f"| {lane} | {' | '.join(cells)} |")


def write_images(folder: Path, *, num: int) -> None:
    """Write JPEG files of 640 x 480 pixels: random cuts of two photographs."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    photos = [np.pad(photo, ((0, 120), (0, 120), (0, 0)), mode="reflect") for photo in load_sample_images().images]
    for index in range(num):
        photo = photos[index % len(photos)]
        top, left = generator.integers(0, photo.shape[0] - 480), generator.integers(0, photo.shape[1] - 640)
        cut = photo[top : top + 480, left : left + 640]
        Image.fromarray(cut).save(folder / f"{index:05d}.jpg", quality=90)


def measure(command: list[str]) -> tuple[float, float, float]:
    """Run a command; return its seconds, its CPU seconds and the peak of its memory (RSS) in GB."""
    start = time.perf_counter()
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    peak, cpu_seconds = 0, 0.0
    while process.poll() is None:
        try:
            peak = max(peak, process.memory_info().rss)
            times = process.cpu_times()
            cpu_seconds = times.user + times.system
        except psutil.NoSuchProcess:
            break
        time.sleep(POLL_SECONDS)
    if process.wait() != 0:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - start, cpu_seconds, peak / 1e9


if __name__ == "__main__":
    main()
