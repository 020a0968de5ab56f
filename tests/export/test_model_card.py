"""Model cards: the scores of the exported trial and how it was chosen."""

import shutil
from types import SimpleNamespace

import yaml

from tests.analysis.conftest import Driver
from toprung.export.model_card import base_weights, model_card
from toprung.records.lineage import Lineage
from toprung.records.sweep_dir import SweepDirectory
from toprung.spec import Search
from toprung.weights.card import WeightsCard

ONNX = {
    "num_images": 288,
    "num_ties": 0,
    "max_probability_difference": 2e-8,
    "num_image_files": 0,
    "num_changed_files": 0,
}
CONVNET = {"builder": "toprung.vision:build_model", "arguments": {"name": "convnet"}}
TIMM = {
    "builder": "toprung.vision:build_model",
    "arguments": {"name": "timm/resnet18.a1_in1k"},
    "config": {"lr": 0.1},
    "defaults": {"pretrained": True},
}


def _lineage(driver, **changes):
    lineage = Lineage.model_validate(driver.sweep_dir.read(driver.sweep_dir.lineage_file))
    return lineage.model_copy(update=changes)


def _card(driver, *, num_trials=2, reported=None, unverified=(), onnx=None, description=CONVNET, base=None):
    files = {name: {"bytes": 1_500_000, "latency_ms": {"1": 0.25, "32": 4.0}} for name in ("model.pth", "model.onnx")}
    metrics = {
        "verified": {"val/accuracy": 0.5},
        "metrics": reported or {},
        "unverified": list(unverified),
        "formats": files,
        "onnx": {**ONNX, **(onnx or {})},
    }
    return model_card(
        driver.read()[0],
        metrics,
        description=description,
        sweep_dir=driver.sweep_dir,
        sweep=driver.sweep,
        lineage=_lineage(driver),
        card=SimpleNamespace(
            name="digits", classes=("0", "1"), image_shape=(1, 8, 8), source="made here", decoding=None
        ),
        num_trials=num_trials,
        base=base,
    )


def test_the_card_of_a_sweep_says_that_the_best_trial_won(tmp_path):
    driver = Driver(tmp_path)
    driver.trial([0.4, 0.5])
    assert "The trial with the highest val/accuracy in any epoch won." in _card(driver, num_trials=2)
    assert "The best of 2 trials is partly luck" in _card(driver, num_trials=2)
    assert "partly luck" not in _card(driver, num_trials=1)


def test_the_card_of_a_confirmation_says_that_the_median_seed_was_exported(tmp_path):
    driver = Driver(tmp_path)
    driver.trial([0.4, 0.5])
    spec_file = driver.sweep_dir.spec_file
    driver.sweep_dir.write(spec_file, {**driver.sweep_dir.read(spec_file), "confirms": "some-sweep"})
    card = _card(driver, num_trials=2)
    assert "the trial with the median value was exported" in card
    assert "partly luck" not in card


def test_the_card_names_the_confirmation_that_has_finished(tmp_path):
    driver = Driver(tmp_path)
    driver.trial([0.4, 0.5])
    assert "It is not confirmed with other seeds." in _card(driver)
    path = driver.sweep_dir.path
    confirming = SweepDirectory(shutil.copytree(path, path.with_name("confirming")))
    confirming.write(confirming.spec_file, {**confirming.read(confirming.spec_file), "confirms": path.name})
    confirming.write(confirming.status_file, {"status": "finished"})
    assert "of this sweep were trained again with new seeds by confirming.\n\n## Intended" in _card(driver)
    confirming.confirmation_file.write_text(
        "# Title\n\n**No leader is better.**\n\n| a | b |\n\n## The test split\n\nline"
    )
    assert "by confirming.\n\n**No leader is better.**\n\n| a | b |\n\n## Intended" in _card(driver)


def test_only_a_network_that_toprung_built_is_said_to_load_with_timm(tmp_path):
    driver = Driver(tmp_path)
    driver.trial([0.4, 0.5])
    arguments = {"name": "timm/resnet18.a1_in1k"}
    for builder, loads in (("toprung.vision:build_model", True), ("trainers.own:build", False)):
        card = _card(driver, description={"builder": builder, "arguments": arguments})
        assert ("timm.create_model" in card) == ("library_name: timm" in card) == loads


def test_the_card_names_the_sampler(tmp_path):
    driver = Driver(tmp_path)
    driver.trial([0.4, 0.5])
    assert "Optuna's TPE sampler (seed 0) proposed the trials" in _card(driver)
    driver.sweep = driver.sweep.model_copy(update={"search": Search(sampler="random")})
    assert "Optuna's random sampler (seed 0) proposed the trials" in _card(driver)


def test_the_card_lists_the_classification_metrics_that_were_reported(tmp_path):
    driver = Driver(tmp_path)
    driver.trial([0.4, 0.5])
    card = _card(driver, reported={"val/own": 0.1, "val/f1_macro": 0.25, "val/accuracy": 0.5})
    rows = (
        "| metric | value on the validation split |",
        "| --- | --- |",
        "| val/accuracy | 0.5 |",
        "| val/f1_macro | 0.25 |",
    )
    assert "\n".join(rows) + "\n\n" in card
    assert "Not recomputed" not in card


def test_the_card_says_which_metric_was_not_recomputed(tmp_path):
    driver = Driver(tmp_path)
    driver.trial([0.4, 0.5])
    lines = _card(driver, unverified=["val/own"]).splitlines()
    recomputed = lines.index("Recomputed from this folder by a fresh process: val/accuracy 0.5.")
    assert lines[recomputed + 1] == "Not recomputed, because only the training loop computes it: val/own."


def _front_matter(card):
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("---\n")[1])


def test_the_front_matter_is_what_the_hugging_face_hub_reads(tmp_path):
    driver = Driver(tmp_path)
    driver.trial([0.4, 0.5])
    content = _front_matter(_card(driver, reported={"val/own": 0.1, "val/f1_macro": 0.25, "val/accuracy": 0.5}))
    assert (content["library_name"], content["pipeline_tag"]) == ("pytorch", "image-classification")
    assert content["datasets"] == [_lineage(driver).data_name]
    assert not {"license", "base_model"} & set(content)
    (model,) = content["model-index"]
    metrics = [metric for result in model["results"] for metric in result["metrics"]]
    assert {metric["type"]: metric["value"] for metric in metrics} == {"accuracy": 0.5, "f1": 0.25}


def test_the_front_matter_names_the_pretrained_weights_and_their_license(tmp_path):
    driver = Driver(tmp_path)
    driver.trial([0.4, 0.5])
    base = SimpleNamespace(name="resnet18.a1_in1k", license="Apache-2.0")
    card = _card(driver, description=TIMM, base=base)
    content = _front_matter(card)
    assert (content["library_name"], content["license"]) == ("timm", "apache-2.0")
    assert content["base_model"] == "timm/resnet18.a1_in1k"
    assert 'timm.create_model("local-dir:.", pretrained=True)' in card


def test_only_weights_that_the_training_started_from_are_its_base(tmp_path):
    driver = Driver(tmp_path)
    driver.trial([0.4, 0.5])
    folder = tmp_path / "data" / "weights" / "resnet18.a1_in1k"
    folder.mkdir(parents=True)
    card = WeightsCard(
        name="resnet18.a1_in1k", num_classes=10, num_parameters=1, mean=(0.5,), std=(0.5,), image_size=32,
        crop_pct=0.9, interpolation="bilinear", source="made here", sha256="3" * 64,
    )  # fmt: skip
    (folder / "card.json").write_text(card.model_dump_json())
    lineage = _lineage(driver, weights={card.name: card.sha256})
    assert base_weights(TIMM, lineage, project=tmp_path) == card
    assert base_weights({**TIMM, "config": {"pretrained": False}}, lineage, project=tmp_path) is None
    assert base_weights(TIMM, _lineage(driver), project=tmp_path) is None
    assert base_weights(CONVNET, lineage, project=tmp_path) is None


def test_the_card_states_size_latency_and_difference_of_the_formats(tmp_path):
    driver = Driver(tmp_path)
    driver.trial([0.4, 0.5])
    card = _card(driver, onnx={"num_ties": 2, "num_image_files": 30, "num_changed_files": 1})
    for text in (
        "| `model.onnx` | 1.5 | 0.25 | 4 |",
        "288 images, apart from 2 ties (the two largest probabilities differ by less than 1e-05).",
        "difference of a\nprobability is 2e-08.",
        "reads 30 original image files bit for bit",
        "1 more image files were changed or removed",
    ):
        assert text in card
