"""MLflow as the ledger's mirror: everything is sent once, in order, whatever broke in between.

The server itself is asked what it has before anything is sent a second time, so a request that was never answered
neither loses nor doubles what it carried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toprung import ledger
from toprung.analysis.ranking import ranked
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
        metric: str,
        on_run: Callable[[str, str], object] = lambda trial_id, run_id: None,
        on_kept: Callable[[str], object] = lambda trial_id: None,
        problems: list[str] | None = None,
    ) -> None:
        """Look at what the server has.

        Args:
            sweep: the open run.
            directory: the sweep's.
            metric: one that every epoch has, to ask the server how far it is.
            on_run: told a trial's id and its new run's id.
            on_kept: told that a trial's files are in MLflow.
            problems: what MLflow does not have and why is appended here; what it refused before is the beginning.
        """
        self._sweep, self._directory, self._metric = sweep, directory, metric
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

    def start(
        self, trial_id: str, *, number: int, config: Mapping[str, Any], continues: str | None, time_ms: int
    ) -> None:
        """The trial has a run that is open."""
        sent = self._sent.get(trial_id)
        if sent is None:
            run_id = self._sweep.start_trial(
                trial_id, number=number, config=config, continues=continues, time_ms=time_ms
            )
            sent = self._sent[trial_id] = _Sent(run_id, str(number), 0, "RUNNING", "")
            self._on_run(trial_id, run_id)
            self._note_refused(sent)
        elif sent.status != "RUNNING":
            self._sweep.reopen(sent.run_id)
            sent.status, sent.word = "RUNNING", "running"

    def epoch(self, trial_id: str, *, epoch: int, metrics: Mapping[str, float], time_ms: int) -> None:
        """An epoch that the server does not have yet."""
        sent = self._of(trial_id)
        if sent.epoch is None:
            sent.epoch = self._sweep.last_step(sent.run_id, self._metric)
        if epoch > sent.epoch:
            self._sweep.log_epoch(sent.run_id, epoch=epoch, metrics=metrics, time_ms=time_ms)
            sent.epoch = epoch
            self._note_refused(sent)

    def _note_refused(self, sent: _Sent) -> None:
        self._note(f"trial {sent.number}: {refusal}" for refusal in self._sweep.log.refused(sent.run_id))

    def _note(self, problems: Iterable[str]) -> None:
        self.problems += [problem for problem in problems if problem not in self.problems]

    def end(self, trial_id: str, end: End) -> None:
        """The trial ended."""
        sent = self._of(trial_id)
        if self._storage is not None:
            self._bring(trial_id)
        self._sweep.end_trial(sent.run_id, end, folder=self._directory.trial_folder(trial_id))
        self._note_refused(sent)
        sent.status, sent.word = "ENDED", end.status
        self._on_kept(trial_id)

    def _bring(self, trial_id: str) -> None:
        """Have the files of a trial that ran on another machine."""
        assert self._storage is not None
        try:
            bring_newer(self._directory, self._storage, trial_id)
        except StorageAway as error:
            self.problems.append(f"trial {trial_id}: its files were not at hand: {error}")

    def _of(self, trial_id: str) -> _Sent:
        from toprung.tracking.client import Refused

        if trial_id not in self._sent:
            raise Refused(f"trial {trial_id} has no run, for its start was refused")
        return self._sent[trial_id]

    def catch_up(self, trials: Iterable[TrialRecord], *, driver_lives: bool) -> None:
        """Send everything that the ledger has and the server has not.

        Args:
            trials: the whole ledger.
            driver_lives: whether open trials are really running; those of a dead driver are closed.
        """
        for trial in trials:
            if not trial.trial_id:
                continue
            word = trial.end.status if trial.end else ("running" if driver_lives else "interrupted")
            sent = self._sent.get(trial.trial_id)
            if sent is not None and sent.word == word and sent.status != "RUNNING":
                continue
            self._bring_up(trial, driver_lives=driver_lives)

    def _bring_up(self, trial: TrialRecord, *, driver_lives: bool) -> None:
        from toprung.tracking.client import Refused

        try:
            sent = self._sent.get(trial.trial_id)
            if sent is not None and sent.run_id != trial.mlflow_run_id:  # the answer that named it was lost
                self._sweep.log_config(sent.run_id, trial.config)  # and perhaps no more than the run was made
                self._on_run(trial.trial_id, sent.run_id)
            if sent is None or (driver_lives and not trial.end):
                self.start(
                    trial.trial_id,
                    number=trial.number,
                    config=trial.config,
                    continues=trial.continues,
                    time_ms=trial.started_ms,
                )
            for number, epoch in sorted(trial.epochs_by_number.items()):
                self.epoch(trial.trial_id, epoch=number, metrics=epoch.metrics, time_ms=epoch.time_ms)
            if trial.end:
                self.end(trial.trial_id, trial.end)
            elif not driver_lives:
                sent = self._of(trial.trial_id)
                last = max((epoch.time_ms for epoch in trial.epochs_by_number.values()), default=trial.started_ms)
                self._sweep.interrupt(sent.run_id, time_ms=last)
                sent.status, sent.word = "ENDED", "interrupted"
        except Refused as error:
            self.problems.append(f"trial {trial.number}: {error}")

    def conclude(self, trials: list[TrialRecord]) -> None:
        """End the sweep's own run as `status.json` says it ended."""
        directory, sweep = self._directory, self._directory.spec()
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
