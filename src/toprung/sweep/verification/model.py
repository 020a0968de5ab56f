"""Compare the exported model with the records of its trial, and score it again in a fresh process."""

from __future__ import annotations

import filecmp
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from toprung import data
from toprung.checksums import sha256_of
from toprung.errors import UserError
from toprung.export.bundle import describe, scoring_settings
from toprung.export.formats import score_formats
from toprung.export.processes import ExportFailed
from toprung.export.scores import is_same_hardware, scores_agree
from toprung.exported_config import (
    CONFIG_FILE,
    LABELS_FILE,
    METRICS_FILE,
    ONNX_FILE,
    PREPROCESSOR_FILE,
    SAFETENSORS_FILE,
)
from toprung.records.trial_folder import WEIGHTS_FILE, WEIGHTS_META_FILE
from toprung.records.trial_record import TrialRecord
from toprung.sweep.verification.fact import Fact
from toprung.sweep.verification.recorded import RecordedSweep

FILES = (SAFETENSORS_FILE, WEIGHTS_FILE, CONFIG_FILE, PREPROCESSOR_FILE, METRICS_FILE, LABELS_FILE)


def check_model(recorded: RecordedSweep) -> Iterator[Fact]:
    """Compare each file of the exported model, and its score with the recorded one."""
    folder = recorded.sweep_dir.export_folder
    if not folder.is_dir():
        reason = "there is no exported model"
        remedy = "" if recorded.sweep_dir.is_finished else f"Type: toprung resume {recorded.sweep_dir.sweep_id}"
        yield Fact("model", "unchecked", reason, remedy)
        return
    problems = list(_find_problems(recorded))
    for problem in problems:
        yield Fact("model", "changed", problem)
    if not problems:
        yield Fact("model", "ok", f"the files in {folder.parent.name}/{folder.name} agree with the trial's records")
    yield _check_score(recorded)


def _find_problems(recorded: RecordedSweep) -> Iterator[str]:
    """Yield a line for each file of the exported model that is missing, damaged, or differs from the records."""
    folder = recorded.sweep_dir.export_folder
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        yield f"{', '.join(missing)} is missing in {folder}"
        return
    try:
        contents = {name: recorded.read_exported(name) for name in (CONFIG_FILE, METRICS_FILE, LABELS_FILE)}
        trial = recorded.find_exported_trial()
    except UserError as error:
        yield str(error)
        return
    if trial is None and recorded.trials is not None:
        yield f"{CONFIG_FILE}: no trial in the ledger has this configuration"
    changed = list(checksum_problems(folder, contents[CONFIG_FILE]["toprung"].get("sha256", {})))
    yield from changed
    if trial is not None and not changed:
        yield from _weights_problems(recorded, trial)
    if trial is not None:
        yield from _record_problems(recorded, trial, contents)
    try:
        classes = list(data.open_prepared(recorded.sweep.data.name, root=recorded.prepared_root).card.classes)
    except UserError:
        return  # reported with the data
    if contents[LABELS_FILE].get("classes") != classes:
        yield f"{LABELS_FILE} does not have the classes of {recorded.sweep.data.name}"


def checksum_problems(folder: Path, sha256_by_name: Mapping[str, str]) -> Iterator[str]:
    """Yield a line for each file that is missing, or whose sha256 is not the one in config.json."""
    for name, was in sha256_by_name.items():
        if Path(name).name != name:  # of another folder
            yield f"{CONFIG_FILE} names {name!r}, which is not a file of {folder}"
        elif not (folder / name).is_file():
            yield f"{name} is missing in {folder}"
        elif (now := sha256_of(folder / name)) != was:
            yield f"{name} was changed: its sha256 begins with {now[:12]}, {CONFIG_FILE} says {was[:12]}"


def _weights_problems(recorded: RecordedSweep, trial: TrialRecord) -> Iterator[str]:
    """Compare model.pth with the trial's own file, from which it was copied, if that is still here."""
    original = recorded.sweep_dir.trial_folder(trial.trial_id) / WEIGHTS_FILE
    if original.is_file() and not filecmp.cmp(recorded.sweep_dir.export_folder / WEIGHTS_FILE, original, shallow=False):
        yield f"{WEIGHTS_FILE} differs from {original.relative_to(recorded.sweep_dir.path)}, from which it was copied"


def _record_problems(
    recorded: RecordedSweep, trial: TrialRecord, contents: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """Compare the exported JSON files with the ledger and with the trial's folder."""
    exported, metrics = contents[CONFIG_FILE]["toprung"], contents[METRICS_FILE]
    if metrics.get("epoch") != trial.epoch:
        yield f"{METRICS_FILE} says epoch {metrics.get('epoch')}; the ledger says {trial.epoch}"
    elif trial.epoch is not None:
        in_ledger, in_file = trial.epochs_by_number[trial.epoch].metrics, metrics.get("metrics", {})
        for name in in_file:
            if name in in_ledger and in_file[name] != in_ledger[name]:
                yield f"{METRICS_FILE} says {name} {in_file[name]!r}; the ledger says {in_ledger[name]!r}"
    meta_file = recorded.sweep_dir.trial_folder(trial.trial_id) / WEIGHTS_META_FILE
    try:
        architecture = json.loads(meta_file.read_text(encoding="utf-8"))["architecture"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # the trial's folder was removed
    if any(exported.get(name) != value for name, value in describe(architecture).items()):
        yield f"{CONFIG_FILE} does not have the trial's architecture"


def _check_score(recorded: RecordedSweep) -> Fact:
    try:
        settings = scoring_settings(recorded.sweep, seed=recorded.read_description().get("seed", recorded.sweep.seed))
        metrics = recorded.read_exported(METRICS_FILE)
        was = metrics["verified"]
    except (UserError, KeyError) as error:
        return Fact("score", "unchecked", f"the exported model cannot be scored: {error}")
    return check_score(
        recorded.sweep_dir.export_folder,
        settings,
        was,
        was_on=metrics.get("verified_on"),
        prepared_root=recorded.prepared_root,
        code=recorded.sweep_dir.code_folder,
    )


def check_score(
    folder: Path,
    settings: Mapping[str, Any],
    was: Mapping[str, float],
    *,
    was_on: str | None,
    prepared_root: Path,
    code: Path,
) -> Fact:
    """Score each format again in a fresh process, and compare the metrics: exactly, if the hardware is the same.

    Args:
        folder: the exported model.
        settings: from `scoring_settings`.
        was: the recorded metrics.
        was_on: the hardware that computed them; None if it was not recorded.
        prepared_root: the folder of prepared datasets.
        code: the project's code, or the sweep's copy of it.
    """
    name = settings["data"]["name"]
    if not (prepared_root / name).is_dir():
        return Fact("score", "unchecked", f"the dataset {name} is not prepared")
    try:
        scored = score_formats(folder, {**settings, "prepared_root": str(prepared_root)}, code=code)
    except (UserError, ValueError) as error:
        return Fact("score", "unchecked", f"the exported model cannot be scored: {error}")
    except ExportFailed as error:
        return Fact("score", "changed", str(error).replace("toprung.errors.UserError: ", ""))
    now = scored["metrics"]
    differing = [
        f"{name} {now.get(name)!r}, recorded {value!r}" for name, value in was.items() if now.get(name) != value
    ]
    if differing:
        same_hardware = is_same_hardware(was_on, scored["hardware"])
        agree = all(
            name in now and scores_agree(now[name], value, same_hardware=same_hardware) for name, value in was.items()
        )
        elsewhere = "" if same_hardware else f" ({scored['hardware']}, recorded on {was_on})"
        observed = f"a fresh process scores {'; '.join(differing)}{elsewhere}"
        return Fact("score", "drifted" if agree else "changed", observed)
    scores = ", ".join(f"{name} {value:.6g}" for name, value in was.items())
    agreement = _describe_onnx(scored["files"])
    if not scores:
        return Fact(
            "score", "ok", f"a fresh process loads the model; only its trainer computes the sweep's metric{agreement}"
        )
    return Fact("score", "ok", f"a fresh process scores exactly the recorded {scores}{agreement}")


def _describe_onnx(files: Mapping[str, Any]) -> str:
    if "onnx" not in files:
        return ""
    images = f"{files['onnx']['num_images']:,} images"
    return f"; {ONNX_FILE} predicts the same labels for {images}"
