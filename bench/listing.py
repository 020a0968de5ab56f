"""Measure the CPU seconds of `toprung list` and `toprung show` with many simulated sweeps.

    python bench/listing.py --sweeps 50 --trials 1000 --runs 10

The ledgers are simulated as in bench/report.py, with up to 9 epochs. Each command runs in a fresh process, imports
included; the two are interleaved. The first `toprung list` reads all ledgers and keeps what it prints in each sweep's
folder; it is given apart. The goal is 0.4 CPU seconds for each later one.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import optuna
import report


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=50)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=10)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        sweeps = [report.simulate(Path(folder), arguments.trials, max_epochs=9) for _ in range(arguments.sweeps)]
        commands = {"list": ["list"], "show": ["show", sweeps[-1].sweep_id], "list --json": ["list", "--json"]}
        print(f"{arguments.sweeps} sweeps of {arguments.trials} trials, CPU seconds")
        print(f"first list: {report.run_toprung('list', storage=folder)[1]:.2f}", flush=True)
        seconds = {name: [] for name in commands}
        for _ in range(arguments.runs):
            for name, words in commands.items():
                seconds[name].append(report.run_toprung(*words, storage=folder)[1])
    for name, values in seconds.items():
        print(f"{name}: {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f}), n = {len(values)}")


if __name__ == "__main__":
    main()
