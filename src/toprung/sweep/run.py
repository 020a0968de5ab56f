"""Run a sweep: check everything, start Ray while importing, let Tune search, export the winner, leave true records."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

from toprung import cluster, directory
from toprung.errors import UserError
from toprung.spec import Sweep
from toprung.sweep import workbench
from toprung.sweep.board import Board, Watcher
from toprung.sweep.check import check
from toprung.sweep.driver import Driver, Outcome
from toprung.sweep.process import output_to


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
    made = directory.create(project / sweep.storage, sweep, name=name, now=datetime.now())
    board = Board(made.sweep_id, sweep, checked.num_workers)
    try:
        workbench.snapshot(project, made.code_folder)
        with output_to(made.log_file):
            return Driver(checked, made, board, watcher).run()
    except BaseException as error:
        if isinstance(error, UserError) or not board.trials:  # nothing happened that anyone could want to keep
            shutil.rmtree(made.path, ignore_errors=True)
        raise
