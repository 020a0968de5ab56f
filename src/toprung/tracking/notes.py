"""What MLflow's pages say of an experiment and of a sweep: saved descriptions, for who looks there first."""

from __future__ import annotations

from toprung.records.lineage import Lineage
from toprung.records.ranking import format_config
from toprung.records.trial_record import TrialRecord
from toprung.spec import Sweep

NOTE = "mlflow.note.content"  # the tag that MLflow's pages show as a description
KIND = "mlflow.experimentKind"  # without it they open on an overview for language models
CUSTOM_MODEL = "custom_model_development"


def experiment_tags(sweep: Sweep) -> dict[str, str]:
    """Tags of a new experiment: what is in it, and how to find something there."""
    by = ["`tags.toprung.kind = 'sweep'`: the sweeps", "`tags.toprung.status = 'stopped'`: what ASHA stopped"]
    by.append("`tags.toprung.rung = '1'`: what was stopped at the first rung" if not sweep.experiments else "")
    if sweep.experiments:
        by.append(f"``tags.`toprung.experiment` = '{sweep.experiments[0].name}'``: one configuration, with every seed")
    lines = "\n".join(f"- {line}" for line in by if line)
    note = (
        f"Sweeps of `{sweep.trainer}` on {sweep.data.name}, judged by {sweep.metric} ({sweep.mode}).\n\n"
        f"One parent run is one sweep; the runs below it are its trials. To filter:\n\n{lines}\n"
    )
    return {NOTE: note, KIND: CUSTOM_MODEL}


def sweep_note(sweep: Sweep, *, sweep_id: str, lineage: Lineage, confirms: str | None = None) -> str:
    """A sweep's own run, from its beginning.

    Args:
        sweep: the spec.
        sweep_id: its id.
        lineage: what it is made of.
        confirms: the id of the sweep whose leaders are trained again, if any.
    """
    if sweep.experiments:
        how = f"{sweep.plan_text}; nothing is searched and nothing is stopped early."
    else:
        how = f"{sweep.num_trials} trials from `{sweep.space}`; ASHA compares them at epochs {_words(sweep.rungs)}."
    again = f"\nIt trains the leaders of {confirms} again, with fresh seeds.\n" if confirms else ""
    commit = lineage.commit[:12] if lineage.commit else "none"
    return (
        f"{_first_line(sweep_id)}\n\n{how}\n{again}\n"
        f"Data: {lineage.data_name} ({lineage.data_fingerprint[:12]}). Commit: {commit}"
        f"{' with uncommitted changes' if lineage.dirty else ''}.\n\n"
        f"`toprung show {sweep_id}`, `toprung report {sweep_id}`"
    )


def ended_note(note: str, *, status: str, reason: str | None, best: TrialRecord | None, metric: str) -> str:
    """The same with how it ended."""
    why = f" ({reason})" if reason else ""
    won = ""
    if best is not None and best.value is not None:
        won = (
            f" Best {metric}: **{best.value:.4f}**, trial {best.number}, epoch {best.epoch}: "
            f"{format_config(best.config)}."
            " The best value is also the luckiest."
        )
    first, _, rest = note.partition("\n")
    return f"{first}\n\n**{status}**{why}.{won}\n{rest}"


def is_own_note(note: str, *, sweep_id: str) -> bool:
    """Whether a description is one of these, not a person's own."""
    return note.startswith(_first_line(sweep_id))


def _first_line(sweep_id: str) -> str:
    return f"### {sweep_id}"


def _words(rungs: tuple[int, ...]) -> str:
    return ", ".join(map(str, rungs))
