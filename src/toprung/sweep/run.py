"""Run a sweep: check everything, start Ray while importing, let Tune search, export the winner, leave true records."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toprung import cluster, data, directory, lineage
from toprung.directory import SweepDirectory
from toprung.spec import Sweep
from toprung.sweep import workbench
from toprung.sweep.board import Board, Watcher
from toprung.sweep.check import Checked, check, space_of
from toprung.sweep.process import Background, output_to, stop_signals

if TYPE_CHECKING:
    from toprung.ledger import TrialRecord
    from toprung.search.searcher import LedgerSearch
    from toprung.sweep.callbacks import StopOnRequest
    from toprung.tracking.bridge import MLflowBridge, ParentRun


@dataclass(frozen=True)
class Outcome:
    """How a sweep ended, for whoever asked for it."""

    status: str  # finished, stopped or failed
    reason: str | None
    directory: SweepDirectory
    board: Board
    tracking_uri: str
    tracking_problems: list[str]


def run(project: Path, sweep: Sweep, *, name: str | None, watcher: Watcher) -> Outcome:
    """Run a sweep from its spec to its export.

    Args:
        project: the workbench's root, active on `sys.path`.
        sweep: what to do.
        name: a second name for it, or None.
        watcher: told what happens.

    Returns:
        How it ended; a sweep whose every trial failed, or whose winner cannot be exported, is "failed".

    Raises:
        UserError: something given cannot be used; nothing is left behind.
        KeyboardInterrupt: stopped before the first trial.
    """
    cluster.prepare_environment()
    checked = check(project, sweep)
    root = project / sweep.storage
    made = directory.create(root, sweep, name=name, now=datetime.now())
    board = Board(made.sweep_id, sweep, checked.num_workers)
    try:
        workbench.snapshot(project, made.code_folder)
        with output_to(made.log_file):
            return _run(checked, made, board, watcher)
    except BaseException:
        if not board.trials:  # nothing happened yet that anyone could want to keep
            shutil.rmtree(made.path, ignore_errors=True)
        raise


def _run(checked: Checked, made: SweepDirectory, board: Board, watcher: Watcher) -> Outcome:
    sweep = checked.sweep
    watcher.opened(board)
    ray_here = cluster.LocalRay(code=made.code_folder, capacity=checked.capacity)
    record = lineage.collect(
        checked.project,
        card=checked.card,
        split_fingerprint=checked.split_fingerprint,
        seed=sweep.seed,
        search_seed=sweep.search.seed,
    )
    made.write(made.lineage_file, record.model_dump())
    tracking = Background(lambda: _open_tracking(made, sweep, record))
    try:
        searched = _search(checked, made, board, watcher, ray_here, tracking, record)
    finally:
        ray_here.stop()
    return searched


def _search(
    checked: Checked,
    made: SweepDirectory,
    board: Board,
    watcher: Watcher,
    ray_here: cluster.LocalRay,
    tracking: Background,
    record: lineage.Lineage,
) -> Outcome:
    from ray import tune as ray_tune

    from toprung import ledger
    from toprung.search import space as spaces
    from toprung.search.scheduler import RungScheduler
    from toprung.search.searcher import LedgerSearch
    from toprung.sweep.callbacks import BoardKeeper, Retention, StopOnRequest
    from toprung.sweep.trial import TrialTask, run_trial

    sweep = checked.sweep
    held = spaces.holding(space_of(checked.project, sweep), sweep.constants)
    first = spaces.default_point(held, {**checked.defaults, **sweep.constants}, named=sweep.space)
    scheduler = RungScheduler(sweep)
    searcher = LedgerSearch(
        sweep, directory=made, space=held, first_points=[first], scheduler=scheduler, on_ask=board.add
    )
    task = TrialTask(
        directory=made,
        trainer=sweep.trainer,
        defaults=checked.defaults,
        card=checked.card,
        metric=sweep.metric,
        mode=sweep.mode,
        seed=sweep.seed,
        num_threads=sweep.resources.num_threads,
    )
    parent: ParentRun = tracking.result()
    from toprung.tracking.bridge import MLflowBridge

    bridge = MLflowBridge(
        parent,
        trials_folder=made.trials_folder,
        number_of=lambda trial_id: board.trials[trial_id].number,
        end_of=searcher.ends.__getitem__,
        tags=_tags(made, record),
        on_run=lambda trial_id, run_id: ledger.write_run_id(searcher.study, trial_id=trial_id, run_id=run_id),
        on_kept=Retention(made, board).kept,
    )
    stop = StopOnRequest()

    def stop_asked() -> None:
        stop.ask()
        watcher.stopping(board)

    started = datetime.now().astimezone().isoformat(timespec="seconds")
    state: dict[str, Any] = {
        "status": "running",
        "started": started,
        "tracking_uri": parent.shown_uri,
        "mlflow_run_id": parent.run_id,
        "mlflow_experiment_id": parent.experiment_id,
        "pid": os.getpid(),
    }
    made.write(made.status_file, state)
    status = "failed"
    reason: str | None = "the driver failed"
    try:
        ray_here.wait()
        with stop_signals(stop_asked):
            _tune(ray_tune, checked, made, task, run_trial, searcher, scheduler, stop, [
                BoardKeeper(board, watcher, metric=sweep.metric, end_of=searcher.ends.__getitem__), bridge
            ])  # fmt: skip
            board.phase = "exporting the best model"
            watcher.phase(board)
            bridge.drain()
            status, reason = _conclude(checked, made, board, searcher, stop, record)
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
        bridge.drain()
        raise
    finally:
        state |= {"status": status, "reason": reason, "seconds": round(board.seconds, 1)}
        made.write(made.status_file, state)
        _close(bridge, made, board, status, reason)
    return Outcome(status, reason, made, board, parent.shown_uri, bridge.problems)


def _tune(
    ray_tune: Any,
    checked: Checked,
    made: SweepDirectory,
    task: Any,
    run_trial: Any,
    searcher: LedgerSearch,
    scheduler: Any,
    stop: StopOnRequest,
    callbacks: list[Any],
) -> None:
    resources = checked.sweep.resources
    trainable = ray_tune.with_resources(
        ray_tune.with_parameters(run_trial, task=task, arrays=checked.arrays),
        {"cpu": resources.cpus, "gpu": resources.gpus},
    )
    ray_tune.Tuner(
        trainable,
        tune_config=ray_tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=checked.sweep.num_trials,
            max_concurrent_trials=checked.num_workers,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=ray_tune.RunConfig(
            name="tune", storage_path=str(made.path), callbacks=callbacks, stop=stop, verbose=0
        ),
    ).fit()


def _conclude(
    checked: Checked,
    made: SweepDirectory,
    board: Board,
    searcher: LedgerSearch,
    stop: StopOnRequest,
    record: lineage.Lineage,
) -> tuple[str, str | None]:
    """Export the winner, and say how the sweep ended."""
    from toprung import ledger
    from toprung.analysis.ranking import ranked
    from toprung.export.bundle import ExportFailed, export_winner

    sweep = checked.sweep
    for trial_id, view in board.trials.items():
        if view.end is None:
            view.end = ledger.End("killed", cause="user")
            view.status = "killed"
            ledger.write_end(searcher.optuna_trial(trial_id), view.end)
    trials = ledger.read(made)
    order: list[TrialRecord] = ranked(trials, mode=sweep.mode)
    if not order:
        causes = Counter(trial.cause for trial in trials if trial.status == "failed")
        if causes:
            cause, count = causes.most_common(1)[0]
            return "failed", f"every trial failed, {count} of {len(trials)} because {cause}"
        return "stopped", "stopped by the user before a trial reported an epoch"
    try:
        export_winner(
            order[0],
            directory=made,
            sweep=sweep,
            lineage=record,
            card=checked.card,
            prepared_root=checked.project / data.PREPARED,
            num_trials=len(trials),
        )
    except ExportFailed as error:
        return "failed", f"the export failed: {error}"
    return ("stopped", "stopped by the user") if stop.asked else ("finished", None)


def _close(bridge: MLflowBridge, made: SweepDirectory, board: Board, status: str, reason: str | None) -> None:
    leaders = board.leaders()
    metrics = {"toprung/trials": float(len(board.trials)), "toprung/epochs": float(board.epochs_done)}
    tags = {"toprung.status": status}
    if reason:
        tags["stop_reason" if status == "stopped" else "error"] = reason
    if leaders and leaders[0].best_value is not None:
        metrics[f"best/{board.sweep.metric}"] = leaders[0].best_value
        tags["toprung.best_trial_id"] = leaders[0].trial_id
    bridge.close(
        status={"finished": "FINISHED", "stopped": "KILLED"}.get(status, "FAILED"),
        metrics=metrics,
        tags=tags,
        artifacts=[made.spec_file, made.lineage_file, made.export_folder],
    )


def _open_tracking(made: SweepDirectory, sweep: Sweep, record: lineage.Lineage) -> ParentRun:
    from toprung.tracking import server
    from toprung.tracking.bridge import open_parent

    root = made.path.parent
    uri = server.tracking_uri(root)
    return open_parent(
        uri,
        artifact_location=server.artifact_location(root, uri),
        experiment=sweep.name,
        run_name=made.sweep_id,
        tags={**_tags(made, record), "toprung.kind": "sweep"},
    )


def _tags(made: SweepDirectory, record: lineage.Lineage) -> dict[str, str]:
    return {
        "toprung.sweep_id": made.sweep_id,
        "toprung.commit": record.commit or "unknown",
        "toprung.dirty": str(record.dirty).lower(),
        "toprung.lock_hash": record.lock_hash or "none",
        "toprung.data": record.data_name,
        "toprung.data_fingerprint": record.data_fingerprint,
        "toprung.split_fingerprint": record.split_fingerprint,
        "toprung.seed": str(record.seed),
        **{f"toprung.version.{name}": version for name, version in record.versions.items()},
    }
