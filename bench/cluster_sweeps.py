"""The parts of bench/cluster.py with real training: throughput, time to the first step, and the loss of a node."""

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import overhead
from raylets import raylets

BARE = Path(__file__).resolve().parent / "cluster_torchrun.py"
EPOCHS = 9  # the recipe's max_epochs; here every trial trains that long


def nodes(folder, options):
    """Run the same sweep on one node with two CPUs, and on two nodes with one CPU."""
    project, rounds = overhead.create_project(folder / "project", options), []
    for number in range(options.runs):
        variants = {}
        for variant, num_cpus in (("one node with 2 CPUs", [2]), ("two nodes with 1 CPU", [1, 1])):
            log = project / f"{number}-{len(num_cpus)}.jsonl"
            with raylets(num_cpus, log=log) as cluster:
                started = time.time()
                toprung(project, "sweep", "tune.overhead", "--address", cluster.address)
            variants[variant] = throughput(log, started, images=options.images)
            print(f"run {number + 1}, {variant}: {json.dumps(variants[variant])}", flush=True)
        rounds.append(variants)
    return rounds


def workers(folder, options):
    """Run trials with two workers one after another on a private Ray, and the same trainings with only `torchrun`."""
    project, rounds = overhead.create_project(folder / "project", options), []
    settings = ("resources.workers=2", "max_concurrent_trials=1", f"asha.grace_epochs={EPOCHS}")
    for number in range(options.runs):
        log, bare_log, variants = project / f"{number}-workers.jsonl", project / f"{number}-torchrun.jsonl", {}
        started = time.time()
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(BARE)]
        command += [str(word) for word in (project, options.data, options.images, options.trials, EPOCHS)]
        environment = {**os.environ, "TOPRUNG_BENCH_LOG": str(bare_log), "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=project, env=environment, check=True)
        variants["torchrun"] = throughput(bare_log, started, images=options.images, world_size=2)
        os.environ["TOPRUNG_BENCH_LOG"] = str(log)
        started = time.time()
        toprung(project, "sweep", "tune.overhead", *flags(*settings))
        variants["toprung, two workers per trial"] = throughput(log, started, images=options.images, world_size=2)
        rounds.append(variants)
        print(f"run {number + 1}: {json.dumps(variants)}", flush=True)
    return rounds


def submit(folder, options):
    """Measure the seconds from the command to the first step, as a job and with a local driver."""
    project, rounds = overhead.create_project(folder / "project", options), []
    few = flags("num_trials=2", "asha.max_epochs=1", "asha.grace_epochs=1", "data.max_train=1000")
    log = project / "log.jsonl"
    with raylets([2], log=log, dashboard=True) as cluster:
        local = ("sweep", "tune.overhead", "--address", cluster.address)
        job = ("submit", "tune.overhead", "--address", cluster.dashboard, "--storage", str(folder / "shared"))
        job += ("--data", str(project / "data" / "prepared"))
        for number in range(options.runs):
            variants = {}
            for variant, words in (("toprung sweep --address", local), ("toprung submit", job)):
                log.unlink(missing_ok=True)
                started = time.time()
                toprung(project, *words, *few)
                variants[variant] = {"seconds to the first step": first_step(log) - started}
            rounds.append(variants)
            print(f"run {number + 1}: {json.dumps(variants)}", flush=True)
    return rounds


def recovery(folder, options):
    """Kill one of two nodes, and measure how long it takes until its trial reports the next epoch on another node."""
    project, rounds = overhead.create_project(folder / "project", options), []
    settings = ("num_trials=2", "asha.max_epochs=40", "asha.grace_epochs=40", "max_concurrent_trials=2")
    for number in range(options.runs):
        log = project / f"{number}.jsonl"
        with raylets([1], log=log) as cluster:
            lost = cluster.start(1)
            command = (sys.executable, "-m", "toprung", "sweep", "tune.overhead", "--address", cluster.address)
            with (project / "output.log").open("w", encoding="utf-8") as output:
                sweep = subprocess.Popen([*command, *flags(*settings)], cwd=project, stdout=output, stderr=output)
            wait_for(lambda log=log: len(epochs_by_trial(log)) == 2 and min(epochs_by_trial(log).values()) >= 3, sweep)
            cluster.start(1)  # a node for the trial to restart on
            killed = time.time()
            cluster.kill(lost)
            if sweep.wait(timeout=600):
                sys.exit((project / "output.log").read_text(encoding="utf-8")[-3000:])
        rounds.append({"one of two nodes": longest_gap(overhead.latest(project), since=killed)})
        print(f"run {number + 1}: {json.dumps(rounds[-1])}", flush=True)
    return rounds


def toprung(project, *words):
    """Run a `toprung` command, and exit if it fails."""
    command = [sys.executable, "-m", "toprung", *map(str, words)]
    result = subprocess.run(command, cwd=project, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if result.returncode != 0:
        output = result.stdout[-2000:] + result.stderr[-2000:]
        sys.exit(f"{' '.join(command)} ended with {result.returncode}:\n{output}")


def flags(*settings):
    return [word for setting in settings for word in ("--set", setting)]


def throughput(log, started, *, images, world_size=1):
    """Compute figures from the logged times, for two cores. Each worker of a trial logs its own lines."""
    epochs = read_log(log)
    first, last = min(epoch["start"] for epoch in epochs), max(epoch["end"] for epoch in epochs)
    return {
        "training share": sum(epoch["cpu"] for epoch in epochs) / (2 * (last - first)),
        "images per second": images * len(epochs) / world_size / (last - first),
        "images per CPU second in the loops": images * len(epochs) / world_size / sum(epoch["cpu"] for epoch in epochs),
        "seconds to the first step": first - started,
    }


def read_log(log):
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []


def first_step(log):
    return min(epoch["start"] for epoch in read_log(log))


def epochs_by_trial(log):
    """Return the number of reported epochs of each trial."""
    return Counter(epoch["trial"] for epoch in read_log(log))


def longest_gap(folder, *, since):
    """Return the longest time between two reports of a trial after `since`, and the usual time of an epoch."""
    from toprung.records.ledger import read
    from toprung.records.sweep_dir import SweepDirectory

    gaps = []
    for trial in read(SweepDirectory(folder)):
        times = sorted(epoch.time_ms / 1000 for epoch in trial.epochs_by_number.values())
        gaps += [[after - before for before, after in itertools.pairwise(times) if after > since]]
    return {
        "seconds without a report": max(map(max, gaps)),
        "seconds per epoch": statistics.median(itertools.chain.from_iterable(gaps)),
    }


def wait_for(condition, process):
    deadline = time.monotonic() + 300
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit("the sweep ended, or did not reach the expected state within five minutes")
        time.sleep(0.1)
