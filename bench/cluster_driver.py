"""What a trial costs the driver on clusters of several sizes: instant trials, as in bench/tracking.py."""

import itertools
import shutil
import subprocess
import sys

import figures
import tracking_lanes as lanes
from raylets import raylets


def by_nodes(folder, options):
    """The driver's CPU milliseconds a trial, with as many nodes of one CPU, and with as many trials at once."""
    project, rounds = lanes.workbench(folder / "project"), []
    for number in range(options.runs):
        costs = {}
        for count in options.nodes:
            with raylets([1] * count, log=project / "reports.log") as cluster:
                short, long = (instant(project, cluster, trials) for trials in (options.short, options.long))
            more = options.long - options.short
            costs[f"{count} nodes"] = {
                "driver, CPU ms a trial": 1000 * (long.cpu_seconds - short.cpu_seconds) / more,
                "MLflow writer, CPU ms a trial": 1000 * (long.writer_cpu_seconds - short.writer_cpu_seconds) / more,
                "seconds of the long sweep": long.seconds_reporting,
            }
            print(f"run {number + 1}, {count} nodes: {costs[f'{count} nodes']}", flush=True)
        rounds.append(costs)
    return rounds


def many(folder, options):
    """One long sweep: the driver's cost a trial in each tenth of it, and what lies in the folder in the end."""
    project = lanes.workbench(folder / "project")
    with raylets([2], log=project / "reports.log") as cluster:
        watched = instant(project, cluster, options.many, keep=True)
    heard, cpu = zip(*watched.looks, strict=True)
    marks = [next(index for index, n in enumerate(heard) if n >= tenth / 10 * heard[-1]) for tenth in range(11)]
    tenths = {}
    for first, last in itertools.pairwise(marks):
        trials = max(1, heard[last] - heard[first])
        way = f"trials {heard[first]:,} to {heard[last]:,}"
        tenths[way] = {"driver, CPU ms a trial": 1000 * (cpu[last] - cpu[first]) / trials}
    tenths["whole sweep"] = {
        "driver, CPU ms a trial": 1000 * watched.cpu_seconds / options.many,
        "MLflow writer, CPU ms a trial": 1000 * watched.writer_cpu_seconds / options.many,
        "seconds": watched.seconds,
    }
    tenths["afterwards"] = left_behind(project / "storage")
    return [tenths]


def listing(folder, options):
    """CPU seconds of what `toprung list` reads of simulated sweeps of 100 trials: every ledger, whole."""
    import optuna
    import report

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    rounds = []
    for _ in range(options.runs):
        ways = {}
        for count in (1, 5):
            storage = folder / f"runs-{count}"
            for _ in range(count):
                report.simulate(storage, 100)
            ways[f"{count} sweeps"] = left_behind(storage)
        rounds.append(ways)
    return rounds


def left_behind(storage):
    """What a storage folder weighs, and what `toprung list` reads of it costs; it is removed."""
    from toprung.analysis.summary import brief
    from toprung.records import catalog

    files = [path for path in storage.rglob("*") if path.is_file()]
    by_name = {"files": len(files), "megabytes": sum(path.stat().st_size for path in files) / 1e6}
    by_name["megabytes of ledger"] = sum(path.stat().st_size for path in storage.glob("*/ledger.log")) / 1e6
    by_name["listing them, CPU seconds"] = figures.cpu_seconds(lambda: list(map(brief, catalog.list_sweeps(storage))))
    shutil.rmtree(storage)
    return by_name


def instant(project, cluster, trials, *, keep=False):
    """One sweep of instant trials on the cluster, as many at once as it takes; its driver is watched."""
    storage, log, output = project / "storage", project / "reports.log", project / "output.log"
    log.write_text("", encoding="utf-8")
    settings = {
        "num_trials": trials,
        "max_concurrent_trials": "null",
        "search.num_startup_trials": trials + 1,
        "search.sampler": "random",
        "storage": storage,
    }
    pairs = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "toprung", "sweep", "tune.instant", "--address", cluster.address, *pairs]
    with output.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, cwd=project, stdout=file, stderr=subprocess.STDOUT)
        try:
            watched = lanes.watch(process, log)
        finally:
            lanes.end(process)
    if process.returncode != 0 or watched.reports != trials:
        tail = output.read_text(encoding="utf-8")[-3000:]
        sys.exit(f"{watched.reports} of {trials} reports, exit code {process.returncode}:\n{tail}")
    writer = lanes.writer_cpu_seconds(storage)
    if not keep:
        shutil.rmtree(storage)
    return lanes.replace(watched, writer_cpu_seconds=writer)
