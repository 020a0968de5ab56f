"""Compare what the trials were trained on with the lineage: the data, the split, DVC's hashes, pretrained weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from toprung import data
from toprung.data.placement import map_arrays
from toprung.data.versioning import lineage as dvc_lineage
from toprung.data.versioning.lock import changed_outputs
from toprung.errors import UserError
from toprung.records.lineage import Lineage
from toprung.spec import Data
from toprung.sweep.verification.fact import Fact
from toprung.weights import WEIGHTS, read_weights


def check_inputs(lineage: Lineage, *, project: Path, settings: Data, num_repeats: int) -> Iterator[Fact]:
    """Compare the data, the split, DVC's hashes and the pretrained weights.

    Args:
        lineage: the recorded values.
        project: the project whose data and weights are compared.
        settings: the sweep's data settings.
        num_repeats: how often a cross-validation cut the images into folds; 1 without folds.
    """
    yield _check_data(lineage, project)
    yield _check_split(lineage, project, settings=settings, num_repeats=num_repeats)
    if lineage.dvc_prepared_md5 is not None or lineage.dvc_raw_md5 is not None:
        yield _check_dvc(lineage, project)
    for name, sha256 in lineage.weights.items():
        yield _check_weights(name, sha256, project)


def _check_data(lineage: Lineage, project: Path) -> Fact:
    """Hash every byte of the prepared arrays, as `toprung data verify` does."""
    name, was, prepared_root = lineage.data_name, lineage.data_fingerprint, project / data.PREPARED
    try:
        now = data.verify(name, root=prepared_root).fingerprint
    except UserError as error:
        return Fact("data", "changed" if (prepared_root / name).is_dir() else "unchecked", str(error))
    if now != was:
        observed = f"{name} was prepared again: its arrays have fingerprint {now[:12]}, the sweep's {was[:12]}"
        return Fact("data", "changed", observed, f"Check out that dvc.lock, then type: toprung data pull {name}")
    return Fact("data", "ok", f"{name}: every byte of its arrays as recorded, fingerprint {was[:12]}")


def _check_split(lineage: Lineage, project: Path, *, settings: Data, num_repeats: int) -> Fact:
    was = lineage.split_fingerprint
    try:
        now = map_arrays(settings, root=project / data.PREPARED, num_repeats=num_repeats).split_fingerprint
    except UserError as error:
        return Fact("split", "unchecked", str(error))
    if now != was:
        observed = f"{lineage.data_name} is split differently now: fingerprint {now[:12]}, the sweep's {was[:12]}"
        return Fact("split", "changed", observed)
    return Fact("split", "ok", f"the same training and validation images, fingerprint {was[:12]}")


def _check_dvc(lineage: Lineage, project: Path) -> Fact:
    """Compare DVC's hashes; the arrays themselves are compared by their fingerprint."""
    name = lineage.data_name
    try:
        hashes = (
            ("raw files", lineage.dvc_raw_md5, dvc_lineage.raw_md5(name, project=project)),
            ("arrays", lineage.dvc_prepared_md5, dvc_lineage.prepared_md5(name, project=project)),
        )
        differing = [f"{part} {now or 'none'}, recorded {was}" for part, was, now in hashes if was and was != now]
        if differing:
            return Fact("DVC", "drifted", f"dvc.lock has other hashes: {'; '.join(differing)}")
        if changed := changed_outputs(name, project=project):
            return Fact("DVC", "drifted", f"{data.PREPARED / name} does not match dvc.lock ({changed})")
    except UserError as error:
        return Fact("DVC", "unchecked", str(error))
    return Fact("DVC", "ok", f"hashes as recorded: {', '.join(f'{part} {now}' for part, _, now in hashes if now)}")


def _check_weights(name: str, was: str, project: Path) -> Fact:
    if Path(name).name != name:
        return Fact("weights", "unchecked", f"{name!r} is not a name of weights")
    try:
        now = read_weights(name, project=project).sha256
    except UserError as error:
        exists = (project / WEIGHTS / name).is_dir()
        return Fact("weights", "changed" if exists else "unchecked", str(error))
    if now != was:
        observed = f"{name} are other weights: hash {now[:12]}, the sweep's {was[:12]}"
        return Fact("weights", "changed", observed, "Restore them: git checkout, then toprung data pull")
    return Fact("weights", "ok", f"{name}: every byte as recorded, hash {was[:12]}")
