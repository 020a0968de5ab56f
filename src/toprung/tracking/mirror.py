"""MLflow as the ledger's mirror: everything is sent once, in order, whatever broke in between.

The server itself is asked what it has before anything is sent a second time, so a request that was never answered
neither loses nor doubles what it carried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toprung import ledger
from toprung.analysis.ranking import is_better, ranked
from toprung.catalog import confirmed_by
from toprung.directory import SweepDirectory
from toprung.errors import UserError
from toprung.ledger import End, TrialRecord
from toprung.lineage import Lineage
from toprung.spec import Sweep
from toprung.storage import StorageAway, bring_newer, storage_of
from toprung.tracking import description, server

if TYPE_CHECKING:
    from toprung.tracking.client import TrackedSweep

PARENT_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "interrupted": "KILLED", "failed": "FAILED"}


@dataclass
class _Sent:
    """What the server has of a trial: `epoch` is None until it has been asked."""

    run_id: str
    number: str
    epoch: int | None
    status: str
    word: str


def open_sweep(directory: SweepDirectory, *, sweep: Sweep) -> TrackedSweep:
    """The sweep's run in MLflow, found or made.

    Raises:
        UserError: MLflow refuses, or the sweep's files cannot be read.
        toprung.tracking.client.Away: it does not answer.
    """
    from toprung.tracking.client import TrackedSweep

    root = directory.path.parent
    uri = server.tracking_uri(root)
    lives = ledger.read_all(directory).lives
    confirmed = confirmed_by(directory)
    return TrackedSweep(
        uri,
        artifact_location=server.artifact_location(root, uri),
        experiment=sweep.name,
        sweep_id=directory.sweep_id,
        started=lives[0].time_ms if lives else ledger.now_ms(),
        lineage=_lineage(directory),
        top_rung=sweep.rungs[-1],
        note=_note(directory, sweep),
        experiment_tags=description.of_experiment(sweep),
        confirms=None if confirmed is None else SweepDirectory(root / confirmed).mlflow_run_id,
    )


def _lineage(directory: SweepDirectory) -> Lineage:
    return Lineage.model_validate(directory.read(directory.lineage_file))


def _note(directory: SweepDirectory, sweep: Sweep) -> str:
    confirms = confirmed_by(directory)
    return description.of_sweep(sweep, sweep_id=directory.sweep_id, lineage=_lineage(directory), confirms=confirms)


class Mirror:
    """One sweep's runs in MLflow, each brought up to what the ledger says."""

    def __init__(
        self,
        sweep: TrackedSweep,
        *,
        directory: SweepDirectory,
        on_run: Callable[[str, str], object] = lambda trial_id, run_id: None,
        on_kept: Callable[[str], object] = lambda trial_id: None,
        problems: list[str] | None = None,
    ) -> None:
        """Look at what the server has.

        Args:
            sweep: the open run.
            directory: the sweep's.
            on_run: told a trial's id and its new run's id.
            on_kept: told that a trial's files are in MLflow.
            problems: what MLflow does not have and why is appended here; what it refused before is the beginning.
        """
        self._sweep, self._directory, self._spec = sweep, directory, directory.spec()
        self._on_run, self._on_kept = on_run, on_kept
        self._sent: dict[str, _Sent] = {}
        self.problems: list[str] = [] if problems is None else problems
        self._storage = storage_of(directory)
        self.refresh()

    def refresh(self) -> None:
        """Ask the server again: after an unanswered request nobody knows what it has."""
        self._sent = {
            trial_id: _Sent(
                run.run_id,
                run.tags.get("toprung.trial_number", "?"),
                None,
                run.status,
                run.tags.get("toprung.status", ""),
            )
            for trial_id, run in self._sweep.children().items()
        }
        for sent in self._sent.values():
            self._note_refused(sent)

    def runs(self) -> dict[str, str]:
        """Run ids by trial id."""
        return {trial_id: sent.run_id for trial_id, sent in self._sent.items()}

    def sync(self, trials: Iterable[TrialRecord], *, driver_lives: bool) -> None:
        """Send everything that the ledger has of some trials and the server has not.

        Args:
            trials: the trials that have changed, or all.
            driver_lives: whether open trials are really running; those of a dead driver are closed.
        """
        from toprung.tracking.client import Refused

        for trial in trials:
            if not trial.trial_id:
                continue
            word = trial.end.status if trial.end else ("running" if driver_lives else "interrupted")
            sent = self._sent.get(trial.trial_id)
            if sent is not None and sent.word == word and sent.status != "RUNNING":
                continue
            try:
                self._sync_trial(trial, driver_lives=driver_lives)
            except (Refused, KeyError, TypeError, ValueError) as error:  # one bad trial must not end all the others
                is_refusal = isinstance(error, Refused)
                self._note([f"trial {trial.number}: {error if is_refusal else repr(error)}"])

    def _sync_trial(self, trial: TrialRecord, *, driver_lives: bool) -> None:
        sent = self._sent.get(trial.trial_id)
        if sent is not None and sent.epoch is None and sent.run_id != trial.mlflow_run_id:
            self._sweep.log_config(sent.run_id, trial.config)  # the answer was lost: perhaps only the run was created
            self._on_run(trial.trial_id, sent.run_id)
        if sent is None:
            sent = self._start_trial(trial)
        elif driver_lives and not trial.end and sent.status != "RUNNING":
            self._sweep.reopen(sent.run_id)
            sent.status, sent.word = "RUNNING", "running"
        self._log_epochs(trial, sent)
        if trial.end:
            self._end_trial(trial, sent, trial.end)
        elif not driver_lives:
            last = max((epoch.time_ms for epoch in trial.epochs_by_number.values()), default=trial.started_ms)
            self._sweep.interrupt(sent.run_id, time_ms=last)
            sent.status, sent.word = "ENDED", "interrupted"

    def _start_trial(self, trial: TrialRecord) -> _Sent:
        run_id = self._sweep.start_trial(
            trial.trial_id,
            number=trial.number,
            config=trial.config,
            continues=trial.continues,
            time_ms=trial.started_ms,
        )
        sent = self._sent[trial.trial_id] = _Sent(run_id, str(trial.number), 0, "RUNNING", "")
        self._on_run(trial.trial_id, run_id)
        self._note_refused(sent)
        return sent

    def _log_epochs(self, trial: TrialRecord, sent: _Sent) -> None:
        """Log the epochs that the server has not, with the best value and its epoch as they improve."""
        if sent.epoch is None:
            sent.epoch = self._sweep.last_step(sent.run_id, self._spec.metric)
        epochs, best = [], None
        for number, epoch in sorted(trial.epochs_by_number.items()):
            metrics = dict(epoch.metrics)
            value = metrics.get(self._spec.metric)
            if value is not None and is_better(value, best, sweep=self._spec):
                best = value
                metrics |= {f"best/{self._spec.metric}": value, "best/epoch": float(number)}
            if number > sent.epoch:
                epochs.append((number, metrics, epoch.time_ms))
        if epochs:
            self._sweep.log_epochs(sent.run_id, epochs)
            sent.epoch = epochs[-1][0]
            self._note_refused(sent)

    def _end_trial(self, trial: TrialRecord, sent: _Sent, end: End) -> None:
        if self._storage is not None:
            self._bring(trial.trial_id)
        self._sweep.end_trial(sent.run_id, end, folder=self._directory.trial_folder(trial.trial_id))
        self._note_refused(sent)
        sent.status, sent.word = "ENDED", end.status
        self._on_kept(trial.trial_id)

    def _bring(self, trial_id: str) -> None:
        """Have the files of a trial that ran on another machine."""
        assert self._storage is not None
        try:
            bring_newer(self._directory, self._storage, trial_id)
        except StorageAway as error:
            self.problems.append(f"trial {trial_id}: its files were not at hand: {error}")

    def _note_refused(self, sent: _Sent) -> None:
        self._note(f"trial {sent.number}: {refusal}" for refusal in self._sweep.log.refused(sent.run_id))

    def _note(self, problems: Iterable[str]) -> None:
        self.problems += [problem for problem in problems if problem not in self.problems]

    def conclude(self, trials: list[TrialRecord]) -> None:
        """End the sweep's own run as `status.json` says it ended."""
        directory, sweep = self._directory, self._spec
        try:
            state = directory.read(directory.status_file)
        except UserError:
            state = {}
        status = str(state.get("status", "interrupted"))
        status = "interrupted" if status == "running" else status
        reason = state.get("reason") or ("the driver died" if status == "interrupted" else None)
        order = ranked(trials, mode=sweep.mode)
        asked = [trial for trial in trials if trial.trial_id]
        metrics = {
            "toprung/trials": float(len(asked)),
            "toprung/epochs": float(sum(len(trial.epochs_by_number) for trial in asked)),
        }
        tags = {"toprung.status": status}
        if reason:
            tags["error" if status == "failed" else "stop_reason"] = str(reason)
        if order and order[0].value is not None:
            metrics[f"best/{sweep.metric}"] = order[0].value
            tags["toprung.best_trial_id"] = order[0].trial_id
        tags[description.NOTE] = description.of_ended(
            _note(directory, sweep),
            status=status,
            reason=str(reason) if reason else None,
            best=order[0] if order else None,
            metric=sweep.metric,
        )
        self._sweep.end(
            PARENT_STATUS.get(status, "FAILED"),
            metrics=metrics,
            tags=tags,
            artifacts=[directory.spec_file, directory.lineage_file, directory.export_folder],
            time_ms=ledger.now_ms(),
        )
        self._note(f"the sweep: {refusal}" for refusal in self._sweep.log.refused(self._sweep.run_id))

    def take_up(self) -> None:
        """The sweep's own run is open (again)."""
        self._sweep.reopen(self._sweep.run_id)
