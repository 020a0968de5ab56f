"""Classification metrics, compared with torchmetrics, which rounds to float32, and with sums made by hand."""

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torchmetrics.functional import classification as torchmetrics

from toprung.spec import CLASSIFICATION_METRICS
from toprung.vision import calibration, class_report
from toprung.vision.metrics import bootstrap_interval, classification_metrics

POOLED = CLASSIFICATION_METRICS[2:]


def random_predictions(*, num_images=400, num_classes=7, seed=0):
    """Return logits that favour the right class, and labels of classes of different sizes."""
    generator = torch.Generator().manual_seed(seed)
    shares_K = torch.arange(1, num_classes + 1).double()
    labels_N = torch.multinomial(shares_K, num_images, replacement=True, generator=generator)
    logits_NK = 2 * torch.randn(num_images, num_classes, generator=generator)
    logits_NK[torch.arange(num_images), labels_N] += 2
    return logits_NK, labels_N


@pytest.mark.parametrize("num_classes", [2, 3, 7, 30])
def test_every_metric_equals_that_of_torchmetrics(num_classes):
    logits_NK, labels_N = random_predictions(num_images=3000, num_classes=num_classes)
    assert len(labels_N.unique()) == num_classes
    expected = {
        "val/balanced_accuracy": torchmetrics.multiclass_accuracy(logits_NK, labels_N, num_classes, average="macro"),
        "val/f1_macro": torchmetrics.multiclass_f1_score(logits_NK, labels_N, num_classes, average="macro"),
        "val/auroc_macro": torchmetrics.multiclass_auroc(logits_NK, labels_N, num_classes, average="macro"),
        "val/ece": torchmetrics.multiclass_calibration_error(logits_NK, labels_N, num_classes, n_bins=15),
    }
    if num_classes > 5:
        expected["val/top5_accuracy"] = torchmetrics.multiclass_accuracy(
            logits_NK, labels_N, num_classes, average="micro", top_k=5
        )
    computed = classification_metrics(logits_NK, labels_N, metrics=POOLED)
    assert computed == pytest.approx({name: value.item() for name, value in expected.items()}, abs=2e-6)


def test_every_metric_has_the_definition_of_scikit_learn():
    logits_NK, labels_N = random_predictions()
    labels, predicted, probabilities = labels_N.numpy(), logits_NK.argmax(1).numpy(), logits_NK.double().softmax(1)
    assert classification_metrics(logits_NK, labels_N, metrics=POOLED[:4]) == pytest.approx(
        {
            "val/balanced_accuracy": sklearn_metrics.balanced_accuracy_score(labels, predicted),
            "val/f1_macro": sklearn_metrics.f1_score(labels, predicted, average="macro"),
            "val/auroc_macro": sklearn_metrics.roc_auc_score(labels, probabilities.numpy(), multi_class="ovr"),
            "val/top5_accuracy": sklearn_metrics.top_k_accuracy_score(labels, logits_NK.numpy(), k=5),
        },
        abs=1e-12,
    )


def test_only_the_metrics_that_are_named_are_computed():
    assert list(classification_metrics(*random_predictions(), metrics=["val/ece", "val/loss", "val/f1_macro"])) == [
        "val/ece",
        "val/f1_macro",
    ]


def test_a_class_without_images_is_left_out_of_every_mean():
    labels_N = torch.tensor([0, 0, 1, 1])
    logits_NK = 9 * torch.nn.functional.one_hot(torch.tensor([0, 2, 1, 1]), 8).float()
    logits_NK[1, 2] = 20  # class 2 has no images
    computed = classification_metrics(logits_NK, labels_N, metrics=POOLED)
    assert computed["val/balanced_accuracy"] == (1 / 2 + 1) / 2
    assert computed["val/f1_macro"] == pytest.approx((2 / 3 + 1) / 2, abs=1e-15)
    assert computed["val/auroc_macro"] == (1 / 2 + 1) / 2  # of class 0, the second image ranks last
    assert all(0 <= value <= 1 for value in computed.values())


@pytest.mark.parametrize("num_images", [1, 3])
def test_images_of_a_single_class_give_finite_metrics(num_images):
    computed = classification_metrics(torch.rand(num_images, 6), torch.full((num_images,), 2), metrics=POOLED)
    assert set(computed) == set(POOLED)
    assert all(math.isfinite(value) for value in computed.values())
    assert computed["val/auroc_macro"] == 0.5


def test_a_perfect_and_confident_model_scores_exactly_one_and_has_no_calibration_error():
    labels_N = torch.arange(60) % 6
    perfect = classification_metrics(1000.0 * torch.nn.functional.one_hot(labels_N), labels_N, metrics=POOLED)
    assert perfect == {**dict.fromkeys(POOLED, 1.0), "val/ece": 0.0}


def test_equal_logits_score_as_a_random_ranking_does():
    labels_N = torch.arange(60) % 6
    constant = classification_metrics(torch.zeros(60, 6), labels_N, metrics=POOLED)
    assert constant["val/auroc_macro"] == 0.5
    assert constant["val/top5_accuracy"] == 5 / 6
    assert constant["val/ece"] == pytest.approx(0, abs=1e-15)


def test_the_top_five_of_five_classes_are_not_reported():
    logits_NK, labels_N = random_predictions(num_classes=5)
    assert "val/top5_accuracy" not in classification_metrics(logits_NK, labels_N, metrics=POOLED)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_make_every_metric_nan(value):
    logits_NK, labels_N = random_predictions()
    logits_NK[3, 2] = value
    computed = classification_metrics(logits_NK, labels_N, metrics=POOLED)
    assert set(computed) == set(POOLED)
    assert all(math.isnan(value) for value in computed.values())


def test_the_digits_do_not_depend_on_the_number_of_threads():
    logits_NK, labels_N = random_predictions(num_images=70_000)  # torch splits longer sums among its threads
    threads, computed = torch.get_num_threads(), []
    for num_threads in (1, 2, 3):
        torch.set_num_threads(num_threads)
        computed.append(classification_metrics(logits_NK, labels_N, metrics=POOLED))
    torch.set_num_threads(threads)
    assert computed[0] == computed[1] == computed[2]


def test_the_report_of_the_classes_marks_undefined_scores():
    labels_N = torch.tensor([0, 0, 0, 1, 1])
    logits_NK = torch.nn.functional.one_hot(torch.tensor([0, 0, 2, 0, 2]), 4).float()
    report = class_report(logits_NK, labels_N)
    assert report.support_K.tolist() == [3, 2, 0, 0]
    np.testing.assert_array_equal(report.recall_K, [2 / 3, 0, np.nan, np.nan])
    np.testing.assert_array_equal(report.precision_K, [2 / 3, np.nan, 0, np.nan])
    np.testing.assert_allclose(report.f1_K, [2 / 3, 0, 0, np.nan], rtol=1e-15)


def test_calibration_compares_confidence_and_accuracy_in_each_bin():
    confidences = (0.62, 0.65, 0.97, 1.0)  # two in the tenth of 15 bins, two in the last
    logits_NK = torch.tensor([[math.log(p / (1 - p)) if p < 1 else 1000.0, 0.0] for p in confidences])
    observed = calibration(logits_NK, torch.tensor([0, 1, 0, 0]))
    assert np.flatnonzero(observed.num_images_B).tolist() == [9, 14]
    np.testing.assert_allclose(observed.accuracy_B[[9, 14]], [0.5, 1])
    np.testing.assert_allclose(observed.confidence_B[[9, 14]], [0.635, 0.985], rtol=1e-6)
    assert np.isnan(observed.accuracy_B[0])
    assert observed.error == pytest.approx(0.5 * 0.135 + 0.5 * 0.015, abs=1e-7)


def test_the_bootstrap_interval_of_a_mean_is_that_of_the_normal_distribution():
    logits_NK, labels_N = random_predictions(num_images=500)
    losses_N = torch.nn.functional.cross_entropy(logits_NK.double(), labels_N, reduction="none")
    mean, half_width = losses_N.mean().item(), 1.96 * losses_N.std().item() / math.sqrt(500)
    low, high = bootstrap_interval("val/loss", logits_NK, labels_N, confidence=0.95)
    assert low == pytest.approx(mean - half_width, abs=0.15 * half_width)
    assert high == pytest.approx(mean + half_width, abs=0.15 * half_width)


@pytest.mark.parametrize("metric", ["val/f1_macro", "val/top5_accuracy"])
def test_the_bootstrap_interval_contains_the_value_of_many_images_and_shrinks_with_the_square_root(metric):
    many = classification_metrics(*random_predictions(num_images=100_000, seed=1), metrics=[metric])[metric]
    widths = []
    for num_images in (100, 400):
        low, high = bootstrap_interval(metric, *random_predictions(num_images=num_images), confidence=0.95)
        assert low < many < high
        widths.append(high - low)
    assert 1.5 < widths[0] / widths[1] < 2.7
