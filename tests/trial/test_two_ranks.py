"""One trial trained by two processes: the loop and the numbers are the same as with one, and only rank 0 reports."""

import json
import os
import subprocess
import sys

import pytest
import torch

from tests.trial.two_ranks import NUM_EPOCHS, PROJECT, TRAINERS, balanced_epoch, evaluate_on_both_splits, noisy, train
from toprung import vision
from toprung.records.trial_folder import LAST_FILE, WEIGHTS_FILE
from toprung.spec import CLASSIFICATION_METRICS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The results of one rank, and the folder with its checkpoint of epoch 2 for two ranks."""
    root = tmp_path_factory.mktemp("ranks")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    results = {
        **{f"straight {name}": train(root / f"one_straight-{name}", trainer=name) for name in TRAINERS},
        "with batch statistics": train(root / "one_statistics", batch_statistics=True),
        "for two ranks": train(root / "from_one", stop_after=2),
    }
    yield root, results
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def two(one):
    """The results of each of two ranks that ran together."""
    root, _ = one
    command = [sys.executable, "-m", "tests.trial.two_ranks"]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(PROJECT)}
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(root)], cwd=PROJECT, env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    return [json.loads((root / f"{rank}.json").read_text()) for rank in range(2)]


def _close(some, others):
    assert len(some) == len(others)
    for report, other in zip(some, others, strict=True):
        assert report == pytest.approx(other, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_without_batch_statistics_two_ranks_train_as_one_does(one, two, trainer):
    reports = two[0][f"straight {trainer}"]
    assert len(reports) == NUM_EPOCHS
    _close(reports, one[1][f"straight {trainer}"])


@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_weights_equal_those_of_one_rank_and_have_the_same_names(one, two, trainer):
    folders = (one[0] / f"{name}-{trainer}" for name in ("straight", "one_straight"))
    ours, others = (torch.load(folder / WEIGHTS_FILE, weights_only=True) for folder in folders)
    assert list(ours) == list(others)
    for name in ours:
        torch.testing.assert_close(ours[name], others[name], rtol=1e-3, atol=1e-4)


def test_with_batch_statistics_each_rank_normalises_by_its_own_part(one, two):
    ours, others = two[0]["with batch statistics"], one[1]["with batch statistics"]
    assert [report["train/loss"] for report in ours] != pytest.approx(
        [report["train/loss"] for report in others], rel=1e-3
    )
    assert ours[-1]["val/accuracy"] == pytest.approx(others[-1]["val/accuracy"], abs=0.15)


def test_only_rank_0_reports_and_writes_files(one, two):
    root, _ = one
    assert [report["epoch"] for report in two[0]["augmented"]] == [1, 2, 3, 4]
    assert two[1]["augmented"] == two[1]["straight convnet"] == []
    assert {file.name for file in (root / "straight-convnet").iterdir()} >= {LAST_FILE, WEIGHTS_FILE}


def test_stopping_and_restoring_equals_the_straight_run(two):
    assert two[0]["first half"] + two[0]["second half"] == two[0]["straight convnet"]


def test_a_checkpoint_can_be_continued_by_another_number_of_ranks(one, two):
    root, alone = one
    _close(alone["for two ranks"] + two[0]["after one rank"], alone["straight convnet"])
    _close(two[0]["for one rank"] + train(root / "for_one"), alone["straight convnet"])


def test_each_rank_has_its_own_equal_part_of_every_minibatch(two):
    for epoch in range(2):
        batches = list(zip(two[0]["shares"]["epochs"][epoch], two[1]["shares"]["epochs"][epoch], strict=True))
        assert len(batches) == two[0]["shares"]["num_batches"] == vision.num_batches(noisy(103).train, batch_size=32)
        assert all(len(ours) == len(others) and 2 * len(ours) <= 32 for ours, others in batches)
        observed = [label for batch in batches for part in batch for label in part]
        assert len(set(observed)) == len(observed) == 102 == 2 * two[0]["shares"]["len"]
    assert two[0]["shares"]["epochs"][0] != two[0]["shares"]["epochs"][1]


def test_a_balanced_epoch_of_rank_0_is_divided_among_the_ranks(two):
    order = balanced_epoch()
    assert len(order) == 103
    assert [ranks["balanced"] for ranks in two] == [order[:102:2], order[1:102:2]]


def test_ranks_that_share_the_evaluation_get_exactly_the_values_of_one_process(two):
    torch.manual_seed(1)
    model = vision.build_model(num_classes=7, image_shape=(1, 8, 8), mean=(0.3,), std=(0.2,), width=4)
    torch.manual_seed(2)
    model(torch.rand(64, 1, 8, 8))
    alone = evaluate_on_both_splits(model)
    assert [list(metrics) for metrics in alone] == [list(CLASSIFICATION_METRICS)] * 2
    assert two[0]["score"] == two[1]["score"] == alone


def test_metrics_are_means_over_the_ranks(two):
    assert two[0]["mean"] == [{"val/accuracy": 0.1, "train/loss": 1.5}]


def test_nan_on_any_rank_fails_the_trial_and_names_the_rank(two):
    assert two[0]["nan"] == two[1]["nan"] == "train/loss is NaN in epoch 1 on worker 1"


def test_ranks_that_report_different_metrics_fail_the_trial(two):
    assert two[0]["others"] == two[1]["others"]
    assert two[0]["others"] == "worker 1 reported other metrics than worker 0: val/accuracy, train/extra"


def test_a_stop_ends_every_rank_before_another_step(two):
    assert two[0]["stopped"] == ["Stop", 2]
    assert two[1]["stopped"] == ["SystemExit", 2]


def test_ranks_start_with_the_same_random_numbers_and_then_draw_their_own(two):
    (first, *ours), (second, *others) = two[0]["drawn"], two[1]["drawn"]
    assert first == second
    assert all(one != other for one, other in zip(ours, others, strict=True))


def test_fewer_images_than_workers_fail_the_trial(two):
    assert two[0]["too few"] == "1 training image cannot be shared by 2 workers"
