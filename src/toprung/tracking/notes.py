"""Descriptions of experiments and sweeps for MLflow's pages."""

from __future__ import annotations

from toprung.records.catalog import confirmed_sweep_id
from toprung.records.lineage import read_lineage
from toprung.records.ranking import format_config
from toprung.records.sweep_dir import SweepDirectory
from toprung.records.trial_record import TrialRecord
from toprung.spec import Sweep

NOTE = "mlflow.note.content"  # the tag that MLflow's pages show as a description
KIND = "mlflow.experimentKind"  # without it, they open with an overview for language models
CUSTOM_MODEL = "custom_model_development"


def experiment_tags(sweep: Sweep) -> dict[str, str]:
    """Return the tags of a new experiment: a description with example filters, and the experiment's kind."""
    filters = ["`tags.toprung.kind = 'sweep'`: sweeps", "`tags.toprung.status = 'stopped'`: trials that ASHA stopped"]
    if sweep.experiments:
        name = sweep.experiments[0].name
        filters.append(f"``tags.`toprung.experiment` = '{name}'``: one configuration with all its seeds")
    else:
        filters.append("`tags.toprung.rung = '1'`: trials stopped at the first rung")
    lines = "\n".join(f"- {line}" for line in filters)
    note = (
        f"Sweeps of `{sweep.trainer}` on {sweep.data.name}, judged by {sweep.metric} ({sweep.mode}).\n\n"
        f"Each parent run is one sweep; the runs below it are its trials. Filters:\n\n{lines}\n"
    )
    return {NOTE: note, KIND: CUSTOM_MODEL}


def sweep_note(sweep_dir: SweepDirectory, sweep: Sweep) -> str:
    """Return the description of a sweep's run when the sweep starts.

    Raises:
        UserError: the sweep's files cannot be read.
    """
    sweep_id, lineage, confirms = sweep_dir.sweep_id, read_lineage(sweep_dir), confirmed_sweep_id(sweep_dir)
    if sweep.experiments:
        plan = f"{sweep.plan_text}; nothing is searched and nothing is stopped early."
    else:
        plan = f"{sweep.num_trials} trials from `{sweep.space}`; ASHA compares them at epochs {_join(sweep.rungs)}."
    sample = "with fresh seeds" if sweep.data.num_folds is None else "on folds of its images"
    again = f"\nIt trains the leaders of {confirms} again, {sample}.\n" if confirms else ""
    commit = lineage.commit[:12] if lineage.commit else "none"
    return (
        f"{_first_line(sweep_id)}\n\n{plan}\n{again}\n"
        f"Data: {lineage.data_name} ({lineage.data_fingerprint[:12]}). Commit: {commit}"
        f"{' with uncommitted changes' if lineage.dirty else ''}.\n\n"
        f"`toprung show {sweep_id}`, `toprung report {sweep_id}`"
    )


def ended_note(note: str, *, status: str, reason: str | None, best: TrialRecord | None, metric: str) -> str:
    """Return the description of a sweep's run after its end.

    Args:
        note: the description from the sweep's start.
        status: how the sweep ended.
        reason: why it ended, if there is a reason.
        best: the best trial, if any trial has a value.
        metric: the sweep's metric.
    """
    why = f" ({reason})" if reason else ""
    winner = ""
    if best is not None and best.value is not None:
        winner = (
            f" Best {metric}: **{best.value:.4f}**, trial {best.number}, epoch {best.epoch}: "
            f"{format_config(best.config)}. "
            "The best value is also the luckiest."
        )
    first, _, rest = note.partition("\n")
    return f"{first}\n\n**{status}**{why}.{winner}\n{rest}"


def is_own_note(note: str, *, sweep_id: str) -> bool:
    """Return whether toprung wrote a description, rather than a person."""
    return note.startswith(_first_line(sweep_id))


def _first_line(sweep_id: str) -> str:
    return f"### {sweep_id}"


def _join(rungs: tuple[int, ...]) -> str:
    return ", ".join(map(str, rungs))
