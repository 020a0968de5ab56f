"""A sweep's ledger as a story: what happened, in order."""

from __future__ import annotations

from dataclasses import dataclass

from toprung.ledger import OPTUNA_STATES, Ledger, TrialRecord


@dataclass(frozen=True)
class Event:
    """One thing that happened."""

    time_ms: int
    what: str
    trial_id: str | None
    number: int | None
    text: str


def events(ledger: Ledger, *, metric: str, rungs: tuple[int, ...]) -> list[Event]:
    """Everything the ledger knows, oldest first.

    Args:
        ledger: of the sweep.
        metric: the sweep's, shown with each report.
        rungs: the sweep's, to tell where a trial was judged and went on.
    """
    found = []
    for life in ledger.lives:
        details = ", ".join(f"{name} {value}" for name, value in life.details.items())
        found.append(Event(life.time_ms, life.verb, None, None, details))
    for trial in ledger.trials:
        if trial.trial_id:
            found += _of(trial, metric=metric, rungs=rungs)
    return sorted(found, key=lambda event: event.time_ms)  # stable: what shares a millisecond stays in order


def _of(trial: TrialRecord, *, metric: str, rungs: tuple[int, ...]) -> list[Event]:
    def event(time_ms: int, what: str, text: str) -> Event:
        return Event(time_ms, what, trial.trial_id, trial.number, text)

    found = [event(trial.started_ms, "asked", f"continues {trial.continues}" if trial.continues else "")]
    for number, attempt in enumerate(trial.attempts):
        nodes = [node[:12] for node in dict.fromkeys(attempt.nodes)]
        where = f"on node{'s' if len(nodes) > 1 else ''} {', '.join(nodes)}"
        found.append(event(attempt.time_ms, "restarted" if number else "started", where))
    last = trial.epochs
    for number, epoch in sorted(trial.epochs_by_number.items()):
        if trial.continues and epoch.time_ms < trial.started_ms:
            continue  # an epoch of the trial that it continues
        text = f"epoch {number}: {metric} {epoch.metrics[metric]:.4f}, checkpointed"
        found.append(event(epoch.time_ms, "reported", text))
        if trial.audited is not None and number == trial.audited.rung:
            needed = f"{trial.audited.value:.4f}, needed {trial.audited.needed:.4f}"
            found.append(
                event(epoch.time_ms, "decided", f"would stop at rung {number} ({needed}), runs on for the audit")
            )
        elif trial.audited is not None and number > trial.audited.rung:
            continue  # judged no more
        elif number in rungs and (number < last or trial.status in ("running", "killed")):
            found.append(event(epoch.time_ms, "decided", f"goes on from rung {number}"))
    if trial.end is not None:
        at = trial.end.time_ms
        if trial.end.rung is not None:
            found.append(event(at, "decided", f"stopped at rung {trial.end.rung}: {trial.cause}"))
        cause = f": {trial.cause}" if trial.cause and trial.end.rung is None else ""
        found.append(event(at, "ended", f"{trial.status}{cause}"))
        if trial.status in OPTUNA_STATES:
            found.append(event(at, "told", f"Optuna: {trial.optuna_state}"))
    return found
