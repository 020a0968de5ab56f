"""Run trials with two workers as in Ray's documentation: TorchTrainer in a Tune function, TuneReportCallback, ASHA.

    python bench/documented_pattern.py [--trials 12] [--seconds 300]

The loop is that of trainers/convnet.py on the digits, as in `toprung sweep tune.two_workers`; docs/decisions/0011
compares the two. The output shows, for each trial, the start of its controller and of its first step and the number of
epochs, then the remaining placement groups. A sweep that hangs is aborted after --seconds.
"""

import argparse
import json
import os
import tempfile
import threading
import time
from pathlib import Path

import figures

from toprung import cluster

SETTINGS = {"num_epochs": 9, "batch_size": 128}


def train_loop_per_worker(config):
    """Run the loop of trainers/convnet.py in a session that reports to Ray Train."""
    import ray.train

    from toprung import session
    from trainers import convnet

    rank, log = ray.train.get_context().get_world_rank(), config["log"]

    def logged_epoch(*arguments, one_epoch=convnet.train_one_epoch):
        write(log, trial=config["trial"], rank=rank, start=time.time())
        return one_epoch(*arguments)

    def report(metrics, run, session_report=session.report):
        session_report(metrics, run)
        ray.train.report(dict(run.progress.last_report))

    images = figures.load("digits", max_train=800, max_val=288)
    trial = session.Session(data=images, folder=Path(tempfile.mkdtemp()), on_report=lambda _: None, num_threads=1)
    convnet.train_one_epoch, session.report = logged_epoch, report
    with session.open_session(trial):
        convnet.train_loop_per_worker({**convnet.DEFAULTS, **SETTINGS, "lr": config["lr"]})


def train_driver(config):
    """Train one trial; Tune calls this function."""
    import ray.train
    from ray import tune as ray_tune
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    trial = ray_tune.get_context().get_trial_id()
    write(config["log"], trial=trial, controller=time.time())
    TorchTrainer(
        train_loop_per_worker,
        train_loop_config={**config, "trial": trial},
        scaling_config=ray.train.ScalingConfig(num_workers=2),
        run_config=ray.train.RunConfig(name=trial, storage_path=config["storage"], callbacks=[TuneReportCallback()]),
    ).fit()


def write(log, **line):
    with open(log, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=300)
    options = parser.parse_args()
    cluster.prepare_environment()
    import ray
    from ray import tune as ray_tune

    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.jsonl"
        variables = {"PYTHONPATH": os.pathsep.join(map(str, (figures.PROJECT, figures.PROJECT / "bench")))}
        ray.init("local", num_cpus=3, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": variables})
        started = time.time()

        def abort():
            print(f"aborted after {options.seconds:g} s", flush=True)
            print_log(log, started=started)
            os._exit(1)

        timer = threading.Timer(options.seconds, abort)
        timer.daemon = True
        timer.start()
        ray_tune.Tuner(
            ray_tune.with_resources(train_driver, {"cpu": 1}),
            param_space={
                "lr": ray_tune.loguniform(1e-5, 1e-1),
                "log": str(log),
                "storage": folder,
            },
            tune_config=ray_tune.TuneConfig(
                num_samples=options.trials,
                max_concurrent_trials=1,
                scheduler=ray_tune.schedulers.ASHAScheduler(
                    time_attr="epoch", metric="val/accuracy", mode="max", max_t=9, grace_period=1, reduction_factor=3
                ),
            ),
            run_config=ray_tune.RunConfig(storage_path=folder, name="tune", verbose=0),
        ).fit()
        print_log(log, started=started)
        ray.shutdown()


def print_log(log, *, started):
    """Print what the trials logged, and the remaining placement groups."""
    import ray

    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    for trial, controller in ((line["trial"], line["controller"]) for line in lines if "controller" in line):
        epochs = [line["start"] for line in lines if line["trial"] == trial and line.get("rank") == 0]
        first = f"first step {min(epochs) - controller:.1f} s later" if epochs else "no step"
        print(f"{trial}: controller at {controller - started:.1f} s, {first}, {len(epochs)} epochs")
    states = [group["state"] for group in ray.util.placement_group_table().values()]
    print(f"placement groups: {', '.join(f'{states.count(state)} {state}' for state in sorted(set(states)))}")


if __name__ == "__main__":
    main()
