"""Functions that the benchmarks share: load images, run variants interleaved, print tables and write results.

Times are CPU seconds of this process at one thread, so that other work on the same machine has little effect.
"""

import json
import platform
import statistics
import sys
import time
from pathlib import Path

import torch
import torchvision

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))  # for trainers, which is not installed

from toprung import data, session, vision  # noqa: E402
from toprung.spec import Data  # noqa: E402


def load(dataset, *, max_train, max_val):
    """Load the training and validation images of a prepared dataset, as a trial does."""
    arrays, _ = data.split_arrays(
        Data(name=dataset, max_train=max_train, max_val=max_val), root=PROJECT / data.PREPARED
    )
    train, val = (
        vision.ImageSplit(torch.from_numpy(arrays[f"{part}_images"]), torch.from_numpy(arrays[f"{part}_labels"]))
        for part in ("train", "val")
    )
    return session.TrialData(train, val, data.open_prepared(dataset, root=PROJECT / data.PREPARED).card)


def cpu_seconds(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def interleaved(variants, *, rounds):
    """Run each variant once per round, after a warm-up round, and return the CPU seconds of each run."""
    seconds = {name: [] for name in variants}
    for number in range(-1, rounds):
        for name, work in variants.items():
            spent = cpu_seconds(work)
            if number >= 0:
                seconds[name].append(spent)
    return seconds


def print_table(title, rows, *, digits=0):
    """Print the minimum, median and maximum of each row."""
    print(f"\n{title}")
    print(f"  {'':30}{'min':>10}{'median':>10}{'max':>10}{'n':>5}")
    for name, figures in rows.items():
        spread = (min(figures), statistics.median(figures), max(figures))
        print(f"  {name:30}" + "".join(f"{figure:>10,.{digits}f}" for figure in spread) + f"{len(figures):>5}")


def write(path, figures):
    """Write the figures, the machine and the versions as JSON, if a path is given."""
    if path is None:
        return
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    environment = {
        "command": " ".join(sys.argv),
        "cpu": next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"environment": environment, **figures}, indent=2) + "\n", encoding="utf-8")
