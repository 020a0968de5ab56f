"""Model cards: how the exported trial was chosen."""

from types import SimpleNamespace

from tests.analysis.conftest import Driver
from toprung.export.bundle import model_card
from toprung.records.lineage import Lineage


def _card(driver, *, num_trials):
    return model_card(
        driver.read()[0],
        {"verified": {"val/accuracy": 0.5}},
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
