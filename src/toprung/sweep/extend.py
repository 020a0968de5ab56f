"""Extending a sweep: more trials, or a longer budget for its survivors."""

from __future__ import annotations

from pathlib import Path

from toprung import remote_storage
from toprung.errors import UserError
from toprung.records import ledger
from toprung.records.sweep_dir import SweepDirectory
from toprung.sweep import promotion
from toprung.sweep.driver import Outcome
from toprung.sweep.progress import ProgressListener
from toprung.sweep.promotion import survivor_hook
from toprung.sweep.resume import restart_hint, resume_driver
from toprung.sweep.study import DriverLaunch


def extend(
    project: Path,
    sweep_dir: SweepDirectory,
    *,
    num_new_trials: int,
    max_epochs: int | None,
    listener: ProgressListener,
    address: str | None = None,
) -> Outcome:
    """Run more trials of a sweep, or continue its survivors with a longer budget, on the existing study.

    If a stop rule has ended the sweep, the extension adds to the trials that there are, and runs without stop rules,
    because the same one would end it at once.

    Args:
        project: the project's root folder, not yet on `sys.path`.
        sweep_dir: the sweep.
        num_new_trials: the number of trials to add.
        max_epochs: the new full budget, above the old one; None keeps the old one.
        listener: receives the sweep's progress.
        address: the address of a running cluster; None starts Ray on this machine.

    Raises:
        UserError: the sweep is running, is a controlled experiment or would not grow, or its data have changed.
    """
    remote_storage.download_sweep(sweep_dir)
    old = sweep_dir.spec()
    if old.experiments:
        raise UserError(
            f"{sweep_dir.sweep_id} is a controlled experiment ({old.plan_text}): its configurations must all have "
            f"the same seeds and budget, so it cannot be extended. {restart_hint(sweep_dir, old)}"
        )
    if max_epochs is not None and max_epochs <= old.asha.max_epochs:
        raise UserError(
            f"--max-epochs {max_epochs} does not extend {sweep_dir.sweep_id}: its budget is already "
            f"{old.asha.max_epochs} epochs. Give more."
        )
    if not num_new_trials and max_epochs is None:
        raise UserError(
            f"Give --trials, --max-epochs or both: toprung extend {sweep_dir.sweep_id} --trials N --max-epochs M"
        )
    asha = old.asha.model_copy(update={"max_epochs": max_epochs or old.asha.max_epochs})
    state, num_trials = sweep_dir.read_status(), len(ledger.read(sweep_dir))
    ended_by_rule = state.get("status") == "finished" and bool(state.get("reason"))
    if not ended_by_rule:
        num_trials = max(old.num_trials, num_trials)
    sweep = old.model_copy(update={"num_trials": num_trials + num_new_trials, "asha": asha})
    if ended_by_rule:
        sweep = sweep.model_copy(update={"stop": old.stop.without_rules()})
    if max_epochs is not None:
        survivors = len(promotion.find_survivors(ledger.read(sweep_dir), sweep, old_max_epochs=old.asha.max_epochs))
        sweep = sweep.model_copy(update={"num_trials": sweep.num_trials + survivors})
    from_epochs = old.asha.max_epochs if max_epochs is not None else None
    launch = DriverLaunch(
        "extend",
        details={"num_trials": sweep.num_trials, "max_epochs": asha.max_epochs},
        prepare_study=survivor_hook(sweep_dir, sweep, from_epochs),
    )
    extension = {"num_trials": sweep.num_trials, "max_epochs": asha.max_epochs, "from_epochs": from_epochs}
    extension["without_stop_rules"] = ended_by_rule
    return resume_driver(
        project, sweep_dir, sweep, listener=listener, address=address, launch=launch, extension=extension
    )
