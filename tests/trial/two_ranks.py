"""The work of two ranks of one trial, each in its own process: `python -m tests.trial.two_ranks RANK FOLDER`."""

import importlib
import json
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from tests.photos import TINY, load_weights
from tests.stripes import stripes
from toprung import session, vision
from toprung.session import Session, TrialData
from toprung.spec import CLASSIFICATION_METRICS
from toprung.vision import distributed

PROJECT = Path(__file__).parent.parent.parent
TRAINERS = sorted(file.stem for file in (PROJECT / "trainers").glob("[!_]*.py"))
NUM_RANKS = 2
NUM_EPOCHS = 4
SMALL = {"width": 4, "depth": 2, "batch_size": 32, "schedule": "onecycle", "lr": 0.01, "weight_decay": 0.05}

WITHOUT_RANDOMNESS = {"augment": "none", "dropout": 0.0}  # each rank draws its own random numbers


class Stop(Exception):
    """Raised in rank 0's report to end the trial, as a sweep does."""


def noisy(num_train=192):
    """Return a number of stripes that is a multiple of 32, with so much noise that all batches differ."""
    return stripes(num_train=num_train, num_val=1100, noise=150, brightness=60)


def without_batch_statistics(*arguments, build=vision.build_model, **settings):
    """Build the same network, but normalise each image individually."""
    model = build(*arguments, **settings)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.GroupNorm(1, child.num_features))
    return model


def train(folder, *, trainer="convnet", stop_after=None, batch_statistics=False, data=None, **settings):
    """Train, and return the metrics of each epoch without its time; the list is empty on ranks other than 0."""
    module, reports = importlib.import_module(f"trainers.{trainer}"), []

    def report(metrics):
        reports.append({name: value for name, value in metrics.items() if not name.startswith("time")})
        if metrics["epoch"] == stop_after:
            raise Stop

    small = {name: value for name, value in SMALL.items() if name in module.DEFAULTS}
    small |= TINY.get(trainer, {})
    small |= {name: value for name, value in WITHOUT_RANDOMNESS.items() if name in module.DEFAULTS}
    build, config = vision.build_model, {**module.DEFAULTS, **small, "num_epochs": NUM_EPOCHS, **settings}
    vision.build_model = build if batch_statistics else without_batch_statistics
    trial_session = Session(
        data=data or noisy(),
        folder=folder,
        on_report=report,
        seed=3,
        num_epochs=NUM_EPOCHS,
        load_weights=load_weights,
    )
    try:
        with session.open_session(trial_session):
            module.train_loop_per_worker(config)
    except Stop:
        assert stop_after is not None
    finally:
        vision.build_model = build
    return reports


def shares(folder):
    """Return the labels, which are unique, in the minibatches of two epochs over an odd number of images."""
    labels_N = torch.arange(103)
    split = vision.ImageSplit(labels_N.to(torch.uint8).view(-1, 1, 1, 1), labels_N)
    data = TrialData(split, split, noisy().card)
    with session.open_session(Session(data=data, folder=folder, on_report=lambda _: None)):
        part = session.dataset().train
        epochs = [[labels.tolist() for _, labels in vision.batches(part, batch_size=32)] for _ in range(2)]
    return {"len": len(part), "num_batches": vision.num_batches(part, batch_size=32), "epochs": epochs}


def balanced_epoch():
    """Return the images that this rank trains on in a balanced epoch over 103 images of two classes."""
    torch.manual_seed(5 + distributed.rank())
    positions_N = torch.arange(103)
    split = vision.ImageSplit(
        positions_N.to(torch.uint8).view(-1, 1, 1, 1),
        (positions_N < 10).long(),
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )
    return torch.cat([images for images, _ in vision.batches(split, batch_size=32, balanced=True)]).flatten().tolist()


def evaluate_on_both_splits(model):
    """Compute every metric on three batches of images, and on one."""
    val = noisy().val
    splits = (val, vision.ImageSplit(val.images_NCHW[:100], val.labels_N[:100]))
    return [vision.evaluate(model, split, metrics=CLASSIFICATION_METRICS) for split in splits]


def score(folder):
    """Evaluate a model whose batch statistics differ between the ranks; those of rank 0 are used.

    The second split has a single batch, so that rank 1 evaluates none.
    """
    torch.manual_seed(1)
    model = vision.build_model(num_classes=7, image_shape=(1, 8, 8), mean=(0.3,), std=(0.2,), width=4)
    torch.manual_seed(2 + distributed.rank())
    model(torch.rand(64, 1, 8, 8))
    return evaluate_on_both_splits(model)


def report_once(folder, metrics):
    """Report metrics that differ between the ranks; return what rank 0 received, or the error."""
    received, model = [], nn.Linear(2, 2)
    with session.open_session(Session(data=noisy(), folder=folder, on_report=received.append)):
        run = session.restore(session.prepare(model))
        try:
            session.report(metrics, run)
        except session.TrainingFailed as error:
            return str(error)
    return [
        {name: value for name, value in metrics.items() if "/" in name and "time" not in name} for metrics in received
    ]


def stopped(folder):
    """Stop rank 0 after epoch 2; return how this rank's loop ended, and how many epochs it had started."""
    started, model = 0, nn.Linear(2, 2)

    def report(metrics):
        if metrics["epoch"] == 2:
            raise Stop

    with session.open_session(Session(data=noisy(), folder=folder, on_report=report)):
        run = session.restore(session.prepare(model))
        try:
            for epoch in range(NUM_EPOCHS):
                started = epoch + 1
                session.report({"val/accuracy": 0.5}, run)
        except BaseException as error:
            return [type(error).__name__, started]
    return ["ended by itself", started]


def drawn(folder):
    """Return the random numbers that this rank draws before and after the restore, and in the next epoch."""
    with session.open_session(Session(data=noisy(), folder=folder, on_report=lambda _: None)):
        numbers = [torch.rand(()).item()]
        run = session.restore(nn.Linear(2, 2))
        numbers.append(torch.rand(()).item())
        session.report({"val/accuracy": 0.5}, run)
        return [*numbers, torch.rand(()).item()]


def too_few(folder):
    """Train on one image with two ranks, and return the error."""
    try:
        return train(folder, data=noisy(num_train=1))
    except session.TrainingFailed as error:
        return str(error)


def main():
    rank, root = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(str(root / "store"), NUM_RANKS),
        rank=rank,
        world_size=NUM_RANKS,
        timeout=timedelta(seconds=60),
    )
    nan = float("nan") if rank == 1 else 0.5
    results = {
        **{f"straight {name}": train(root / f"straight-{name}", trainer=name) for name in TRAINERS},
        "with batch statistics": train(root / "statistics", batch_statistics=True),
        "augmented": train(root / "augmented", augment="heavy", dropout=0.2),
        "first half": halved(root / "halved", stop_after=2),
        "second half": train(root / "halved"),
        "after one rank": train(root / "from_one"),
        "for one rank": halved(root / "for_one", stop_after=2),
        "shares": shares(root / "shares"),
        "balanced": balanced_epoch(),
        "score": score(root / "score"),
        "mean": report_once(root / "mean", {"val/accuracy": 0.1, "train/loss": 1.0 + rank}),
        "nan": report_once(root / "nan", {"val/accuracy": 0.1, "train/loss": nan}),
        "others": report_once(root / "others", {"val/accuracy": 0.1, **({"train/extra": 1.0} if rank else {})}),
        "stopped": stopped(root / "stopped"),
        "drawn": drawn(root / "drawn"),
        "too few": too_few(root / "few"),
    }
    (root / f"{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


def halved(folder, *, stop_after):
    """Train until the sweep stops the trial; on the other ranks SystemExit ends the loop."""
    try:
        return train(folder, stop_after=stop_after)
    except SystemExit:
        return []


if __name__ == "__main__":
    main()
