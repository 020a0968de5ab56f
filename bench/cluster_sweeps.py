"""Sweeps that train, on clusters of raylets: their throughput, their first step, and a node that dies under them."""

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import overhead
from raylets import raylets

BARE = Path(__file__).resolve().parent / "cluster_torchrun.py"
EPOCHS = 9  # of the recipe's ladder; here every trial climbs it


def nodes(folder, options):
    """The same sweep on one node of two CPUs, and on two nodes of one."""
    project, rounds = overhead.workbench(folder / "project", options), []
    for number in range(options.runs):
        ways = {}
        for way, num_cpus in (("one node of 2 CPUs", [2]), ("two nodes of 1 CPU", [1, 1])):
            log = project / f"{number}-{len(num_cpus)}.jsonl"
            with raylets(num_cpus, log=log) as cluster:
                started = time.time()
                toprung(project, "sweep", "tune.overhead", "--address", cluster.address)
            ways[way] = throughput(log, started, images=options.images)
            print(f"run {number + 1}, {way}: {json.dumps(ways[way])}", flush=True)
        rounds.append(ways)
    return rounds


def workers(folder, options):
    """Trials of two workers one after another on a private Ray, and the same trainings by `torchrun` alone."""
    project, rounds = overhead.workbench(folder / "project", options), []
    settings = ("resources.workers=2", "max_concurrent_trials=1", f"asha.grace_epochs={EPOCHS}")
    for number in range(options.runs):
        log, bare, ways = project / f"{number}-workers.jsonl", project / f"{number}-torchrun.jsonl", {}
        started = time.time()
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(BARE)]
        command += [str(word) for word in (project, options.data, options.images, options.trials, EPOCHS)]
        environment = {**os.environ, "TOPRUNG_BENCH_LOG": str(bare), "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=project, env=environment, check=True)
        ways["torchrun"] = throughput(bare, started, images=options.images, world_size=2)
        os.environ["TOPRUNG_BENCH_LOG"] = str(log)
        started = time.time()
        toprung(project, "sweep", "tune.overhead", *flags(*settings))
        ways["toprung, two workers a trial"] = throughput(log, started, images=options.images, world_size=2)
        rounds.append(ways)
        print(f"run {number + 1}: {json.dumps(ways)}", flush=True)
    return rounds


def submit(folder, options):
    """Seconds from the command to the first step: as a job, and with the driver here."""
    project, rounds = overhead.workbench(folder / "project", options), []
    few = flags("num_trials=2", "asha.max_epochs=1", "asha.grace_epochs=1", "data.max_train=1000")
    log = project / "log.jsonl"
    with raylets([2], log=log, dashboard=True) as cluster:
        here = ("sweep", "tune.overhead", "--address", cluster.address)
        job = ("submit", "tune.overhead", "--address", cluster.dashboard, "--storage", str(folder / "shared"))
        job += ("--data", str(project / "data" / "prepared"))
        for number in range(options.runs):
            ways = {}
            for way, words in (("toprung sweep --address", here), ("toprung submit", job)):
                log.unlink(missing_ok=True)
                started = time.time()
                toprung(project, *words, *few)
                ways[way] = {"seconds to the first step": first_step(log) - started}
            rounds.append(ways)
            print(f"run {number + 1}: {json.dumps(ways)}", flush=True)
    return rounds


def recovery(folder, options):
    """A node of two dies under a trial: how long that trial is silent, until its next epoch on another node."""
    project, rounds = overhead.workbench(folder / "project", options), []
    settings = ("num_trials=2", "asha.max_epochs=40", "asha.grace_epochs=40", "max_concurrent_trials=2")
    for number in range(options.runs):
        log = project / f"{number}.jsonl"
        with raylets([1], log=log) as cluster:
            lost = cluster.start(1)
            command = (sys.executable, "-m", "toprung", "sweep", "tune.overhead", "--address", cluster.address)
            with (project / "output.log").open("w", encoding="utf-8") as output:
                sweep = subprocess.Popen([*command, *flags(*settings)], cwd=project, stdout=output, stderr=output)
            wait_for(lambda log=log: len(trials_of(log)) == 2 and min(trials_of(log).values()) >= 3, sweep)
            cluster.start(1)  # room for the trial that will be homeless
            killed = time.time()
            cluster.kill(lost)
            if sweep.wait(timeout=600):
                sys.exit((project / "output.log").read_text(encoding="utf-8")[-3000:])
        rounds.append({"a node of two": silence(overhead.latest(project), since=killed)})
        print(f"run {number + 1}: {json.dumps(rounds[-1])}", flush=True)
    return rounds


def toprung(project, *words):
    """A `toprung` command on the cluster, to its end."""
    command = [sys.executable, "-m", "toprung", *map(str, words)]
    ran = subprocess.run(command, cwd=project, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if ran.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {ran.returncode}:\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}")


def flags(*settings):
    return [word for setting in settings for word in ("--set", setting)]


def throughput(log, started, *, images, world_size=1):
    """What the clocks in the trainers say, over two cores; of several workers of a trial each writes its own lines."""
    epochs = lines_of(log)
    first, last = min(epoch["began"] for epoch in epochs), max(epoch["ended"] for epoch in epochs)
    return {
        "training share": sum(epoch["cpu"] for epoch in epochs) / (2 * (last - first)),
        "images a second": images * len(epochs) / world_size / (last - first),
        "images a CPU second in the loops": images * len(epochs) / world_size / sum(epoch["cpu"] for epoch in epochs),
        "seconds to the first step": first - started,
    }


def lines_of(log):
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []


def first_step(log):
    return min(each["began"] for each in lines_of(log))


def trials_of(log):
    """Epochs heard of, by trial."""
    counts = {}
    for each in lines_of(log):
        counts[each["trial"]] = counts.get(each["trial"], 0) + 1
    return counts


def silence(folder, *, since):
    """The longest time without a report of one trial after a moment, and an epoch's usual time, in seconds."""
    from toprung.records.ledger import read
    from toprung.records.sweep_dir import SweepDirectory

    gaps = []
    for trial in read(SweepDirectory(folder)):
        at = sorted(epoch.time_ms / 1000 for epoch in trial.epochs_by_number.values())
        gaps += [[after - before for before, after in itertools.pairwise(at) if after > since]]
    return {
        "seconds without a report": max(map(max, gaps)),
        "seconds an epoch takes": statistics.median(itertools.chain.from_iterable(gaps)),
    }


def wait_for(is_so, process):
    deadline = time.monotonic() + 300
    while not is_so():
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit("the sweep ended, or five minutes went by, before it was where it should be")
        time.sleep(0.1)
