"""Measure the overhead of tracking: requests and driver CPU time per trial and per report, for toprung and stock Tune.

    python bench/tracking.py --rounds 3 --trials 1000 --json tracking.json
    python bench/tracking.py --rounds 1 --trials 1000 --trials 10000 --only driver    # takes a long time
    python bench/tracking.py --rounds 1 --trials 10000 --only driver --lane toprung   # is the cost linear?
    python bench/tracking.py --only driver --lane toprung --lane failing --trials 600   # what does a failure cost?
    python bench/tracking.py --quick                                              # a fast check (4 minutes)

Trials do nothing but report nine metrics, two trials at a time (bench/instant.py). Each round runs five lanes: stock
Tune with random search; with OptunaSearch; with OptunaSearch and the stock MLflow callback on an SQLite file;
`toprung sweep` with its defaults (ledger, checkpoints, artifacts, and MLflow on an SQLite file); and the same where a
third of the trials fail. TPE's model is not
used, because its cost grows with the study; `--sampler tpe` enables it in all lanes with OptunaSearch or toprung.

requests           counted by a proxy in front of a real `mlflow server`. The requests per report are the difference
                   between two sweeps with 2 and 6 epochs. The requests per trial are the difference between two sweeps
                   with n and 2n trials, minus those of the reports.
CPU per trial      user and system time of the driver's process with all its threads, without workers, for trials with
                   one report: the difference between a long and a short sweep, each from its first report to the end of
                   the process, divided by the difference in trials. It excludes the cold start and the export, and
                   includes delivering the backlog.
CPU per report     the same for two sweeps with the same number of trials, with one and with several reports each.
elapsed per trial  the same in elapsed time. Two workers, the driver and other processes share the machine.
growth             CPU per trial in the last quarter of a sweep, divided by that in its second quarter. 1 is linear.
"""

import argparse
import importlib.metadata
import tempfile
from pathlib import Path

import figures
import tracking_lanes as lanes
from tracking_lanes import CALLBACK, FAILING, OPTUNA, RANDOM, TOPRUNG, Size
from tracking_proxy import counted_server

FEW, MANY = 2, 6  # epochs of the sweeps for counting requests
GOAL_REQUESTS, GOAL_MS = 1, 5
NAMES = {"random": RANDOM, "optuna": OPTUNA, "callback": CALLBACK, "toprung": TOPRUNG, "failing": FAILING}


def main():
    options = arguments()
    results = {"settings": {name: str(value) for name, value in vars(options).items()}, "versions": versions()}
    with tempfile.TemporaryDirectory() as folder:
        project = lanes.create_project(Path(folder) / "project")
        if options.only in (None, "requests"):
            with counted_server(Path(folder)) as server:
                results["requests"] = count_requests(server, project, options)
            print_requests(results["requests"])
        if options.only in (None, "driver"):
            results["driver"] = measure_driver(project, options)
            print_driver(results["driver"], options)
    figures.write(options.json, results)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, action="append", help="trials in the long sweeps; can be repeated")
    parser.add_argument(
        "--short", type=int, default=100, help="trials in the short sweep, which is subtracted from each long one"
    )
    parser.add_argument("--reports", type=int, default=10, help="reports per trial for measuring the cost of a report")
    parser.add_argument("--stock-callback", type=int, default=1000, help="longest sweep with the stock callback")
    parser.add_argument("--lane", choices=NAMES, action="append", help="run only this lane; can be repeated")
    parser.add_argument("--sampler", choices=("random", "tpe"), default="random")
    parser.add_argument("--request-trials", type=int, default=6, help="trials in the sweeps for counting requests")
    parser.add_argument(
        "--pause", type=float, default=0.5, help="seconds per epoch in the sweeps for counting requests"
    )
    parser.add_argument("--only", choices=("requests", "driver"))
    parser.add_argument("--quick", action="store_true", help="one round with a few trials; the figures are meaningless")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.trials, options.short, options.reports = 1, [40], 10, 3
        options.request_trials, options.pause = 2, 0.2
    options.trials = sorted(options.trials or [1000])
    options.lanes = [lane for name, lane in NAMES.items() if name in (options.lane or NAMES)]
    if options.trials[0] <= options.short:
        parser.error(f"--trials {options.trials[0]} must be more than --short {options.short}")
    return options


def count_requests(server, project, options):
    """Count the requests per report and per trial, by method and path, for each lane with MLflow."""
    n, requests = options.request_trials, {}
    for lane in (CALLBACK, TOPRUNG):
        counts_by_size = {}
        lanes.run(lane, Size(1), project=project, startup=10, uri=server.uri)  # creates the experiment
        server.take()
        for size in (Size(n, FEW), Size(n, MANY), Size(2 * n, FEW)):
            lanes.run(lane, size, project=project, startup=10, uri=server.uri, pause=options.pause)
            counts_by_size[size] = server.take()
        few, many, double = counts_by_size.values()
        kinds = sorted(few | many | double)
        report = {kind: (many[kind] - few[kind]) / (n * (MANY - FEW)) for kind in kinds}
        trial = {kind: (double[kind] - few[kind]) / n - FEW * report[kind] for kind in kinds}
        totals = {
            f"{size.trials} trials of {size.reports} reports": sum(counts.values())
            for size, counts in counts_by_size.items()
        }
        requests[lane.name] = {"per report": report, "per trial": trial, "in total": totals}
    return requests


def print_requests(result):
    print(f"\nRequests to an MLflow server (goal: {GOAL_REQUESTS} per report)")
    print(f"  {'':50}{'per report':>12}{'per trial':>12}")
    for name, counts in result.items():
        rows = {kind: (counts["per report"][kind], counts["per trial"][kind]) for kind in counts["per report"]}
        total = [sum(column) for column in zip(*rows.values(), strict=True)]
        for label, (report, trial) in {name: total, **{f"  {kind}": row for kind, row in rows.items()}}.items():
            if label == name or abs(report) >= 0.005 or abs(trial) >= 0.005:
                print(f"  {label:50}{report:>12.2f}{trial:>12.2f}")


def measure_driver(project, options):
    """Run every lane in every size and round, and return the measurements by lane and size."""
    runs = {lane.name: {} for lane in options.lanes}
    for number in range(options.rounds):
        for size in sizes(options):
            for lane in options.lanes:
                if (lane is CALLBACK and size.trials > options.stock_callback) or (lane.failing and size.reports > 1):
                    continue  # a trial that fails makes one report
                startup = 10 if options.sampler == "tpe" else size.trials + 1
                measurement = lanes.run(lane, size, project=project, startup=startup)
                runs[lane.name].setdefault(label(size), []).append(measurement.as_json())
                cpu = f"{measurement.cpu_seconds:.2f} s CPU, {measurement.seconds:.1f} s"
                print(f"round {number + 1}, {label(size)}, {lane.name}: {cpu} from the first report", flush=True)
    return runs


def sizes(options):
    return [Size(options.short), Size(options.short, options.reports), *map(Size, options.trials)]


def label(size):
    return f"{size.trials} x {size.reports}"


def print_driver(runs, options):
    short, several = Size(options.short), Size(options.short, options.reports)
    for trials in options.trials:
        long = Size(trials)
        cpu = by_lane(runs, long, short, "cpu_seconds", trials - options.short)
        figures.print_table(f"Driver CPU, ms per trial with one report ({trials:,} trials)", cpu, digits=1)
        print_difference(cpu, unit="trial")
        if TOPRUNG.name in runs:
            writer = by_lane(runs, long, short, "writer_cpu_seconds", trials - options.short)
            title = "CPU of toprung's MLflow writer (a separate process), ms per trial"
            figures.print_table(
                title, {n: ms for n, ms in writer.items() if n in (TOPRUNG.name, FAILING.name)}, digits=1
            )
        elapsed = by_lane(runs, long, short, "seconds", trials - options.short)
        for name, by_size in runs.items():
            for run in by_size.get(label(long), []):
                print(f"  {name}: driver's peak memory {run['memory_mb']:,.0f} MB, MLflow's runs {run['mlflow_runs']}")
        figures.print_table(f"Elapsed, ms per trial with one report ({trials:,} trials)", elapsed, digits=1)
        growth = {
            name: [growth_ratio(run) for run in by_size[label(long)]]
            for name, by_size in runs.items()
            if label(long) in by_size
        }
        figures.print_table(f"Growth within {trials:,} trials (1 is linear)", growth, digits=2)
    reports = by_lane(runs, several, short, "cpu_seconds", options.short * (options.reports - 1))
    figures.print_table(f"Driver CPU, ms per additional report ({options.short} trials)", reports, digits=1)
    print_difference(reports, unit="report")


def by_lane(runs, more, less, figure, number):
    """Return the milliseconds per trial or report in each round; two sizes differ by `number` of them."""
    return {
        name: [
            1000 * (a[figure] - b[figure]) / number
            for a, b in zip(by_size[label(more)], by_size[label(less)], strict=True)
        ]
        for name, by_size in runs.items()
        if label(more) in by_size
    }


def print_difference(costs, *, unit):
    differences = {
        f"toprung - {stock.name.removeprefix('stock Tune, ')}": [
            cost - stock_cost for cost, stock_cost in zip(costs[TOPRUNG.name], costs[stock.name], strict=True)
        ]
        for stock in (RANDOM, OPTUNA)
        if {TOPRUNG.name, stock.name} <= costs.keys()
    }
    if not differences:
        return
    figures.print_table(f"Difference by round, ms per {unit} (goal: {GOAL_MS})", differences, digits=1)


def growth_ratio(run):
    """Return the CPU time of a run's last quarter divided by that of its second (the first includes imports)."""
    reports, cpu = zip(*run["samples"], strict=True)
    quarters = [cpu[next(i for i, count in enumerate(reports) if count >= share * reports[-1])] for share in SHARES]
    second, last = quarters[1] - quarters[0], quarters[3] - quarters[2]
    return last / second if second else float("nan")


SHARES = (0.25, 0.5, 0.75, 1)


def versions():
    return {name: importlib.metadata.version(name) for name in ("ray", "optuna", "mlflow")}


if __name__ == "__main__":
    main()
