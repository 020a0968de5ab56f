"""`toprung verify`: an untouched sweep is as recorded, and each thing that was changed is named."""

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from toprung.checksums import sha256_of
from toprung.errors import UserError
from toprung.records import ledger
from toprung.records.sweep_dir import SweepDirectory
from toprung.sweep import verification
from toprung.sweep.verification import Fact, code, environment, inputs, is_verified, model, verdict
from toprung.sweep.verification.curves import compare_curves
from toprung.trial.retrain import compare_tensors


@pytest.fixture
def copied(finished, bench, tmp_path):
    """A copy of the project and of its finished sweep, to be damaged."""
    project = Path(shutil.copytree(bench, tmp_path / "user_project"))
    folder = shutil.copytree(finished.folder, project / "runs" / finished.folder.name)
    return SimpleNamespace(project=project, sweep_dir=SweepDirectory(folder), best=finished.shown["best"])


def _read(copied):
    return verification.read_recorded(copied.project, copied.sweep_dir)


def _check_inputs(recorded, lineage):
    return inputs.check_inputs(lineage, project=recorded.project, settings=recorded.sweep.data, num_repeats=1)


def _flip_a_bit(file, *, position=None):
    content = bytearray(file.read_bytes())
    content[len(content) // 2 if position is None else position] ^= 1
    file.write_bytes(content)


def _edit_json(file, **fields):
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def _states(facts):
    """Return the names of the facts that are not `ok`, by state."""
    states = {}
    for fact in facts:
        if fact.state != "ok":
            states.setdefault(fact.state, []).append(fact.name)
    return states


def _observed(facts, name):
    return " | ".join(fact.observed for fact in facts if fact.name == name)


def _contents(folder):
    """Return the hash and the time of each file."""
    return {
        path: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_an_untouched_sweep_is_verified_and_left_as_it_is(finished, bench, toprung):
    before = _contents(finished.storage)
    command = toprung("verify", "well", "--storage", finished.storage, folder=bench)
    assert (command.code, command.stderr) == (0, ""), command.stdout
    lines = command.stdout.splitlines()
    assert lines[0] == finished.shown["sweep_id"]
    assert lines[-1].startswith("Verified: everything is as recorded. Took ")
    assert [line.split("  ")[1] for line in lines[2:-2]] == ["ok"] * 10
    assert f"exactly the recorded val/accuracy {finished.shown['best']['value']:.6g}" in command.stdout
    assert _contents(finished.storage) == before


def test_an_exported_folder_is_verified_without_its_sweep(finished, bench, toprung, tmp_path):
    folder = Path(shutil.copytree(finished.folder / "export", tmp_path / "model"))
    command = toprung("verify", folder, folder=bench)
    assert (command.code, command.stderr) == (0, ""), command.stdout
    assert command.stdout.splitlines()[0] == str(folder)
    assert (
        "labels.json, model.onnx, model.pth, model.safetensors, preprocessor.json: every byte as exported"
        in command.stdout
    )
    assert f"exactly the recorded val/accuracy {finished.shown['best']['value']:.6g}" in command.stdout
    assert "the same training and validation images" in command.stdout

    refused = toprung("verify", folder, "--retrain", folder=bench)
    assert (refused.code, refused.stderr) == (
        2, f"{folder} is an exported model, which has no ledger to compare with. Give its sweep.\n"
    )  # fmt: skip

    _flip_a_bit(folder / "model.onnx")
    facts = list(verification.check_exported(folder, project=bench))
    assert _states(facts) == {"changed": ["model"]}
    assert _observed(facts, "model").startswith("model.onnx was changed: its sha256 begins with ")


def test_an_exported_folder_without_its_scoring_settings_is_refused(finished, bench, tmp_path):
    folder = Path(shutil.copytree(finished.folder / "export", tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    del config["toprung"]["scoring"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"does not say how to verify its model \(scoring\)\. Export it again"):
        list(verification.check_exported(folder, project=bench))


def test_the_result_can_be_read_by_a_script(copied, toprung):
    _flip_a_bit(copied.project / "data" / "prepared" / "digits" / "train_images.npy")
    command = toprung("verify", copied.sweep_dir.sweep_id, "--json", folder=copied.project)
    assert command.code == 1
    content = json.loads(command.stdout)
    assert (content["sweep_id"], content["ok"]) == (copied.sweep_dir.sweep_id, False)
    assert content["verdict"] == "Not verified. Changed: data."
    assert {fact["name"]: fact["state"] for fact in content["facts"]}["data"] == "changed"


def test_a_byte_of_the_prepared_data_is_noticed_though_the_card_says_otherwise(copied):
    _flip_a_bit(copied.project / "data" / "prepared" / "digits" / "test_images.npy")
    recorded = _read(copied)
    facts = list(_check_inputs(recorded, recorded.lineage))
    assert _states(facts) == {"changed": ["data"]}
    assert "prepared/digits was changed since it was prepared" in _observed(facts, "data")


def test_other_data_another_split_and_other_hashes_of_dvc_are_named(copied):
    recorded = _read(copied)
    fields = ("data_fingerprint", "split_fingerprint", "dvc_prepared_md5")
    lineage = recorded.lineage.model_copy(update=dict.fromkeys(fields, "f" * 32))
    facts = list(_check_inputs(recorded, lineage))
    assert _states(facts) == {"changed": ["data", "split"], "drifted": ["DVC"]}
    assert "digits was prepared again" in _observed(facts, "data")
    assert "digits is split differently now" in _observed(facts, "split")
    assert _observed(facts, "DVC") == f"dvc.lock has other hashes: arrays none, recorded {'f' * 32}"


def test_without_the_dataset_the_other_facts_are_still_compared(copied):
    shutil.rmtree(copied.project / "data")
    facts = list(verification.check_records(_read(copied)))
    assert _states(facts) == {"unchecked": ["data", "split", "score"]}
    assert "The dataset digits is not prepared. Type: toprung data prepare digits" in _observed(facts, "data")
    assert verdict(facts) == "Not verified. Not checked: data, split, score."


def test_the_pretrained_weights_that_a_sweep_used_must_be_here(copied):
    recorded = _read(copied)
    lineage = recorded.lineage.model_copy(update={"weights": {"resnet18.a1_in1k": "f" * 64}})
    facts = list(_check_inputs(recorded, lineage))
    assert _states(facts) == {"unchecked": ["weights"]}
    assert "There are no pretrained weights resnet18.a1_in1k" in _observed(facts, "weights")


def test_an_edited_file_in_the_copy_of_the_code_is_named(copied):
    with (copied.sweep_dir.code_folder / "trainers" / "convnet.py").open("a") as file:
        file.write("#")
    facts = list(code.check_code(_read(copied)))
    assert _states(facts) == {"changed": ["code"]}
    assert _observed(facts, "code").endswith("/code) was changed, 1 file: trainers/convnet.py")


def test_it_is_named_by_the_commit_if_the_project_has_changed_too(copied):
    for folder in (copied.project, copied.sweep_dir.code_folder):
        with (folder / "trainers" / "convnet.py").open("a") as file:
            file.write(f"# {folder}")
    (copied.sweep_dir.code_folder / "tune" / "smoke.py").unlink()
    facts = list(code.check_code(_read(copied)))
    assert _states(facts) == {"changed": ["code"], "drifted": ["working tree"]}
    assert _observed(facts, "code").endswith("changed, 2 files: trainers/convnet.py, tune/smoke.py (missing)")
    assert _observed(facts, "working tree").endswith("in 1 file: trainers/convnet.py")


def test_a_newer_working_tree_and_toprung_are_drifts(copied, monkeypatch):
    for name in ("one", "two", "three"):
        (copied.project / "trainers" / f"{name}.py").write_text("")
    (copied.project / "tune" / "smoke.py").unlink()
    monkeypatch.setattr(code, "toprung_hash", lambda: "other")
    facts = list(code.check_code(_read(copied)))
    assert _states(facts) == {"drifted": ["working tree", "toprung"]}
    named = "4 files: trainers/one.py (new), trainers/three.py (new), trainers/two.py (new) and 1 more"
    assert named in _observed(facts, "working tree")
    assert "has hash other, the sweep's " in _observed(facts, "toprung")


def test_a_removed_copy_of_the_code_is_reported(copied):
    shutil.rmtree(copied.sweep_dir.code_folder)
    assert _states(code.check_code(_read(copied))) == {"unchecked": ["code"]}


def test_another_lock_library_and_machine_are_drifts_with_both_values(copied):
    (copied.project / "requirements.lock").write_text("torch==1.0\n")
    lineage = _read(copied).lineage
    versions = {**lineage.versions, "torch": "1.0", "gone": "2.0"}
    older = lineage.model_copy(update={"versions": versions, "python": "3.10.0", "cpu": "Z80"})
    facts = list(environment.check_environment(copied.project, older))
    assert _states(facts) == {"drifted": ["lock file", *["libraries"] * 3, "machine"]}
    observed = _observed(facts, "libraries")
    assert "recorded 3.10.0 | torch " in observed
    assert "gone not installed, recorded 2.0" in observed
    assert _observed(facts, "machine").endswith("recorded Z80")
    (copied.project / "requirements.lock").unlink()
    assert "requirements.lock is missing" in next(environment.check_environment(copied.project, lineage)).observed


@pytest.fixture
def unscored(monkeypatch):
    """Do not score the model again, which takes seconds."""
    monkeypatch.setattr(model, "_check_score", lambda recorded: Fact("score", "ok", ""))


def _damaged(name):
    return lambda copied: _flip_a_bit(copied.sweep_dir.export_folder / name)


def _damaged_weights_without_the_trial(copied):
    _damaged("model.pth")(copied)
    shutil.rmtree(copied.sweep_dir.trials_folder)


def _other_weights(copied):
    """Give both files of the weights other values, and config.json their hashes; remove the ONNX file."""
    folder, hashes = copied.sweep_dir.export_folder, {}
    (folder / "model.onnx").unlink()
    for name, load, save in (
        ("model.pth", lambda file: torch.load(file, weights_only=True), torch.save),
        ("model.safetensors", load_file, save_file),
    ):
        save({key: value + 1 for key, value in load(folder / name).items()}, folder / name)
        hashes[name] = sha256_of(folder / name)
    _described(sha256=hashes)(copied)


def _damaged_source(copied):
    _flip_a_bit(copied.sweep_dir.trial_folder(copied.best["trial_id"]) / "model.pth")


def _described(**fields):
    def change(copied):
        file = copied.sweep_dir.export_folder / "config.json"
        _edit_json(file, toprung=json.loads(file.read_text())["toprung"] | fields)

    return change


def _edited(name, **fields):
    return lambda copied: _edit_json(copied.sweep_dir.export_folder / name, **fields)


@pytest.mark.parametrize(
    ("change", "observed"),
    [
        (_damaged("model.safetensors"), "model.safetensors was changed: its sha256 begins with "),
        (_damaged("model.onnx"), "model.onnx was changed: its sha256 begins with "),
        (_damaged("model.pth"), "model.pth was changed: its sha256 begins with "),
        (_damaged_weights_without_the_trial, "model.pth was changed: its sha256 begins with "),
        (_damaged_source, "model.pth differs from trials/"),
        (lambda copied: (copied.sweep_dir.export_folder / "model.pth").unlink(), "model.pth is missing in "),
        (_edited("metrics.json", metrics={"val/accuracy": 0.99}), "metrics.json says val/accuracy 0.99; the ledger "),
        (_edited("metrics.json", epoch=7), "metrics.json says epoch 7; the ledger says "),
        (_described(config={}), "config.json: no trial in the ledger has this configuration"),
        (_described(arguments={}), "config.json does not have the trial's architecture"),
        (_edited("labels.json", classes=["a"]), "labels.json does not have the classes of digits"),
        (lambda copied: (copied.sweep_dir.export_folder / "labels.json").write_text("{"), "labels.json cannot be read"),
    ],
)
@pytest.mark.usefixtures("unscored")
def test_each_changed_file_of_the_exported_model_is_named(copied, change, observed):
    change(copied)
    facts = list(model.check_model(_read(copied)))
    assert {state: set(names) for state, names in _states(facts).items()} == {"changed": {"model"}}
    assert observed in _observed(facts, "model")


def test_a_model_that_scores_differently_or_cannot_be_loaded_has_changed(copied):
    _other_weights(copied)
    facts = list(model.check_model(_read(copied)))
    assert _states(facts) == {"changed": ["model", "score"]}
    assert f"recorded {copied.best['value']!r}" in _observed(facts, "score")
    _described(sha256={})(copied)
    (copied.sweep_dir.export_folder / "model.pth").write_bytes(b"PK")
    facts = list(model.check_model(_read(copied)))
    assert "model.pth does not contain this model's weights" in _observed(facts, "score")
    assert "UserError" not in _observed(facts, "score")


def test_a_sweep_without_an_export_says_how_to_get_one(copied):
    shutil.rmtree(copied.sweep_dir.export_folder)
    _edit_json(copied.sweep_dir.status_file, status="stopped")
    facts = [*verification.check_records(_read(copied)), *_retrain(copied)]
    assert _states(facts) == {"unchecked": ["model", "retrain"]}
    remedies = [fact.remedy for fact in facts if fact.name == "model"]
    assert remedies == [f"Type: toprung resume {copied.sweep_dir.sweep_id}"]


@pytest.mark.parametrize("content", [b"", b"{\n", b'{"op_code": 99, "worker_id": "x"}\n'])
@pytest.mark.usefixtures("unscored")
def test_with_a_damaged_ledger_the_rest_is_still_compared(copied, content):
    copied.sweep_dir.ledger_file.write_bytes(content)
    facts = [*verification.check_records(_read(copied)), *_retrain(copied)]
    assert _states(facts) == {"unchecked": ["ledger", "retrain"]}


@pytest.mark.parametrize("content", ["{", '{"commit": 1}'])
@pytest.mark.usefixtures("unscored")
def test_with_a_damaged_lineage_the_rest_is_still_compared(copied, content):
    copied.sweep_dir.lineage_file.write_text(content)
    facts = list(verification.check_records(_read(copied)))
    assert _states(facts) == {"unchecked": ["lineage"]}
    assert "lineage.json" in _observed(facts, "lineage")
    assert {"code", "model", "score"} <= {fact.name for fact in facts}


def test_an_unknown_or_a_running_sweep_is_refused(copied, toprung):
    unknown = toprung("verify", "none", folder=copied.project)
    assert (unknown.code, unknown.stdout) == (2, "")
    assert unknown.stderr.startswith('No sweep "none" in ')
    with copied.sweep_dir.lock(), pytest.raises(UserError, match=r"is running\. Verify it after it has ended\."):
        _read(copied)


def test_drifts_leave_a_sweep_verified_unless_strict():
    drifted = [Fact("data", "ok", ""), Fact("libraries", "drifted", ""), Fact("libraries", "drifted", "")]
    assert is_verified(drifted)
    assert not is_verified(drifted, strict=True)
    assert verdict(drifted) == "Verified. Drifted since: libraries."
    changed = [*drifted, Fact("data", "changed", ""), Fact("model", "unchecked", "")]
    assert not is_verified(changed)
    assert verdict(changed) == "Not verified. Changed: data. Not checked: model. Drifted since: libraries."


def _retrain(copied, facts=(), echoed=None):
    echo = (lambda line: None) if echoed is None else echoed.append
    return list(verification.check_retrain(_read(copied), facts, echo=echo))


@pytest.mark.parametrize("sweep", ["finished", pytest.param("faulty", marks=pytest.mark.slow)])
def test_a_winner_that_is_trained_again_is_bit_equal(sweep, bench, toprung, request):
    swept = request.getfixturevalue(sweep)
    before = _contents(swept.storage)
    name = swept.shown["sweep_id"]
    command = toprung("verify", name, "--retrain", "--storage", swept.storage, folder=bench)
    assert (command.code, command.stderr) == (0, ""), command.stdout
    (trial,) = [trial for trial in swept.shown["trials"] if trial["trial_id"] == swept.shown["best"]["trial_id"]]
    epochs = [line for line in command.stdout.splitlines() if line.strip().startswith("epoch ")]
    assert [line.rpartition("  ")[2] for line in epochs] == ["equal"] * trial["epochs"]
    assert f"all metrics of {trial['epochs']} epochs bit-equal" in command.stdout
    tensors = torch.load(swept.folder / "export" / "model.pth", weights_only=True)
    assert f"all {len(tensors)} exported tensors (epoch {trial['epoch']}) bit-equal" in command.stdout
    assert _contents(swept.storage) == before


def test_a_changed_line_of_the_trainer_is_seen_in_the_first_epoch_that_it_changes(copied):
    trainer = copied.sweep_dir.code_folder / "trainers" / "convnet.py"
    line = "train_one_epoch(model, data.train, optimizer, schedule, augment, config)"
    changed = line.replace("config)", 'config | ({"label_smoothing": 0.5} if _epoch else {}))')
    trainer.write_text(trainer.read_text().replace(line, changed))
    echoed = []
    facts = [Fact("code", "changed", "trainers/convnet.py"), Fact("libraries", "drifted", "torch 2, recorded 1")]
    curves, tensors = _retrain(copied, facts, echoed)
    assert [line.rpartition("  ")[2] for line in echoed] == ["equal", "differs", "differs"]
    assert (curves.state, tensors.state) == ("changed", "changed")
    assert "epoch 2 is the first that differs; largest difference " in curves.observed
    assert "exported tensors" in tensors.observed
    assert curves.remedy == ""
    assert tensors.remedy == "Possible causes: code (changed); libraries (torch 2, recorded 1)"


@pytest.mark.parametrize(
    ("before", "after", "observed"),
    [
        ("def train_loop_per_worker(config):", "def another(config):", "could not be trained again: The trainer "),
        ("    model.train()", "    raise KeyError(1)", "could not be trained again: KeyError: 1"),
        ("    model.train()", "    __import__('os')._exit(3)", "could not be trained again: exit code 3"),
    ],
)
def test_a_trainer_that_does_not_work_any_more_is_reported(copied, before, after, observed):
    trainer = copied.sweep_dir.code_folder / "trainers" / "convnet.py"
    trainer.write_text(trainer.read_text().replace(before, after))
    (fact,) = _retrain(copied)
    assert (fact.name, fact.state) == ("retrain", "unchecked")
    assert observed in fact.observed


def test_a_trial_of_several_workers_is_not_trained_again(copied):
    content = json.loads(copied.sweep_dir.spec_file.read_text())
    content["spec"]["resources"]["workers"] = 2
    copied.sweep_dir.spec_file.write_text(json.dumps(content))
    (fact,) = _retrain(copied)
    assert (fact.name, fact.state) == ("retrain", "unchecked")
    assert "was trained by 2 workers" in fact.observed


def test_ctrl_c_during_a_retrain_leaves_nothing_behind(copied, start, tmp_path):
    trainer = copied.sweep_dir.code_folder / "trainers" / "convnet.py"
    slow = "        __import__('time').sleep(120 if _epoch else 0)\n        train_loss = train_one_epoch("
    trainer.write_text(trainer.read_text().replace("        train_loss = train_one_epoch(", slow))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    before = _contents(copied.sweep_dir.path)
    command = start(
        "verify", copied.sweep_dir.sweep_id, "--retrain", folder=copied.project, env={"TMPDIR": str(temporary)}
    )
    command.read_until(lambda line: "epoch 1/" in line)
    assert len(list(temporary.glob("toprung-verify-*"))) == 1
    command.interrupt().finish()
    assert (command.code, command.stderr) == (130, "Stopped. Nothing was changed.\n")
    assert command.left_behind() == []
    assert list(temporary.glob("toprung-verify-*")) == []
    assert _contents(copied.sweep_dir.path) == before


def test_curves_are_compared_exactly_and_without_their_times():
    recorded = {1: {"val/loss": 0.5, "time/epoch_seconds": 1.0}, 2: {"val/loss": 0.25}}
    same = {1: {"val/loss": 0.5, "time/epoch_seconds": 9.0, "epoch": 1, "time_ms": 5}, 2: {"val/loss": 0.25}}
    assert compare_curves(recorded, same).first_different is None
    shorter = compare_curves(recorded, {1: {"val/loss": 0.5}})
    assert (shorter.num_epochs, shorter.first_different, shorter.largest) == (1, 2, None)
    other = compare_curves(recorded, {1: {"val/loss": 0.5 + 2**-52}, 2: {"val/loss": 0.375}})
    assert (other.first_different, other.largest) == (1, ("val/loss", 2, 0.25, 0.375))


def test_tensors_are_compared_bit_by_bit():
    nan = torch.tensor([float("nan"), 1.0])
    recorded = {"weight": nan, "count": torch.tensor(3), "bias": torch.zeros(2), "half": torch.ones(2)}
    assert compare_tensors(recorded, dict(recorded)) == {"count": 4, "differing": [], "largest": 0.0, "name": ""}
    retrained = {"weight": nan, "count": torch.tensor(5), "bias": -torch.zeros(2), "extra": torch.zeros(1)}
    compared = compare_tensors(recorded, retrained)
    assert compared["differing"] == ["count", "bias", "half", "extra"]  # -0.0 differs from 0.0 in its sign
    assert (compared["largest"], compared["name"]) == (2.0, "count")


def test_the_exported_trial_is_the_one_with_the_exported_configuration(copied):
    trials = ledger.read(copied.sweep_dir)
    other = next(trial for trial in trials if trial.trial_id != copied.best["trial_id"])
    assert _read(copied).find_exported_trial().trial_id == copied.best["trial_id"]
    _described(config=other.config)(copied)
    assert _read(copied).find_exported_trial().trial_id == other.trial_id
