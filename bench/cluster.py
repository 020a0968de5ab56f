"""What a cluster costs, measured on one machine: each node is a Ray of its own, started by `ray start`.

    python bench/cluster.py --runs 3 --json cluster.json
    python bench/cluster.py --only nodes --runs 3              # one part, of those below
    python bench/cluster.py --quick                            # does it run? figures of no value

nodes      the sweep of bench/overhead.py on one node of 2 CPUs, and on two nodes of 1 CPU: by turns in each run
workers    trials of two workers, and the bare loop that `torchrun` starts: by turns in each run
submit     seconds from `toprung submit` to the first training step, on a cluster that idles
recovery   a node dies under a trial: the longest time without a report of it, beside an epoch's usual time
driver     the driver's CPU time a trial with 1, 4 and 16 nodes of one CPU; trials do nothing (bench/instant.py)
many       the same in one sweep of 10,000 trials on one node: how the cost grows within it
listing    CPU seconds of what `toprung list` reads of 1 and of 5 sweeps of 100 trials

Medians (minimum to maximum) of the runs. CPU seconds and ratios hold on a machine that does other work meanwhile;
seconds of the clock do not. The head, the nodes and the driver share the machine's cores: what a network costs is not
in any figure.
"""

import argparse
import signal
import statistics
import sys
import tempfile
from pathlib import Path

import cluster_driver
import cluster_sweeps
import figures

PARTS = {
    "nodes": cluster_sweeps.nodes,
    "workers": cluster_sweeps.workers,
    "submit": cluster_sweeps.submit,
    "recovery": cluster_sweeps.recovery,
    "driver": cluster_driver.by_nodes,
    "many": cluster_driver.many,
    "listing": cluster_driver.listing,
}


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the nodes would outlive a benchmark that is ended
    results = {"settings": {name: str(value) for name, value in vars(options).items()}}
    for part in options.only or PARTS:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            rounds = PARTS[part](Path(folder), options)
        results[part] = rounds
        print_part(part, rounds)
        figures.write(options.json, results)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append", help="may be given again")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--trials", type=int, default=12, help="of a sweep that trains")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--data", default="fashion_mnist", help="a prepared dataset")
    parser.add_argument("--nodes", type=int, action="append", help="how many, where the driver is measured")
    parser.add_argument("--long", type=int, default=400, help="instant trials of the long sweep")
    parser.add_argument("--short", type=int, default=100, help="and of the one it is compared with")
    parser.add_argument("--many", type=int, default=10_000, help="instant trials of the part `many`")
    parser.add_argument("--quick", action="store_true", help="one run of very little")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args()
    options.nodes = sorted(options.nodes or [1, 4, 16])
    if options.quick:
        options.runs, options.trials, options.images, options.nodes = 1, 4, 1000, [1, 2]
        options.long, options.short, options.many = 30, 10, 60
    if options.long <= options.short:
        parser.error(f"--long {options.long} must be more than --short {options.short}")
    if not (figures.PROJECT / "data" / "prepared" / options.data).is_dir():
        sys.exit(f"{options.data} is not prepared. Type: toprung data prepare {options.data}")
    return options


def print_part(part, rounds):
    """Each round is {way: {figure: value}}; the ways of a round ran by turns."""
    print(f"\n{part}, n = {len(rounds)}")
    ways = list(rounds[0])
    for figure in dict.fromkeys(figure for way in ways for figure in rounds[0][way]):
        print(f"  {figure}")
        for way in ways:
            values = [each[way][figure] for each in rounds if figure in each[way]]
            if values:
                print(f"    {way:38} {spread(values)}")
    if len(ways) == 2:
        first, second = ways
        for figure in rounds[0][first]:
            ratios = [each[second][figure] / each[first][figure] for each in rounds if each[first].get(figure)]
            if ratios:
                print(f"  {figure}, {second} / {first}, run by run: {spread(ratios)}")


def spread(values):
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
