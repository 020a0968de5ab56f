"""Checks before a sweep is resumed: its recipe and its data must be unchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toprung import data
from toprung.data.splits.arrays import split_indices
from toprung.errors import UserError
from toprung.overrides import apply_overrides
from toprung.project.modules import list_recipes, load_recipe, switch_to
from toprung.records import ledger
from toprung.records.lineage import read_lineage
from toprung.records.sweep_dir import SweepDirectory
from toprung.records.trial_record import now_ms
from toprung.spec import Sweep
from toprung.sweep.preflight import PreparedSweep

if TYPE_CHECKING:
    from pathlib import Path


def previous_seconds(sweep_dir: SweepDirectory) -> float:
    """Return how long the sweep's earlier drivers ran, in seconds, by the times in the ledger."""
    known = ledger.read_all(sweep_dir)
    starts = [driver_run.time_ms for driver_run in known.driver_runs]
    if not starts:
        return 0.0  # the driver died before the ledger's first lines
    events = sorted(
        time_ms
        for trial in known.trials
        for time_ms in (
            trial.started_ms,
            *(epoch.time_ms for epoch in trial.epochs_by_number.values()),
            *([trial.end.time_ms] if trial.end else []),
        )
    )
    total = 0
    for start, following in zip(starts, [*starts[1:], now_ms()], strict=True):
        last = max((time_ms for time_ms in events if start <= time_ms <= following), default=start)
        total += last - start
    return total / 1000


def check_recipe_unchanged(project: Path, sweep_dir: SweepDirectory, sweep: Sweep) -> None:
    """Check that the sweep's recipe still gives the same spec. A recipe that was removed is not checked.

    Raises:
        UserError: the specs differ; the message lists the fields.
    """
    content = sweep_dir.read(sweep_dir.spec_file)
    recipe = content.get("recipe")
    if not recipe or str(recipe).removeprefix("tune.").partition(":")[0] not in list_recipes(project):
        return
    switch_to(project)
    current = apply_overrides(load_recipe(project, recipe), content.get("settings", []))
    for extension in content.get("extensions", []):
        asha = current.asha.model_copy(update={"max_epochs": extension["max_epochs"]})
        current = current.model_copy(update={"num_trials": extension["num_trials"], "asha": asha})
        if extension.get("without_stop_rules"):  # missing in extensions by earlier versions
            current = current.model_copy(update={"stop": current.stop.without_rules()})
    changed = diff_specs(sweep, current)
    if changed:
        more = "" if sweep.experiments else f"type toprung extend {sweep_dir.sweep_id} for more of the same, "
        warm_start = "" if sweep.experiments else f" --warm-start {sweep_dir.sweep_id}"
        raise UserError(
            f"The recipe {recipe} has changed since {sweep_dir.sweep_id} began:\n"
            + "\n".join(f"  {line}" for line in changed)
            + f"\nRestore it to resume, {more}or start a new sweep: toprung sweep {recipe}{warm_start}"
        )


def diff_specs(old: Sweep, new: Sweep) -> list[str]:
    """Return one line per field that differs, such as `asha.max_epochs: 9, now 27`."""
    before, after = _flatten(old.model_dump(mode="json")), _flatten(new.model_dump(mode="json"))
    names = [*before, *(name for name in after if name not in before)]
    return [
        f"{name}: {before.get(name, 'not set')}, now {after.get(name, 'not set')}"
        for name in names
        if before.get(name) != after.get(name)
    ]


def _flatten(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if name == "experiments":
            value = {experiment["name"]: experiment["config"] for experiment in value}
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def check_data_unchanged(sweep_dir: SweepDirectory, prepared: PreparedSweep) -> None:
    """Check that a sweep which is resumed or confirmed has the images, the split and the weights of its start.

    Raises:
        UserError: one of them has changed.
    """
    known, data_settings = read_lineage(sweep_dir), sweep_dir.spec().data
    split_fingerprint = prepared.split_fingerprint
    if data_settings.num_folds != prepared.sweep.data.num_folds:  # a confirmation cuts the sweep's images into folds
        images = data.open_prepared(data_settings.name, root=prepared.project / data.PREPARED)
        split_fingerprint = split_indices(data_settings, images).fingerprint
    for what, was, now in (
        ("The dataset", known.data_fingerprint, prepared.card.fingerprint),
        ("The split of the dataset", known.split_fingerprint, split_fingerprint),
    ):
        if was != now:
            raise UserError(
                f"{what} {prepared.card.name} has changed since {sweep_dir.sweep_id} began ({was[:12]}, now "
                f"{now[:12]}). Restore it (toprung data pull {prepared.card.name}), or start a new sweep: "
                f"toprung sweep RECIPE --warm-start {sweep_dir.sweep_id} --accept-data-change"
            )
    for card in prepared.weights:
        if (was := known.weights.get(card.name, "")) != card.sha256:
            raise UserError(
                f"The pretrained weights {card.name} have changed since {sweep_dir.sweep_id} began ({was[:12]}, now "
                f"{card.sha256[:12]}). Restore them: git checkout, then toprung data pull"
            )
