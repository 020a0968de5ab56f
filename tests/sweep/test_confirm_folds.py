"""A confirmation by cross-validation: interrupted, resumed, exported and refit by the real commands."""

import json
import shutil
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from toprung import data
from toprung.analysis.seeds import representative
from toprung.export.bundle import ExportSource, export_winner
from toprung.export.processes import ExportFailed
from toprung.records import catalog, ledger
from toprung.records.catalog import list_confirmations
from toprung.records.lineage import Lineage
from toprung.records.sweep_dir import SweepDirectory
from toprung.spec import Data, Experiment, Sweep
from toprung.sweep.preflight import fold_warnings

SMALL = (
    "constants.width=4", "constants.depth=1", "constants.batch_size=64", "num_trials=3", "max_epochs=2",
    "max_concurrent_trials=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def confirmed(bench, start, toprung, tmp_path_factory):
    """A small sweep and its confirmation on two folds, which was interrupted after its first trial and resumed."""
    storage = tmp_path_factory.mktemp("storage")
    flags = [word for setting in (*SMALL, f"storage={storage}") for word in ("--set", setting)]
    swept = toprung("sweep", "tune.smoke", *flags, folder=bench)
    assert swept.code == 0, swept.stdout + swept.stderr
    sweep_dir = next(catalog.list_sweeps(storage))
    words = ("confirm", sweep_dir.sweep_id, "--top", "1", "--folds", "2", "--refit", "--storage", storage)
    command = start(*words, folder=bench)
    command.read_until(lambda line: " finished: " in line)
    command.interrupt().finish()
    assert command.code == 130, command.stdout + command.stderr
    resumed = toprung(*words, folder=bench)
    assert resumed.code == 0, resumed.stdout + resumed.stderr
    (confirmation,) = list_confirmations(SweepDirectory(sweep_dir.path))
    return SimpleNamespace(
        bench=bench, storage=storage, swept=swept, sweep_dir=sweep_dir, dir=confirmation, command=resumed
    )


def test_the_end_of_a_sweep_of_few_images_recommends_folds(confirmed):
    assert "1088 images are few for a single split. To test it by cross-validation: toprung confirm" in " ".join(
        confirmed.swept.stdout.split()
    )


def test_leader_and_default_are_trained_on_both_folds_after_a_resume(confirmed):
    spec, trials = confirmed.dir.spec(), ledger.read(confirmed.dir)
    assert (spec.data.num_folds, spec.seeds) == (2, (1, 2))
    assert [(trial.status, trial.epochs) for trial in trials] == [("finished", 2)] * 4
    assert [driver_run.command for driver_run in ledger.read_all(confirmed.dir).driver_runs] == ["sweep", "resume"]
    known, own = (json.loads(sweep_dir.lineage_file.read_text()) for sweep_dir in (confirmed.sweep_dir, confirmed.dir))
    assert known["num_images"] == own["num_images"] == 1088
    assert known["split_fingerprint"] != own["split_fingerprint"]


def _export(confirmed, trial, folder, *, sweep=None):
    """Export a trial of the confirmation from a copy, which scores it on the validation images of its fold."""
    copied = SweepDirectory(shutil.copytree(confirmed.dir.path, folder / confirmed.dir.sweep_id))
    sweep = sweep or copied.spec()
    root = confirmed.bench / data.PREPARED
    source = ExportSource(
        sweep_dir=copied,
        sweep=sweep,
        lineage=Lineage.model_validate(copied.read(copied.lineage_file)),
        card=data.open_prepared(sweep.data.name, root=root).card,
        prepared_root=root,
        num_trials=4,
    )
    return export_winner(trial, source)


def test_each_trial_was_validated_on_the_fold_of_its_seed(confirmed, tmp_path):
    for trial in ledger.read(confirmed.dir)[1:3]:
        export = _export(confirmed, trial, tmp_path / str(trial.number))
        metrics = json.loads((export / "metrics.json").read_text())
        assert metrics["verified"]["val/accuracy"] == trial.value
        fold = (1, 2).index(trial.config["seed"]) + 1
        assert f"- split: fold {fold} of 2 for validation, stratified, seed 0," in (export / "README.md").read_text()


def test_a_trial_that_is_scored_on_another_fold_is_not_exported(confirmed, tmp_path):
    spec = confirmed.dir.spec()
    swapped = spec.model_copy(update={"seeds": spec.seeds[::-1]})
    with pytest.raises(ExportFailed, match="a fresh process scores val/accuracy"):
        _export(confirmed, ledger.read(confirmed.dir)[0], tmp_path, sweep=swapped)


def test_the_exported_model_is_the_winners_median_fold(confirmed):
    chosen = representative(ledger.read(confirmed.dir), mode="max")
    metrics = json.loads((confirmed.dir.export_folder / "metrics.json").read_text())
    assert metrics["verified"]["val/accuracy"] == chosen.value
    assert "(the winner's median fold)" in confirmed.command.stdout


def test_the_trial_of_a_fold_is_trained_again_bit_equal_and_its_folder_verified_alone(confirmed, toprung):
    command = toprung(
        "verify", confirmed.dir.sweep_id, "--retrain", "--storage", confirmed.storage, folder=confirmed.bench
    )
    assert command.code == 0, command.stdout + command.stderr
    assert "all metrics of 2 epochs bit-equal" in command.stdout
    alone = toprung("verify", confirmed.dir.export_folder, folder=confirmed.bench)
    assert alone.code == 0, alone.stdout + alone.stderr


def test_the_table_and_the_summary_speak_of_folds(confirmed):
    printed, summary = confirmed.command.stdout, (confirmed.dir.path / "confirmation.md").read_text()
    assert "2 configurations × 2 folds, 2 epochs each" in (confirmed.dir.export_folder / "README.md").read_text()
    for text in (" ".join(printed.split()), summary.replace("\n", " ")):
        assert "Folds: 2 folds of about 544 images, the same for all configurations." in text
    header = next(line for line in printed.splitlines() if line.startswith("configuration"))
    assert header.split()[-1] == "folds"
    assert "2/2" in printed
    assert "seeds" not in summary


def test_the_winner_is_refit_on_all_images_of_the_folds(confirmed):
    record = json.loads((confirmed.sweep_dir.refit_folder / "refit.json").read_text())
    assert (record["num_images"], record["confirmation"]) == (1088, confirmed.dir.sweep_id)


def test_the_reports_of_sweep_and_confirmation_can_be_written(confirmed, toprung):
    for sweep_dir in (confirmed.sweep_dir, confirmed.dir):
        report = toprung("report", sweep_dir.sweep_id, "--storage", confirmed.storage, folder=confirmed.bench)
        assert report.code == 0, report.stderr
    page = (confirmed.sweep_dir.path / "report" / "report.html").read_text()
    assert "2 folds of about 544 images" in page
    page = (confirmed.dir.path / "report" / "report.html").read_text()
    assert "The prepared data differ" not in page
    assert "2 folds, fingerprint" in page


def test_a_sweep_whose_images_changed_is_not_confirmed_on_folds(confirmed, toprung):
    file = confirmed.sweep_dir.lineage_file
    content = file.read_text()
    for field, words in (("data_fingerprint", "The dataset digits"), ("split_fingerprint", "The split of the dataset")):
        file.write_text(json.dumps({**json.loads(content), field: "0" * 64}))
        words_typed = ("confirm", confirmed.sweep_dir.sweep_id, "--top", "1", "--folds", "3")
        try:
            command = toprung(*words_typed, "--storage", confirmed.storage, folder=confirmed.bench)
        finally:
            file.write_text(content)
        assert (command.code, command.stdout) == (2, "")
        assert command.stderr.startswith(words)
        assert "has changed since" in command.stderr
    assert len(list_confirmations(confirmed.sweep_dir)) == 1


def _prepared(labels, *, num_folds, num_groups=None):
    experiments = (Experiment(name="default"),)
    sweep = Sweep(
        name="some",
        trainer="t.t",
        experiments=experiments,
        seeds=tuple(range(num_folds)),
        data=Data(num_folds=num_folds),
    )
    folds = data.stratified_folds(labels, num_folds=num_folds, seed=0)
    fold_N = np.full(len(labels), -1, dtype=np.int32)
    for fold, split in enumerate(folds):
        fold_N[split.val] = fold
    arrays = {"pool_labels": labels, "pool_folds": fold_N[None]}
    card = SimpleNamespace(classes=tuple("abcdefgh"), num_groups=num_groups)
    return SimpleNamespace(sweep=sweep, images=SimpleNamespace(arrays=arrays), card=card)


def test_a_warning_names_the_classes_that_some_fold_does_not_validate():
    labels = np.repeat(np.arange(3), (20, 2, 1))
    (warning,) = fold_warnings(_prepared(labels, num_folds=3))
    assert warning.startswith("some of the 3 folds validate no image of b (2 images) and c (1 image): too few images.")
    assert fold_warnings(_prepared(np.repeat(np.arange(3), 20), num_folds=3)) == []


def test_a_warning_names_at_most_five_classes():
    labels = np.repeat(np.arange(8), [20, *[1] * 7])
    (warning,) = fold_warnings(_prepared(labels, num_folds=2, num_groups=4))
    assert "b (1 image), c (1 image), d (1 image), e (1 image), f (1 image) and 2 more: too few groups." in warning


RACE_SPACE = """
def space(trial):
    return {"lr": 1e-9 if trial.number == 2 else 0.01}
"""


@pytest.fixture(scope="module")
def swept(new_bench, toprung, tmp_path_factory):
    """A confirmation on five folds, of which one leader hardly learns."""
    bench, storage = new_bench(), tmp_path_factory.mktemp("race")
    (bench / "search_spaces" / "race.py").write_text(RACE_SPACE)
    settings = (
        "space=search_spaces.race", "constants.batch_size=32", "num_trials=3", "max_epochs=4",
        "asha.grace_epochs=4", f"storage={storage}",
    )  # fmt: skip
    flags = [word for setting in settings for word in ("--set", setting)]
    sweep = toprung("sweep", "tune.smoke", *flags, folder=bench)
    assert sweep.code == 0, sweep.stdout + sweep.stderr
    sweep_dir = next(catalog.list_sweeps(storage))
    command = toprung("confirm", sweep_dir.sweep_id, "--top", "2", "--folds", "5", "--storage", storage, folder=bench)
    assert command.code == 0, command.stdout + command.stderr
    (confirmation,) = list_confirmations(SweepDirectory(sweep_dir.path))
    return SimpleNamespace(dir=confirmation, command=command)


def test_a_leader_that_hardly_learns_is_not_trained_on_the_last_folds(swept):
    trials = ledger.read(swept.dir)
    folds = Counter(trial.config["experiment"] for trial in trials)
    assert {trial.status for trial in trials} == {"finished"}
    assert (folds["trial 1"], folds["default"]) == (5, 5)
    assert folds["trial 2"] in (3, 4)
    status = json.loads(swept.dir.status_file.read_text())
    assert (status["status"], status["reason"]) == ("finished", None)
    assert f"{folds['trial 2']}/5 dropped" in swept.command.stdout
    assert "Dropped after 3 folds" in swept.command.stdout or "Dropped after 4 folds" in swept.command.stdout
