"""Model cards: the scores of the exported trial and how it was chosen."""

from types import SimpleNamespace

from tests.analysis.conftest import Driver
from toprung.export.bundle import model_card
from toprung.records.lineage import Lineage


def _card(driver, *, num_trials=2, reported=None, unverified=()):
    return model_card(
        driver.read()[0],
        {"verified": {"val/accuracy": 0.5}, "metrics": reported or {}, "unverified": list(unverified)},
        sweep_dir=driver.sweep_dir,
        sweep=driver.sweep,
        lineage=Lineage.model_validate(driver.sweep_dir.read(driver.sweep_dir.lineage_file)),
        card=SimpleNamespace(name="digits", classes=("0", "1"), image_shape=(1, 8, 8)),
        num_trials=num_trials,
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
