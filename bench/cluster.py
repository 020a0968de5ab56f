"""Measure the overhead of a cluster on one machine, with several Ray nodes.

    python bench/cluster.py --runs 3 --json cluster.json
    python bench/cluster.py --only nodes --runs 3              # run only this part
    python bench/cluster.py --quick                            # a fast check; the figures mean nothing

nodes      the sweep of bench/overhead.py on one node with 2 CPUs, and on two nodes with 1 CPU, interleaved
workers    trials with two workers, and the bare loop started by `torchrun`, interleaved
submit     seconds from `toprung submit` to the first training step, on an idle cluster
recovery   a node dies during a trial: the longest time without a report, and the usual time of an epoch
driver     CPU time of the driver per trial with 1, 4 and 16 nodes with one CPU; trials do nothing (bench/instant.py)
many       the same for one sweep of 10,000 trials on one node, to show how the cost grows
listing    CPU seconds that `toprung list` needs to read 1 and 5 sweeps of 100 trials

The output has medians (minimum to maximum) over the runs. CPU seconds and ratios are valid on a machine that also does
other work; elapsed seconds are not. The head, the nodes and the driver share the machine's cores, and no figure
includes the cost of a network.
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
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the nodes do not outlive the benchmark
    results = {"settings": {name: str(value) for name, value in vars(options).items()}}
    for part in options.only or PARTS:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            rounds = PARTS[part](Path(folder), options)
        results[part] = rounds
        print_part(part, rounds)
        figures.write(options.json, results)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append", help="run this part only; can be repeated")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--trials", type=int, default=12, help="trials per sweep with training")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--data", default="fashion_mnist", help="a prepared dataset")
    parser.add_argument(
        "--nodes", type=int, action="append", help="number of nodes for the part `driver`; can be repeated"
    )
    parser.add_argument("--long", type=int, default=400, help="instant trials in the long sweep")
    parser.add_argument("--short", type=int, default=100, help="instant trials in the short sweep, to subtract")
    parser.add_argument("--many", type=int, default=10_000, help="instant trials in the part `many`")
    parser.add_argument("--quick", action="store_true", help="one very small run")
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
    """Print one part. Each of the rounds is {variant: {figure: value}}."""
    print(f"\n{part}, n = {len(rounds)}")
    variants = list(rounds[0])
    for figure in dict.fromkeys(figure for variant in variants for figure in rounds[0][variant]):
        print(f"  {figure}")
        for variant in variants:
            values = [results[variant][figure] for results in rounds if figure in results[variant]]
            if values:
                print(f"    {variant:38} {spread(values)}")
    if len(variants) == 2:
        first, second = variants
        for figure in rounds[0][first]:
            ratios = [
                results[second][figure] / results[first][figure] for results in rounds if results[first].get(figure)
            ]
            if ratios:
                print(f"  {figure}, {second} / {first}, by run: {spread(ratios)}")


def spread(values):
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
