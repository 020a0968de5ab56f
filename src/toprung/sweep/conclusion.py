"""How a sweep ends: its winner is exported, and its status is said in a word and a reason."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from toprung import ledger
from toprung.catalog import confirmed_by
from toprung.directory import DISK_FULL, SweepDirectory
from toprung.spec import Sweep

if TYPE_CHECKING:
    from toprung.data import Card
    from toprung.lineage import Lineage
    from toprung.storage import SweepCopy
    from toprung.sweep.stopping import StopAsked


def conclude(
    made: SweepDirectory,
    *,
    sweep: Sweep,
    asked: StopAsked | None,
    lineage: Lineage,
    card: Card,
    prepared_root: Path,
    copy: SweepCopy | None,
) -> tuple[str, str]:
    """Export the winner, and say how the sweep ended.

    Args:
        made: the sweep; every trial of it has its end in the ledger.
        sweep: its spec.
        asked: who or what ended it before its trials did, if anything.
        lineage: what it was made of, for the export.
        card: the dataset's.
        prepared_root: the folder of prepared datasets, on which the export is verified.
        copy: its copy on object storage, which may hold the winner's weights, if there is one.

    Returns:
        "finished", "stopped" or "failed", and why; "" where everything ran to its end.
    """
    from toprung.analysis.ranking import ranked
    from toprung.analysis.seeds import representative
    from toprung.export.bundle import ExportFailed, export_winner

    if asked is not None and asked.reason == DISK_FULL:
        return "failed", f"{DISK_FULL}; make room, then type: toprung resume {made.sweep_id}"
    if asked is not None and asked.is_fault:
        return "failed", asked.reason
    trials = ledger.read(made)
    order = ranked(trials, mode=sweep.mode)
    if not order:
        causes = Counter(trial.cause for trial in trials if trial.status == "failed")
        if causes:
            cause, count = causes.most_common(1)[0]
            return "failed", f"every trial failed, {count} of {len(trials)} because {cause}"
        return "stopped", "stopped by the user before a trial reported an epoch"
    winner = order[0]
    if confirmed_by(made) is not None:
        winner = representative(trials, mode=sweep.mode) or winner
    try:
        if copy is not None and winner.epoch is not None:
            copy.bring_trial(winner.trial_id, epoch=winner.epoch)
        export_winner(
            winner,
            directory=made,
            sweep=sweep,
            lineage=lineage,
            card=card,
            prepared_root=prepared_root,
            num_trials=len(trials),
        )
    except ExportFailed as error:
        return "failed", f"the export failed: {error}"
    if asked is None:
        return "finished", ""
    return ("finished" if asked.by_rule else "stopped"), asked.reason
