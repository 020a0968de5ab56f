import json
import subprocess
import sys

import pytest
import torch

from toprung.errors import UserError
from toprung.spec import CLASSIFICATION_METRICS
from toprung.vision import ImageSplit, build_model, evaluate, predict_logits

ARCHITECTURE = {"num_classes": 10, "image_shape": (1, 28, 28), "mean": (0.3,), "std": (0.2,), "width": 8}

# Run in a fresh process: load the weights from disk, with another memory layout and number of threads.
SCRIPT = """
import json, sys, torch
from toprung.vision import ImageSplit, build_model, evaluate
torch.set_num_threads(2)
saved = torch.load(sys.argv[1], weights_only=True)
model = build_model(**json.loads(sys.argv[2])).to(memory_format=torch.contiguous_format)
model.load_state_dict(saved["weights"])
split = ImageSplit(saved["images"], saved["labels"])
print(json.dumps(evaluate(model, split, metrics=json.loads(sys.argv[3]))))
"""


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = build_model(**ARCHITECTURE)
    model(torch.rand(64, 1, 28, 28))  # updates the running statistics of batch normalisation
    return model


@pytest.fixture
def split():
    torch.manual_seed(1)
    return ImageSplit(torch.randint(0, 256, (700, 1, 28, 28), dtype=torch.uint8), torch.randint(0, 10, (700,)))


def test_loss_and_accuracy_are_means_over_all_images(model, split):
    scores = evaluate(model, split)
    with torch.no_grad():
        logits_NK = model.eval()(split.images_NCHW)
    assert scores["val/loss"] == pytest.approx(
        torch.nn.functional.cross_entropy(logits_NK, split.labels_N).item(), abs=1e-5
    )
    assert scores["val/accuracy"] == (logits_NK.argmax(1) == split.labels_N).double().mean().item()


def test_evaluation_changes_nothing_in_the_model_or_the_random_state(model, split):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    for training in (True, False):
        model.train(training)
        evaluate(model, split)
        assert model.training == training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(random_state, torch.get_rng_state())


def test_the_mode_is_restored_even_if_the_evaluation_fails(model):
    with pytest.raises(RuntimeError):
        evaluate(model, ImageSplit(torch.zeros(3, 2, 28, 28), torch.zeros(3, dtype=torch.int64)))
    assert model.training


def test_scores_are_float32_even_inside_autocast(model, split):
    plain = evaluate(model, split)
    with torch.autocast("cpu", torch.bfloat16):
        assert evaluate(model, split) == plain


def test_a_fresh_process_gives_the_same_digits_with_any_threads_and_memory_layout(model, split, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    here = evaluate(model, split, metrics=CLASSIFICATION_METRICS)
    torch.set_num_threads(threads)
    saved = {"weights": model.state_dict(), "images": split.images_NCHW, "labels": split.labels_N}
    torch.save(saved, tmp_path / "saved.pth")
    arguments = [str(tmp_path / "saved.pth"), json.dumps(ARCHITECTURE), json.dumps(CLASSIFICATION_METRICS)]
    command = [sys.executable, "-c", SCRIPT, *arguments]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert json.loads(printed) == here


def test_more_metrics_leave_the_loss_and_the_accuracy_unchanged(model, split):
    every = evaluate(model, split, metrics=CLASSIFICATION_METRICS)
    assert list(every) == list(CLASSIFICATION_METRICS)
    assert {name: every[name] for name in ("val/loss", "val/accuracy")} == evaluate(model, split)
    assert evaluate(model, split, metrics=["val/ece"]) == {"val/ece": every["val/ece"]}


def test_the_metrics_are_those_of_the_logits_of_all_images(model, split):
    logits_NK = predict_logits(model, split)
    assert logits_NK.shape == (700, 10)
    torch.testing.assert_close(logits_NK, model.eval()(split.images_NCHW), rtol=1e-4, atol=1e-5)
    every = evaluate(model, split, metrics=CLASSIFICATION_METRICS)
    assert every["val/accuracy"] == (logits_NK.argmax(1) == split.labels_N).double().mean().item()
    assert every["val/top5_accuracy"] == pytest.approx(
        (logits_NK.topk(5).indices == split.labels_N[:, None]).any(1).double().mean().item(), abs=1e-15
    )


def test_the_default_metrics_import_neither_scikit_learn_nor_torchmetrics(tmp_path, model, split):
    torch.save({"weights": model.state_dict(), "images": split.images_NCHW, "labels": split.labels_N}, tmp_path / "s")
    script = SCRIPT + 'print(sorted({"sklearn", "torchmetrics", "scipy"} & set(sys.modules)))\n'
    arguments = [str(tmp_path / "s"), json.dumps(ARCHITECTURE), '["val/loss", "val/accuracy"]']
    command = [sys.executable, "-c", script, *arguments]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed.splitlines()[-1] == "[]"


def test_an_unknown_metric_is_refused_with_a_suggestion(model, split):
    with pytest.raises(UserError, match=r'^No classification metric "val/f1"\. Did you mean val/f1_macro\?$'):
        evaluate(model, split, metrics=["val/f1"])
