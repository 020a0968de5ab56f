"""Warm starts: a new sweep whose study begins with the trials of an earlier sweep."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from toprung.errors import UserError
from toprung.records import ledger
from toprung.records.lineage import read_lineage
from toprung.records.sweep_dir import SweepDirectory
from toprung.sweep.preflight import PreparedSweep, load_space

if TYPE_CHECKING:
    import optuna


def check_warm_start(source: SweepDirectory, prepared: PreparedSweep, *, accept_data_change: bool) -> None:
    """Check that an earlier sweep's trials are comparable with a new sweep's, and that one study can hold both.

    Raises:
        UserError: metric, data or choices of the space differ, or the earlier sweep has no usable trial.
    """
    from toprung.search import space as spaces
    from toprung.search.rehearsal import validate_space

    old, new = source.spec(), prepared.sweep
    if (old.metric, old.mode) != (new.metric, new.mode):
        raise UserError(
            f"{source.sweep_id} optimized {old.metric} ({old.mode}), but this sweep optimizes {new.metric} "
            f"({new.mode}), so its trials cannot be used here. Leave out --warm-start."
        )
    if not any(trial.status in ("finished", "stopped") for trial in ledger.read(source)):
        raise UserError(
            f"{source.sweep_id} has no trial that finished or was stopped, so there is nothing to start from."
        )
    known = read_lineage(source)
    same = (known.data_fingerprint, known.split_fingerprint) == (prepared.card.fingerprint, prepared.split_fingerprint)
    if not same and not accept_data_change:
        raise UserError(
            f"{source.sweep_id} was trained on other data ({known.data_name} {known.data_fingerprint[:12]}, split "
            f"{known.split_fingerprint[:12]}; now {prepared.card.name} {prepared.card.fingerprint[:12]}, split "
            f"{prepared.split_fingerprint[:12]}). To use its trials anyway, add --accept-data-change."
        )
    space = spaces.with_constants(load_space(prepared.code, new), new.constants)
    try:
        validate_space(space, new, prepared.defaults, prepare_study=partial(import_trials, source=source))
    except UserError as error:
        raise UserError(
            f"The trials of {source.sweep_id} do not fit this sweep's space: {error} Give each hyperparameter the "
            "choices and the type that it had there, or another name; or leave out --warm-start."
        ) from None


def import_trials(study: optuna.Study, *, source: SweepDirectory) -> None:
    """Add an earlier sweep's finished and stopped trials to a new study, marked as imported."""
    import optuna

    old = ledger.open_study(source)
    assert old is not None  # check_warm_start found trials in it
    for trial in old.get_trials(deepcopy=False):
        if trial.state.name not in ("COMPLETE", "PRUNED"):
            continue
        start = trial.user_attrs.get("start", {})
        study.add_trial(
            optuna.trial.create_trial(
                state=trial.state,
                value=trial.value if trial.state.name == "COMPLETE" else None,
                params=trial.params,
                distributions=trial.distributions,
                intermediate_values=trial.intermediate_values,
                user_attrs={
                    ledger.IMPORTED: trial.user_attrs.get(ledger.IMPORTED)
                    or {"sweep_id": source.sweep_id, "trial_id": start.get("trial_id")}
                },
            )
        )
