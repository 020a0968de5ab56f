"""The parts of bench/cluster.py that measure the driver, with instant trials as in bench/tracking.py."""

import itertools
import shutil
import subprocess
import sys

import figures
import tracking_lanes as lanes
from raylets import raylets


def by_nodes(folder, options):
    """Measure the driver's CPU time per trial with different numbers of nodes; each node runs one trial at a time."""
    project, rounds = lanes.create_project(folder / "project"), []
    for number in range(options.runs):
        costs = {}
        for count in options.nodes:
            with raylets([1] * count, log=project / "reports.log") as cluster:
                short, long = (run_instant_sweep(project, cluster, trials) for trials in (options.short, options.long))
            difference = options.long - options.short
            costs[f"{count} nodes"] = {
                "driver, CPU ms per trial": 1000 * (long.cpu_seconds - short.cpu_seconds) / difference,
                "MLflow writer, CPU ms per trial": 1000
                * (long.writer_cpu_seconds - short.writer_cpu_seconds)
                / difference,
                "seconds of the long sweep": long.seconds_reporting,
            }
            print(f"run {number + 1}, {count} nodes: {costs[f'{count} nodes']}", flush=True)
        rounds.append(costs)
    return rounds


def many(folder, options):
    """Measure the driver's CPU time per trial in each tenth of a long sweep, and the final size of its folder."""
    project = lanes.create_project(folder / "project")
    with raylets([2], log=project / "reports.log") as cluster:
        measurement = run_instant_sweep(project, cluster, options.many, keep=True)
    reports, cpu = zip(*measurement.samples, strict=True)
    marks = [next(index for index, n in enumerate(reports) if n >= tenth / 10 * reports[-1]) for tenth in range(11)]
    tenths = {}
    for first, last in itertools.pairwise(marks):
        trials = max(1, reports[last] - reports[first])
        variant = f"trials {reports[first]:,} to {reports[last]:,}"
        tenths[variant] = {"driver, CPU ms per trial": 1000 * (cpu[last] - cpu[first]) / trials}
    tenths["whole sweep"] = {
        "driver, CPU ms per trial": 1000 * measurement.cpu_seconds / options.many,
        "MLflow writer, CPU ms per trial": 1000 * measurement.writer_cpu_seconds / options.many,
        "seconds": measurement.seconds,
    }
    tenths["afterwards"] = measure_storage(project / "storage")
    return [tenths]


def listing(folder, options):
    """Measure the CPU seconds that `toprung list` needs to read the ledgers of simulated sweeps of 100 trials."""
    import optuna
    import report

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    rounds = []
    for _ in range(options.runs):
        variants = {}
        for count in (1, 5):
            storage = folder / f"runs-{count}"
            for _ in range(count):
                report.simulate(storage, 100)
            variants[f"{count} sweeps"] = measure_storage(storage)
        rounds.append(variants)
    return rounds


def measure_storage(storage):
    """Measure the size of a storage folder and the CPU time to list its sweeps, then remove it."""
    from toprung.analysis.summary import brief
    from toprung.records import catalog

    files = [path for path in storage.rglob("*") if path.is_file()]
    figures_by_name = {"files": len(files), "megabytes": sum(path.stat().st_size for path in files) / 1e6}
    figures_by_name["megabytes of ledger"] = sum(path.stat().st_size for path in storage.glob("*/ledger.log")) / 1e6
    figures_by_name["CPU seconds to list them"] = figures.cpu_seconds(
        lambda: list(map(brief, catalog.list_sweeps(storage)))
    )
    shutil.rmtree(storage)
    return figures_by_name


def run_instant_sweep(project, cluster, trials, *, keep=False):
    """Run a sweep of instant trials on the cluster, with as many at once as fit, and measure its driver."""
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
            measurement = lanes.measure(process, log)
        finally:
            lanes.end(process)
    if process.returncode != 0 or measurement.reports != trials:
        tail = output.read_text(encoding="utf-8")[-3000:]
        sys.exit(f"{measurement.reports} of {trials} reports, exit code {process.returncode}:\n{tail}")
    writer = lanes.writer_cpu_seconds(storage)
    if not keep:
        shutil.rmtree(storage)
    return lanes.replace(measurement, writer_cpu_seconds=writer)
