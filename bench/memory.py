"""The memory of one dataset for ten trials on one node: what all processes of a sweep hold of it, counted once a page.

    python bench/memory.py [--data fashion_mnist] [--trials 10] [--json FILE]

A sweep of trainers.convnet with all its trials at a time, once with the images in shared memory and once mapped from
disk. When every trial has trained for an epoch, the maps of every process in the sweep's tree are read: PSS (a page
that ten processes share counts a tenth in each, so that the sum counts it once) and RSS (which counts it ten times), of
the images and of everything else in the trials' processes.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import figures
import psutil

from toprung import data
from toprung.cluster import local_capacity
from toprung.directory import TRIAL_LOCK_FILE

RECIPE = '''"""The sweep that bench/memory.py measures."""

from toprung.spec import Asha, Data, Resources, Sweep


def sweep() -> Sweep:
    return Sweep(
        name="memory",
        trainer="trainers.convnet",
        space="search_spaces.convnet",
        constants={{"width": 4, "depth": 1, "batch_size": 128}},
        data=Data(name="{data}", placement="{placement}"),
        num_trials={trials},
        asha=Asha(grace_epochs=30, max_epochs=30),
        resources=Resources(cpus={cpus}),
    )
'''
IMAGES = {"shared": "plasma", "mapped": "train_images.npy"}
LONGEST_WAIT_SECONDS = 600


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion_mnist", help="a prepared dataset")
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = {}
    for placement in IMAGES:
        with tempfile.TemporaryDirectory() as folder:
            found[placement] = measure(workbench(Path(folder), placement, options), placement, options.trials)
        print(f"images {placement}, {options.trials} trials at a time, MB:", flush=True)
        for what, megabytes in found[placement].items():
            print(f"  {what:50}{megabytes:>10.1f}", flush=True)
    figures.write(options.json, found)


def workbench(project, placement, options):
    for name in ("trainers", "search_spaces", "tune"):
        shutil.copytree(figures.PROJECT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    (project / data.PREPARED).mkdir(parents=True)
    (project / data.PREPARED / options.data).symlink_to(figures.PROJECT / data.PREPARED / options.data)
    cpus = int(local_capacity()[0] / options.trials * 10_000) / 10_000  # Ray counts in ten-thousandths
    recipe = RECIPE.format(data=options.data, placement=placement, trials=options.trials, cpus=cpus)
    (project / "tune" / "memory.py").write_text(recipe)
    return project


def measure(project, placement, num_trials):
    """Megabytes, when every trial has a checkpoint."""
    command = [sys.executable, "-m", "toprung", "sweep", "tune.memory"]
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    process = subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + LONGEST_WAIT_SECONDS
        while len(list(project.glob("runs/memory-*/trials/*/last.pth"))) < num_trials:
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{num_trials} trials did not run at a time; the sweep ended with {process.returncode}")
            time.sleep(0.2)
        return count(psutil.Process(process.pid).children(recursive=True), placement, num_trials)
    finally:
        process.terminate()
        process.wait()


def count(processes, placement, num_trials):
    trials = [process for process in processes if trains(process)]
    if len(trials) != num_trials:
        sys.exit(f"{len(trials)} processes train, not {num_trials}")
    of_images, of_trials = [], []
    for process in processes:
        try:
            maps = process.memory_maps(grouped=True)
        except psutil.NoSuchProcess:
            continue
        images = [each for each in maps if IMAGES[placement] in each.path]
        of_images += images
        if process in trials:
            of_trials += [each for each in maps if each not in images]
    megabyte = 1e6
    return {
        "images, PSS of all processes": sum(each.pss for each in of_images) / megabyte,
        "images, RSS of all processes": sum(each.rss for each in of_images) / megabyte,
        "a trial's process without the images, PSS": sum(each.pss for each in of_trials) / num_trials / megabyte,
    }


def trains(process):
    try:
        return any(Path(file.path).name == TRIAL_LOCK_FILE for file in process.open_files())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


if __name__ == "__main__":
    main()
