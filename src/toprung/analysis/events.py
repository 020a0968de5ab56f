"""A sweep's ledger as a chronological list of events."""

from __future__ import annotations

from dataclasses import dataclass

from toprung.records.ledger import OPTUNA_STATES, Ledger
from toprung.records.trial_record import TrialRecord


@dataclass(frozen=True)
class Event:
    """One event of a sweep; those of the driver have no trial."""

    time_ms: int
    what: str
    trial_id: str | None
    number: int | None
    text: str


def list_events(ledger: Ledger, *, metric: str, rungs: tuple[int, ...]) -> list[Event]:
    """List all events that the ledger records, oldest first.

    Args:
        ledger: the sweep's ledger.
        metric: the sweep's metric, shown with each report.
        rungs: the sweep's rungs, at which trials were judged and continued.
    """
    events = []
    for driver_run in ledger.driver_runs:
        details = ", ".join(f"{name} {value}" for name, value in driver_run.details.items())
        events.append(Event(driver_run.time_ms, driver_run.command, None, None, details))
    for trial in ledger.trials:
        if trial.trial_id:
            events += _trial_events(trial, metric=metric, rungs=rungs)
    return sorted(events, key=lambda event: event.time_ms)  # stable: events in the same millisecond keep their order


def _trial_events(trial: TrialRecord, *, metric: str, rungs: tuple[int, ...]) -> list[Event]:
    def event(time_ms: int, what: str, text: str) -> Event:
        return Event(time_ms, what, trial.trial_id, trial.number, text)

    events = [event(trial.started_ms, "asked", f"continues {trial.continues}" if trial.continues else "")]
    for number, attempt in enumerate(trial.attempts):
        nodes = [node[:12] for node in dict.fromkeys(attempt.nodes)]
        text = f"on node{'s' if len(nodes) > 1 else ''} {', '.join(nodes)}"
        events.append(event(attempt.time_ms, "restarted" if number else "started", text))
    last = trial.epochs
    for number, epoch in sorted(trial.epochs_by_number.items()):
        if trial.continues and epoch.time_ms < trial.started_ms:
            continue  # an epoch of the trial that it continues
        text = f"epoch {number}: {metric} {epoch.metrics[metric]:.4f}, checkpointed"
        events.append(event(epoch.time_ms, "reported", text))
        if trial.audited is not None and number == trial.audited.rung:
            needed = f"{trial.audited.value:.4f}, needed {trial.audited.needed:.4f}"
            events.append(
                event(epoch.time_ms, "decided", f"would stop at rung {number} ({needed}), continues for the audit")
            )
        elif trial.audited is not None and number > trial.audited.rung:
            continue  # no later rung judges an audited trial
        elif number in rungs and (number < last or trial.status in ("running", "interrupted")):
            events.append(event(epoch.time_ms, "decided", f"continues past rung {number}"))
    if trial.end is not None:
        time_ms = trial.end.time_ms
        if trial.end.rung is not None:
            events.append(event(time_ms, "decided", f"stopped at rung {trial.end.rung}: {trial.cause}"))
        cause = f": {trial.cause}" if trial.cause and trial.end.rung is None else ""
        events.append(event(time_ms, "ended", f"{trial.status}{cause}"))
        if trial.status in OPTUNA_STATES:
            events.append(event(time_ms, "told", f"Optuna: {trial.optuna_state}"))
    return events
