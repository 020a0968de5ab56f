"""Compare the exported model with the records of its trial, and score it again in a fresh process."""

from __future__ import annotations

import filecmp
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from toprung import data
from toprung.errors import UserError
from toprung.export.bundle import ExportFailed, score_in_fresh_process
from toprung.records.sweep_dir import CONFIG_FILE, LABELS_FILE, METRICS_FILE, WEIGHTS_FILE, WEIGHTS_META_FILE
from toprung.records.trial_record import TrialRecord
from toprung.sweep.verification.fact import Fact
from toprung.sweep.verification.recorded import RecordedSweep

FILES = (WEIGHTS_FILE, CONFIG_FILE, METRICS_FILE, LABELS_FILE)


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
    yield from _weights_problems(recorded, trial)
    if trial is not None:
        yield from _record_problems(recorded, trial, contents)
    try:
        classes = list(data.open_prepared(recorded.sweep.data.name, root=recorded.prepared_root).card.classes)
    except UserError:
        return  # reported with the data
    if contents[LABELS_FILE].get("classes") != classes:
        yield f"{LABELS_FILE} does not have the classes of {recorded.sweep.data.name}"


def _weights_problems(recorded: RecordedSweep, trial: TrialRecord | None) -> Iterator[str]:
    """Check the checksums in the weights file, and compare it with the trial's own copy, if that is still here."""
    exported = recorded.sweep_dir.export_folder / WEIGHTS_FILE
    if damaged := damaged_record(exported):
        yield f"{exported.name} was changed: {damaged}"
        return
    original = recorded.sweep_dir.trial_folder(trial.trial_id) / WEIGHTS_FILE if trial is not None else None
    if original is None or not original.is_file() or filecmp.cmp(exported, original, shallow=False):
        return
    shown = original.relative_to(recorded.sweep_dir.path)
    if damaged := damaged_record(original):
        yield f"{shown}, from which {exported.name} was copied, was changed: {damaged}"
    else:
        yield f"{exported.name} differs from {shown}, from which it was copied"


def damaged_record(path: Path) -> str:
    """Return which record of a file of `torch.save` does not match its checksum; empty if all do.

    Such a file is a ZIP archive with a record for each tensor. `torch.load` does not check their CRC-32.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        return f"it cannot be read ({error})"
    return f"its record {damaged} does not match its checksum" if damaged else ""


def _record_problems(
    recorded: RecordedSweep, trial: TrialRecord, contents: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """Compare the exported JSON files with the ledger and with the trial's folder."""
    exported, metrics = contents[CONFIG_FILE], contents[METRICS_FILE]
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
    if exported.get("architecture") != architecture:
        yield f"{CONFIG_FILE} does not have the trial's architecture"


def _check_score(recorded: RecordedSweep) -> Fact:
    """Score the exported model again in a fresh process, and compare the metrics exactly."""
    sweep = recorded.sweep
    if not (recorded.prepared_root / sweep.data.name).is_dir():
        return Fact("score", "unchecked", f"the dataset {sweep.data.name} is not prepared")
    try:
        seed = recorded.read_exported(CONFIG_FILE).get("seed", sweep.seed)
        was = recorded.read_exported(METRICS_FILE)["verified"]
        now = score_in_fresh_process(
            recorded.sweep_dir.export_folder,
            sweep_dir=recorded.sweep_dir,
            sweep=sweep,
            prepared_root=recorded.prepared_root,
            seed=seed,
        )["metrics"]
    except (UserError, KeyError, ValueError) as error:
        return Fact("score", "unchecked", f"the exported model cannot be scored: {error}")
    except ExportFailed as error:
        reason = str(error).removeprefix("toprung.errors.UserError: ")
        return Fact("score", "changed", f"a fresh process could not score the exported model: {reason}")
    differing = [
        f"{name} {now.get(name)!r}, recorded {value!r}" for name, value in was.items() if now.get(name) != value
    ]
    if differing:
        return Fact("score", "changed", f"a fresh process scores {'; '.join(differing)}")
    scores = ", ".join(f"{name} {value:.6g}" for name, value in was.items())
    if not scores:
        return Fact("score", "ok", "a fresh process loads the model; only its trainer computes the sweep's metric")
    return Fact("score", "ok", f"a fresh process scores exactly the recorded {scores}")
