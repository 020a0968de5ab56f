"""The session and its checkpoints, and the conformance of every trainer to the session's rules."""

import ast
import contextlib
import importlib
import json
import math
import os
import pickle
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.photos import TINY, load_weights
from toprung import data, session, vision
from toprung.records import checkpoint
from toprung.records.checkpoint import DamagedCheckpoint, Progress
from toprung.records.trial_folder import LAST_FILE, PREVIOUS_FILE, WEIGHTS_FILE, WEIGHTS_META_FILE
from toprung.session import Session, TrialData
from toprung.spec import CLASSIFICATION_METRICS

PROJECT = Path(__file__).parent.parent
TRAINERS = sorted(file.stem for file in (PROJECT / "trainers").glob("[!_]*.py"))
SMALL = {"width": 4, "depth": 2, "batch_size": 32, "augment": "heavy", "schedule": "onecycle", "dropout": 0.2}


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> TrialData:
    root = tmp_path_factory.mktemp("prepared")
    card = data.prepare("digits", out=root / "digits")
    prepared = data.open_prepared("digits", root=root)
    images, labels = torch.from_numpy(np.array(prepared.images_NCHW)), torch.from_numpy(np.array(prepared.labels_N))
    return TrialData(
        train=vision.ImageSplit(images[:200], labels[:200]),
        val=vision.ImageSplit(images[200:300], labels[200:300]),
        card=card,
    )


class Stop(Exception):
    """Raised in `report` to end a loop, as Tune does when ASHA stops the trial."""


def _train(digits, folder, *, trainer="convnet", stop_after=None, seed=0, num_epochs=4, **config):
    module = importlib.import_module(f"trainers.{trainer}")
    reports = []

    def report(metrics):
        reports.append({name: value for name, value in metrics.items() if not name.startswith("time")})
        if len(reports) == stop_after:
            raise Stop

    trial_session = Session(
        data=digits, folder=folder, on_report=report, seed=seed, num_threads=1, load_weights=load_weights
    )
    small = {**{k: v for k, v in SMALL.items() if k in module.DEFAULTS}, **TINY.get(trainer, {})}
    config = {**module.DEFAULTS, **small, **config}
    with session.open_session(trial_session), contextlib.suppress(Stop):
        module.train_loop_per_worker({**config, "num_epochs": num_epochs})
    return reports


@pytest.fixture(autouse=True)
def threads():
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_one_epoch_works_and_reports_the_agreed_metrics(digits, tmp_path, trainer):
    (report,) = _train(digits, tmp_path, trainer=trainer, num_epochs=1)
    assert set(report) == {"epoch", "train/loss", "val/loss", "val/accuracy"}
    assert report["epoch"] == 1
    assert 0 <= report["val/accuracy"] <= 1


@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_driver_reads_the_same_defaults_as_the_loop(trainer):
    tree = ast.parse((PROJECT / "trainers" / f"{trainer}.py").read_text())
    literal = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "DEFAULTS"
    )
    assert literal == importlib.import_module(f"trainers.{trainer}").DEFAULTS


@pytest.mark.parametrize("trainer", TRAINERS)
def test_equal_seeds_give_equal_numbers_and_different_seeds_different_ones(digits, tmp_path, trainer):
    first = _train(digits, tmp_path / "a", trainer=trainer, num_epochs=2)
    torch.manual_seed(99)  # the random state before a session has no effect
    assert _train(digits, tmp_path / "b", trainer=trainer, num_epochs=2) == first
    assert _train(digits, tmp_path / "c", trainer=trainer, num_epochs=2, seed=1) != first


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("stop_after", [1, 3])
def test_stopping_and_restoring_equals_an_uninterrupted_run_to_the_last_digit(
    digits, tmp_path, trainer, optimizer, stop_after
):
    uninterrupted = _train(digits, tmp_path / "uninterrupted", trainer=trainer, optimizer=optimizer)
    before = _train(digits, tmp_path / "stopped", trainer=trainer, optimizer=optimizer, stop_after=stop_after)
    after = _train(digits, tmp_path / "stopped", trainer=trainer, optimizer=optimizer)
    assert len(before) == stop_after
    assert [*before, *after] == uninterrupted
    first, second = (
        torch.load(tmp_path / name / LAST_FILE, weights_only=True) for name in ("uninterrupted", "stopped")
    )
    progress_without_times = [
        {
            **saved["progress"],
            "last_report": {k: v for k, v in saved["progress"]["last_report"].items() if "time" not in k},
        }
        for saved in (first, second)
    ]
    assert progress_without_times[0] == progress_without_times[1]
    assert all(torch.equal(first["model"][name], second["model"][name]) for name in first["model"])


@pytest.mark.parametrize("trainer", TRAINERS)
def test_restoring_a_finished_trial_trains_no_more_epochs(digits, tmp_path, trainer):
    _train(digits, tmp_path, trainer=trainer, num_epochs=2)
    assert _train(digits, tmp_path, trainer=trainer, num_epochs=2) == []


def test_the_best_epochs_weights_are_kept_and_reproduce_the_reported_score(digits, tmp_path):
    reports = _train(digits, tmp_path, optimizer="sgd", lr=0.3, schedule="constant", num_epochs=5)
    best = max(reports, key=lambda report: (report["val/accuracy"], -report["epoch"]))
    meta = json.loads((tmp_path / WEIGHTS_META_FILE).read_text())
    assert meta["epoch"] == best["epoch"]
    assert meta["metrics"] == {name: value for name, value in best.items() if name != "epoch"}
    model = vision.build_model(**meta["architecture"]["arguments"])
    model.load_state_dict(torch.load(tmp_path / WEIGHTS_FILE, weights_only=True))
    torch.set_num_threads(1)
    model = model.to(memory_format=torch.channels_last)
    assert vision.evaluate(model, digits.val)["val/accuracy"] == best["val/accuracy"]


def test_the_loop_does_not_change_the_images(digits, tmp_path):
    before = digits.train.images_NCHW.clone(), digits.val.images_NCHW.clone()
    _train(digits, tmp_path, num_epochs=1)
    assert torch.equal(before[0], digits.train.images_NCHW)
    assert torch.equal(before[1], digits.val.images_NCHW)


def _opened(digits, folder, **fields):
    reports = []
    return reports, session.open_session(Session(data=digits, folder=folder, on_report=reports.append, **fields))


def _tiny():
    torch.manual_seed(0)
    return torch.nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("metrics", "cause"),
    [
        ({"val/accuracy": 0.5, "train/loss": float("nan")}, "train/loss is NaN in epoch 1"),
        ({"val/accuracy": 0.5, "val/loss": float("inf")}, "val/loss is infinite in epoch 1"),
        ({"val/accuracy": torch.tensor(float("nan"))}, "val/accuracy is NaN in epoch 1"),
        ({"val/loss": 0.5}, "the loop reported val/loss, but the sweep's metric is val/accuracy"),
        ({}, "the loop reported nothing, but the sweep's metric is val/accuracy"),
        ({"val/accuracy": None}, "the metric val/accuracy is not a number but NoneType"),
        ({"val/accuracy": torch.zeros(2)}, "the metric val/accuracy is not a number but Tensor"),
        (
            {"val/accuracy": 0.5, "epoch": 0},
            'the loop cannot report this metric: "epoch" is a reserved name; rename it in session.report',
        ),
        (
            {"val/accuracy": 0.5, "val/acc@5": 0.5},
            "the loop cannot report this metric: MLflow rejects the '@' in \"val/acc@5\"; rename it in session.report",
        ),
        (
            {"val/accuracy": 0.5, 5: 0.5},
            "the loop cannot report this metric: 5 is not text; rename it in session.report",
        ),
    ],
)
def test_an_invalid_report_fails_the_training_with_its_cause(digits, tmp_path, metrics, cause):
    reports, opened = _opened(digits, tmp_path)
    with opened, pytest.raises(session.TrainingFailed) as caught:
        session.report(metrics, session.restore(_tiny()))
    assert str(caught.value) == cause
    assert reports == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, ("val/loss", "val/accuracy")),
        ({"metrics": ("val/ece",)}, ("val/ece", "val/accuracy")),
        ({"metrics": (), "metric": "val/f1_macro"}, ("val/f1_macro",)),
        ({"metrics": ("val/loss",), "metric": "val/own"}, ("val/loss",)),
    ],
)
def test_the_loop_computes_the_listed_metrics_and_that_of_the_sweep(digits, tmp_path, fields, names):
    _, opened = _opened(digits, tmp_path, **fields)
    with opened:
        assert session.metrics() == names


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_trainer_reports_the_metrics_that_the_session_names(digits, tmp_path, trainer):
    fields = {"metrics": CLASSIFICATION_METRICS, "metric": "val/auroc_macro", "load_weights": load_weights}
    reports, opened = _opened(digits, tmp_path, num_threads=1, **fields)
    module = importlib.import_module(f"trainers.{trainer}")
    small = {name: value for name, value in SMALL.items() if name in module.DEFAULTS} | TINY.get(trainer, {})
    with opened:
        module.train_loop_per_worker({**module.DEFAULTS, **small, "num_epochs": 2})
    assert {"train/loss", *CLASSIFICATION_METRICS} <= reports[0].keys()
    best = max(reports, key=lambda report: report["val/auroc_macro"])
    assert json.loads((tmp_path / WEIGHTS_META_FILE).read_text())["epoch"] == best["epoch"]


def test_a_loop_that_does_not_compute_the_sweeps_metric_is_told_how(digits, tmp_path):
    _, opened = _opened(digits, tmp_path, metric="val/f1_macro")
    with opened, pytest.raises(session.TrainingFailed) as caught:
        session.report({"val/loss": 0.5}, session.restore(_tiny()))
    assert str(caught.value) == (
        "the loop reported val/loss, but the sweep's metric is val/f1_macro: pass metrics=session.metrics() to "
        "vision.evaluate"
    )


def test_a_learning_rate_far_too_high_fails_with_a_clear_cause(digits, tmp_path):
    with pytest.raises(session.TrainingFailed, match=r"^train/loss is (NaN|infinite) in epoch \d$"):
        _train(digits, tmp_path, optimizer="sgd", lr=1e30, schedule="constant")


def test_a_report_has_epoch_metrics_as_floats_and_seconds(digits, tmp_path):
    reports, opened = _opened(digits, tmp_path)
    with opened:
        run = session.restore(_tiny())
        session.report({"val/accuracy": torch.tensor(0.5), "val/loss": np.float32(2)}, run)
        session.report({"val/accuracy": 0.25}, run)
    assert [{k: v for k, v in metrics.items() if not k.startswith("time")} for metrics in reports] == [
        {"epoch": 1, "val/accuracy": 0.5, "val/loss": 2.0},
        {"epoch": 2, "val/accuracy": 0.25},
    ]
    assert all(metrics["time/epoch_seconds"] > 0 for metrics in reports)
    assert all(abs(metrics["time_ms"] / 1000 - time.time()) < 60 for metrics in reports)
    assert run.progress == Progress(epochs=2, best_epoch=1, best_value=0.5, last_report=reports[-1])


def test_the_checkpoint_is_on_disk_before_the_epoch_is_reported(digits, tmp_path):
    files = []
    trial_session = Session(
        data=digits,
        folder=tmp_path,
        on_report=lambda metrics: files.append(sorted(path.name for path in tmp_path.iterdir())),
    )
    with session.open_session(trial_session):
        session.report({"val/accuracy": 0.5}, session.restore(_tiny()))
    assert files == [sorted([WEIGHTS_META_FILE, LAST_FILE, WEIGHTS_FILE])]


def test_lower_is_better_if_the_sweeps_mode_is_min(digits, tmp_path):
    reports, opened = _opened(digits, tmp_path, metric="val/loss", mode="min")
    with opened:
        run = session.restore(_tiny())
        for value in (0.5, 0.3, 0.3, 0.4):
            session.report({"val/loss": value}, run)
    assert run.progress == Progress(epochs=4, best_epoch=2, best_value=0.3, last_report=reports[-1])
    assert json.loads((tmp_path / WEIGHTS_META_FILE).read_text())["epoch"] == 2


def test_without_a_session_the_error_says_how_to_start_a_loop():
    for call in (session.dataset, session.device, lambda: session.prepare(_tiny()), lambda: session.restore(_tiny())):
        with pytest.raises(RuntimeError, match=r"^No session is open: start a loop with `toprung train`"):
            call()


def test_a_session_ends_even_if_its_loop_raises(digits, tmp_path):
    _, opened = _opened(digits, tmp_path)
    with pytest.raises(ZeroDivisionError), opened:
        raise ZeroDivisionError
    with pytest.raises(RuntimeError, match="No session is open"):
        session.dataset()


def _saved(folder):
    model = _tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    progress = Progress(epochs=2, best_epoch=1, best_value=0.5)
    checkpoint.save_last(folder, model=model, optimizer=optimizer, schedule=None, progress=progress)
    return model, optimizer, progress


def test_a_checkpoint_is_read_back_as_it_was_written(tmp_path):
    model, _, progress = _saved(tmp_path)
    restored, saved = torch.nn.Linear(2, 2), checkpoint.read_last(tmp_path)
    assert checkpoint.restore_into(saved, model=restored, optimizer=None, schedule=None) == progress
    assert torch.equal(restored.weight, model.weight)
    assert [path.name for path in tmp_path.iterdir()] == [LAST_FILE]


def test_no_checkpoint_is_a_fresh_start(tmp_path):
    assert checkpoint.read_last(tmp_path) is None


def _truncate(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_checkpoint_is_replaced_by_the_previous_one(tmp_path, share):
    _saved(tmp_path)
    model, optimizer, progress = _saved(tmp_path)
    later = Progress(epochs=3, best_epoch=3, best_value=0.7)
    checkpoint.save_last(tmp_path, model=model, optimizer=optimizer, schedule=None, progress=later)
    _truncate(tmp_path / LAST_FILE, share)
    restored, saved = torch.nn.Linear(2, 2), checkpoint.read_last(tmp_path)
    assert checkpoint.restore_into(saved, model=restored, optimizer=None, schedule=None) == progress
    assert torch.equal(restored.weight, model.weight)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_if_both_checkpoints_are_truncated_the_training_starts_from_scratch(tmp_path, share, caplog):
    _saved(tmp_path)
    _saved(tmp_path)
    for name in (LAST_FILE, PREVIOUS_FILE):
        _truncate(tmp_path / name, share)
    assert checkpoint.read_last(tmp_path) is None
    assert [name in caplog.text for name in (LAST_FILE, PREVIOUS_FILE)] == [True, True]


@pytest.mark.parametrize("state", [{"model": {}}, {}, [1, 2], 3])
def test_another_kind_of_file_is_not_a_checkpoint(tmp_path, state):
    torch.save(state, tmp_path / LAST_FILE)
    assert checkpoint.read_last(tmp_path) is None


def test_a_checkpoint_without_weights_is_damaged(tmp_path):
    torch.save({"progress": {"epochs": 1}}, tmp_path / LAST_FILE)
    with pytest.raises(DamagedCheckpoint, match=r"last\.pth does not fit this loop"):
        checkpoint.restore_into(checkpoint.read_last(tmp_path), model=_tiny(), optimizer=None, schedule=None)


def _one_epoch(digits, folder, reports, *, recorded_epochs, loop_epochs=1):
    trial_session = Session(data=digits, folder=folder, on_report=reports.append, recorded_epochs=recorded_epochs)
    with session.open_session(trial_session):
        run = session.restore(_tiny())
        for epoch in range(run.next_epoch, loop_epochs):
            session.report({"val/accuracy": 0.1 * (epoch + 1)}, run)


@pytest.mark.parametrize(("recorded_epochs", "num_reports"), [(None, 0), (0, 1), (1, 0)])
def test_an_epoch_whose_report_was_lost_is_reported_again_once(digits, tmp_path, recorded_epochs, num_reports):
    reports, later_reports = [], []
    _one_epoch(digits, tmp_path, reports, recorded_epochs=None)
    _one_epoch(digits, tmp_path, later_reports, recorded_epochs=recorded_epochs)
    assert later_reports == reports * num_reports


@pytest.mark.parametrize("schedule", ["constant", "cosine", "onecycle"])
def test_a_longer_budget_continues_with_the_learning_rate_of_its_schedule(digits, tmp_path, schedule):
    def rates(folder, *, num_epochs, stop_after=None):
        model, learning_rates = _tiny(), []
        optimizer = vision.build_optimizer(model, optimizer="sgd", lr=0.5, momentum=0.9)
        scheduler = vision.build_schedule(optimizer, schedule=schedule, num_epochs=num_epochs, steps_per_epoch=3)
        trial_session = Session(data=digits, folder=folder, on_report=lambda metrics: None, num_epochs=num_epochs)
        with session.open_session(trial_session):
            run = session.restore(model, optimizer, scheduler)
            for _ in range(run.next_epoch, stop_after or num_epochs):
                for _ in range(3):
                    learning_rates.append(optimizer.param_groups[0]["lr"])
                    optimizer.step()
                    scheduler.step()
                session.report({"val/accuracy": 0.5}, run)
        return learning_rates

    uninterrupted = rates(tmp_path / "uninterrupted", num_epochs=6)
    rates(tmp_path / "longer", num_epochs=2)
    assert rates(tmp_path / "longer", num_epochs=6) == pytest.approx(uninterrupted[6:])
    rates(tmp_path / "same", num_epochs=6, stop_after=2)
    assert rates(tmp_path / "same", num_epochs=6) == pytest.approx(uninterrupted[6:])


def test_a_checkpoint_of_another_architecture_is_damaged(tmp_path):
    _saved(tmp_path)
    with pytest.raises(DamagedCheckpoint, match="size mismatch"):
        checkpoint.restore_into(
            checkpoint.read_last(tmp_path), model=torch.nn.Linear(3, 2), optimizer=None, schedule=None
        )


def test_a_learning_rate_computed_with_numpy_is_saved_as_a_number_and_restored(digits, tmp_path):
    def build():
        model = _tiny()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1 * np.sqrt(4), momentum=np.float32(0.5))
        return model, optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=list(np.arange(1, 3)))

    trial_session = Session(data=digits, folder=tmp_path, on_report=lambda metrics: None)
    model, optimizer, schedule = build()
    with session.open_session(trial_session):
        run = session.restore(model, optimizer, schedule)
        optimizer.step()
        schedule.step()
        session.report({"val/accuracy": np.float64(0.5)}, run)
    model, restored_optimizer, restored_schedule = build()
    with session.open_session(trial_session):
        assert session.restore(model, restored_optimizer, restored_schedule).next_epoch == 1
    assert restored_optimizer.state_dict() == optimizer.state_dict()
    assert restored_schedule.state_dict() == schedule.state_dict()
    assert type(restored_optimizer.param_groups[0]["lr"]) is float


class _WithExtraState(torch.nn.Linear):
    def __init__(self, extra):
        super().__init__(2, 2)
        self.extra = extra

    def get_extra_state(self):
        return self.extra


@pytest.mark.parametrize(
    ("part", "cause"), [("optimizer", "the optimizer holds pathlib"), ("model", "the model holds pathlib")]
)
def test_a_first_checkpoint_that_cannot_be_read_back_fails_the_training_with_its_cause(digits, tmp_path, part, cause):
    reports, opened = _opened(digits, tmp_path)
    model = _tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if part == "model":
        model = _WithExtraState(tmp_path)
    else:
        optimizer.param_groups[0]["folder"] = tmp_path
    with opened, pytest.raises(session.TrainingFailed, match="^its checkpoint could not be read back: " + cause):
        session.report({"val/accuracy": 0.5}, session.restore(model, optimizer))
    assert reports == []
    assert list(tmp_path.iterdir()) == []


class _Bomb:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


@pytest.mark.parametrize("save", [torch.save, lambda state, path: path.write_bytes(pickle.dumps(state, protocol=2))])
def test_a_pickle_in_place_of_a_checkpoint_runs_no_code(tmp_path, save):
    save({"model": _Bomb(tmp_path / "exploded")}, tmp_path / LAST_FILE)
    assert checkpoint.read_last(tmp_path) is None
    assert not (tmp_path / "exploded").exists()


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one_intact(tmp_path, monkeypatch):
    _, _, progress = _saved(tmp_path)

    def full(state, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(checkpoint.DiskFull, match="no space left for"):
        _saved(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LAST_FILE]
    assert (
        checkpoint.restore_into(checkpoint.read_last(tmp_path), model=_tiny(), optimizer=None, schedule=None)
        == progress
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_full_disk_is_reported_as_such(tmp_path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path], check=True)
    try:
        model = torch.nn.Linear(100, 1000)  # 400 kB
        with pytest.raises(checkpoint.DiskFull):
            checkpoint.save_last(tmp_path, model=model, optimizer=None, schedule=None, progress=Progress())
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("kind", ["plateau", "chained"])
def test_a_longer_budget_continues_with_the_learning_rate_of_any_schedule(digits, tmp_path, kind):
    def train(num_epochs):
        model = _tiny()
        optimizer = vision.build_optimizer(model, optimizer="sgd", lr=0.5, momentum=0.9)
        if kind == "plateau":
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        else:
            cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_epochs)
            scheduler = torch.optim.lr_scheduler.ChainedScheduler([cosine])
        trial_session = Session(data=digits, folder=tmp_path, on_report=lambda metrics: None, num_epochs=num_epochs)
        with session.open_session(trial_session):
            run = session.restore(model, optimizer, scheduler)
            before = optimizer.param_groups[0]["lr"]
            for _ in range(run.next_epoch, num_epochs):
                optimizer.step()
                scheduler.step(*([1.0] if kind == "plateau" else []))
                session.report({"val/accuracy": 0.5}, run)
        return before, optimizer.param_groups[0]["lr"]

    _, after = train(num_epochs=2)
    expected = after if kind == "plateau" else 0.5 * (1 + math.cos(math.pi * 2 / 8)) / 2
    assert train(num_epochs=8)[0] == pytest.approx(expected)
