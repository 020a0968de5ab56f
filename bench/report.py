"""Measure the time and size of reports of simulated sweeps with 200 and 5,000 trials.

    python bench/report.py [--trials 200 --trials 5000] [--profile]

The simulation writes a real ledger, as a driver does, with ASHA's decisions on noisy curves that depend on twelve
hyperparameters, but without training. `toprung report` then writes the report in a fresh process; the time includes
imports. There is no export, so the panel on the winner's mistakes (one pass over the validation images) is skipped. The
goals are 6 CPU seconds for 200 trials, and 20 CPU seconds and 15 MB for 5,000.
"""

import argparse
import cProfile
import math
import pstats
import random
import resource
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import optuna

from toprung.records import catalog, ledger
from toprung.records.journal import batched_writes
from toprung.records.study_storage import storage_for_writing
from toprung.records.trial_record import End, now_ms
from toprung.search.scheduler import RungScheduler
from toprung.spec import Asha, Stop, Sweep

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))  # for the search space, which is not installed

from search_spaces.convnet import space  # noqa: E402

LINEAGE = {
    "commit": "c" * 40, "dirty": False, "lock_hash": "1" * 64, "data_name": "digits", "data_fingerprint": "d" * 64,
    "split_fingerprint": "5" * 64, "seed": 0, "search_seed": 0, "python": "3.11", "platform": "simulated",
    "versions": {"torch": "0"},
}  # fmt: skip


def simulate(root, num_trials, *, max_epochs=27):
    """Create a sweep whose ledger contains trials with simulated curves, and return its directory."""
    sweep = Sweep(
        name="simulated",
        trainer="trainers.convnet",
        space="search_spaces.convnet",
        num_trials=num_trials,
        asha=Asha(max_epochs=max_epochs, audit_fraction=0.1),
        stop=Stop(cpu_price_per_hour=0.05),
    )
    sweep_dir = catalog.create_sweep(root, sweep, name=None, now=datetime.now())
    sweep_dir.write(sweep_dir.lineage_file, LINEAGE)
    sweep_dir.write(
        sweep_dir.status_file, {"status": "finished", "reason": None, "seconds": 1.0, "tracking_error": None}
    )
    storage, noise, scheduler = storage_for_writing(sweep_dir), random.Random(0), RungScheduler(sweep)
    study = optuna.create_study(
        study_name=sweep_dir.sweep_id,
        storage=storage,
        direction="maximize",
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    clock = now_ms()
    with batched_writes(storage):
        ledger.write_driver_run(study, command="sweep")
        for number in range(num_trials):
            trial, tune_trial = study.ask(), SimpleNamespace(trial_id=f"{number:08x}")
            space(trial)
            config = {name.rpartition(".")[2]: value for name, value in trial.params.items()}
            config["num_epochs"] = max_epochs
            ledger.write_start(trial, trial_id=tune_trial.trial_id, config=config, is_default=number == 0)
            scheduler.on_trial_add(None, tune_trial)
            scheduler.sample_for_audit(tune_trial.trial_id, number=number)
            best = 0.0
            end = End("finished")
            for epoch in range(1, max_epochs + 1):
                clock += 500
                value = _accuracy(config, epoch, noise)
                best = max(best, value)
                metrics = {"train/loss": 2.3 * (1 - value), "val/loss": 2.4 * (1 - value), "val/accuracy": value}
                action = scheduler.on_trial_result(None, tune_trial, {"epoch": epoch, "val/accuracy": value})
                ledger.write_epoch(
                    trial, epoch=epoch, value=value, metrics={**metrics, "time/epoch_seconds": 0.5}, time_ms=clock
                )
                audited = scheduler.audited.get(tune_trial.trial_id)
                if audited is not None and audited.rung == epoch:
                    ledger.write_audit_entry(trial, audited)
                if action == "STOP":
                    stop = scheduler.stops.get(tune_trial.trial_id)
                    end = End("finished") if stop is None else End("stopped", rung=stop.rung, cause="ASHA")
                    break
            ledger.write_end(trial, End(end.status, rung=end.rung, cause=end.cause, time_ms=clock))
            if end.status == "finished":
                study.tell(trial, best)
            else:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    return sweep_dir


def _accuracy(config, epoch, noise):
    """Return the noisy accuracy at an epoch; it rises to a maximum that depends on the configuration."""
    distance = abs(math.log10(config["lr"]) + (1 if config["optimizer"] == "sgd" else 2.5))
    maximum = 0.97 - 0.12 * distance - 0.3 * config["label_smoothing"] - 0.02 * (config["augment"] == "heavy")
    return max(
        0.05, min(1.0, maximum * (1 - math.exp(-epoch / (2 + config["batch_size"] / 64))) + noise.gauss(0, 0.01))
    )


def report(sweep_dir, *, profile):
    """Write a report, and return the elapsed seconds, the CPU seconds and the size of the page in bytes."""
    if profile:
        from toprung.analysis.report import write_report

        profiler = cProfile.Profile()
        profiler.runcall(write_report, sweep_dir, prepared_root=sweep_dir.path)
        pstats.Stats(profiler).sort_stats("cumulative").print_stats(45)
    seconds, cpu = run_toprung("report", sweep_dir.sweep_id, storage=sweep_dir.path.parent)
    return seconds, cpu, (sweep_dir.path / "report" / "report.html").stat().st_size


def run_toprung(*words, storage):
    """Run a command of toprung in a fresh process, and return the elapsed seconds and the CPU seconds."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "toprung", *words, "--storage", str(storage)]
    subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, action="append")
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(f"{'trials':>8}{'epochs':>10}{'seconds':>10}{'CPU s':>10}{'MB':>8}")
    for num_trials in arguments.trials or [200, 5000]:
        with tempfile.TemporaryDirectory() as folder:
            sweep_dir = simulate(Path(folder), num_trials)
            epochs = sum(len(trial.epochs_by_number) for trial in ledger.read(sweep_dir))
            seconds, cpu, size = report(sweep_dir, profile=arguments.profile)
            print(f"{num_trials:>8}{epochs:>10}{seconds:>10.1f}{cpu:>10.1f}{size / 1e6:>8.1f}", flush=True)


if __name__ == "__main__":
    main()
