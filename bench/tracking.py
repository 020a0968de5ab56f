"""What tracking costs: requests a report, and the driver's CPU time a trial and a report, toprung beside stock Tune.

    python bench/tracking.py --rounds 3 --trials 1000 --json tracking.json
    python bench/tracking.py --rounds 1 --trials 1000 --trials 10000 --only driver    # long
    python bench/tracking.py --rounds 1 --trials 10000 --only driver --lane toprung   # is it linear?
    python bench/tracking.py --quick                                              # does it run? 4 minutes

Trials do nothing but report nine metrics, two trials at a time (bench/instant.py). Four lanes, by turns in each round:
stock Tune with random search; with OptunaSearch; with OptunaSearch and the stock MLflow callback on a sqlite file; and
`toprung sweep` as it is typed, with ledger, checkpoints, artifacts and MLflow on a sqlite file. TPE's model is not
asked, since its own cost grows with the study; `--sampler tpe` asks it, in all lanes that have one.

requests       counted by a proxy before a real `mlflow server`. A report's are the difference of two sweeps with 2 and
               6 epochs, a trial's that of two sweeps with n and 2n trials, less those of its reports.
CPU a trial    user and system time of the driver's process with all its threads, not its workers, for trials of one
               report: the difference of a long and a short sweep, each from its first report to the end of the
               process, over the difference of their trials. No cold start or export enters, and no backlog is left out.
CPU a report   the same for two sweeps of as many trials, with one and with several reports each.
wall a trial   likewise, in elapsed time: two workers, the driver and the neighbours share the machine.
growth         CPU a trial in a sweep's last quarter / in its second: 1 is linear.
"""

import argparse
import importlib.metadata
import tempfile
from pathlib import Path

import figures
import tracking_lanes as lanes
from tracking_lanes import CALLBACK, OPTUNA, RANDOM, TOPRUNG, Size
from tracking_proxy import counted_server

FEW, MANY = 2, 6  # epochs of the sweeps whose requests are counted
GOAL_REQUESTS, GOAL_MS = 1, 5
NAMES = {"random": RANDOM, "optuna": OPTUNA, "callback": CALLBACK, "toprung": TOPRUNG}


def main():
    options = arguments()
    results = {"settings": {name: str(value) for name, value in vars(options).items()}, "versions": versions()}
    with tempfile.TemporaryDirectory() as folder:
        project = lanes.workbench(Path(folder) / "project")
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
    parser.add_argument("--trials", type=int, action="append", help="length of the long sweeps; may be given again")
    parser.add_argument(
        "--short", type=int, default=100, help="trials of the sweep that each long one is compared with"
    )
    parser.add_argument("--reports", type=int, default=10, help="reports a trial, where a report's cost is measured")
    parser.add_argument("--stock-callback", type=int, default=1000, help="no longer sweep with the stock callback")
    parser.add_argument("--lane", choices=NAMES, action="append", help="run this one only; may be given again")
    parser.add_argument("--sampler", choices=("random", "tpe"), default="random")
    parser.add_argument("--request-trials", type=int, default=6, help="trials of the sweeps whose requests are counted")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds an epoch, where requests are counted")
    parser.add_argument("--only", choices=("requests", "driver"))
    parser.add_argument("--quick", action="store_true", help="one round of a few trials: figures of no value")
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
    """Requests a report and a trial by method and path, of each lane that tracks."""
    n, count_requests = options.request_trials, {}
    for lane in (CALLBACK, TOPRUNG):
        taken = {}
        lanes.run(lane, Size(1), project=project, startup=10, uri=server.uri)  # the experiment, made once
        server.take()
        for size in (Size(n, FEW), Size(n, MANY), Size(2 * n, FEW)):
            lanes.run(lane, size, project=project, startup=10, uri=server.uri, pause=options.pause)
            taken[size] = server.take()
        few, many, double = taken.values()
        kinds = sorted(few | many | double)
        report = {kind: (many[kind] - few[kind]) / (n * (MANY - FEW)) for kind in kinds}
        trial = {kind: (double[kind] - few[kind]) / n - FEW * report[kind] for kind in kinds}
        totals = {
            f"{size.trials} trials of {size.reports} reports": sum(counts.values()) for size, counts in taken.items()
        }
        count_requests[lane.name] = {"a report": report, "a trial": trial, "in all": totals}
    return count_requests


def print_requests(result):
    print(f"\nRequests to an MLflow server (goal: {GOAL_REQUESTS} a report)")
    print(f"  {'':50}{'a report':>10}{'a trial':>10}")
    for name, counts in result.items():
        rows = {kind: (counts["a report"][kind], counts["a trial"][kind]) for kind in counts["a report"]}
        total = [sum(column) for column in zip(*rows.values(), strict=True)]
        for label, (report, trial) in {name: total, **{f"  {kind}": row for kind, row in rows.items()}}.items():
            if label == name or abs(report) >= 0.005 or abs(trial) >= 0.005:
                print(f"  {label:50}{report:>10.2f}{trial:>10.2f}")


def measure_driver(project, options):
    """Every run of every round, by lane and size."""
    runs = {lane.name: {} for lane in options.lanes}
    for number in range(options.rounds):
        for size in sizes(options):
            for lane in options.lanes:
                if lane is CALLBACK and size.trials > options.stock_callback:
                    continue
                startup = 10 if options.sampler == "tpe" else size.trials + 1
                watched = lanes.run(lane, size, project=project, startup=startup)
                runs[lane.name].setdefault(label(size), []).append(watched.as_json())
                cpu = f"{watched.cpu_seconds:.2f} s CPU, {watched.seconds:.1f} s"
                print(f"round {number + 1}, {label(size)}, {lane.name}: {cpu} from the first report on", flush=True)
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
        figures.print_table(f"Driver CPU, ms a trial of one report ({trials:,} trials)", cpu, digits=1)
        print_beyond(cpu, what="trial")
        if TOPRUNG.name in runs:
            written = by_lane(runs, long, short, "writer_cpu_seconds", trials - options.short)[TOPRUNG.name]
            title = "Beside it toprung's MLflow writer, a process of its own, ms a trial"
            figures.print_table(title, {TOPRUNG.name: written}, digits=1)
        wall = by_lane(runs, long, short, "seconds", trials - options.short)
        figures.print_table(f"Wall, ms a trial of one report ({trials:,} trials)", wall, digits=1)
        growth = {
            name: [last_to_second(run) for run in of[label(long)]] for name, of in runs.items() if label(long) in of
        }
        figures.print_table(f"Growth within {trials:,} trials (1: linear)", growth, digits=2)
    reports = by_lane(runs, several, short, "cpu_seconds", options.short * (options.reports - 1))
    figures.print_table(f"Driver CPU, ms a further report ({options.short} trials)", reports, digits=1)
    print_beyond(reports, what="report")


def by_lane(runs, more, less, figure, number):
    """Milliseconds for each of the `number` trials or reports by which two sizes differ, round by round."""
    return {
        name: [
            1000 * (a[figure] - b[figure]) / number for a, b in zip(sized[label(more)], sized[label(less)], strict=True)
        ]
        for name, sized in runs.items()
        if label(more) in sized
    }


def print_beyond(spent, *, what):
    beyond = {
        f"toprung - {stock.name.removeprefix('stock Tune, ')}": [
            ours - theirs for ours, theirs in zip(spent[TOPRUNG.name], spent[stock.name], strict=True)
        ]
        for stock in (RANDOM, OPTUNA)
        if {TOPRUNG.name, stock.name} <= spent.keys()
    }
    if not beyond:
        return
    figures.print_table(f"The same, round by round, ms a {what} (goal: {GOAL_MS})", beyond, digits=1)


def last_to_second(run):
    """CPU a trial in the last quarter of a run's reports / in the second (the first has imports in it)."""
    reports, cpu = zip(*run["looks"], strict=True)
    quarters = [cpu[next(i for i, heard in enumerate(reports) if heard >= share * reports[-1])] for share in SHARES]
    second, last = quarters[1] - quarters[0], quarters[3] - quarters[2]
    return last / second if second else float("nan")


SHARES = (0.25, 0.5, 0.75, 1)


def versions():
    return {name: importlib.metadata.version(name) for name in ("ray", "optuna", "mlflow")}


if __name__ == "__main__":
    main()
