"""Run a sweep, or take one up again: check everything, let the driver search, leave true records."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import filelock

from toprung import catalog, cluster, ledger, storage
from toprung.directory import SweepDirectory
from toprung.errors import UserError
from toprung.spec import Sweep
from toprung.sweep import earlier, workbench
from toprung.sweep.board import Board, Watcher
from toprung.sweep.check import Checked, check
from toprung.sweep.driver import Driver, Life, Outcome, TrackingRefused
from toprung.sweep.process import output_to

if TYPE_CHECKING:
    import optuna


def run(
    project: Path,
    sweep: Sweep,
    *,
    name: str | None,
    watcher: Watcher,
    recipe: str | None = None,
    settings: Sequence[str] = (),
    warm_start: SweepDirectory | None = None,
    accept_data_change: bool = False,
    address: str | None = None,
) -> Outcome:
    """Run a sweep from its spec to its export.

    Args:
        project: the workbench's root, active on `sys.path`.
        sweep: what to do.
        name: a second name for it, or None.
        watcher: told what happens.
        recipe: where the spec came from, to be compared with when the sweep is resumed.
        settings: what the command line changed in it.
        warm_start: an earlier sweep whose trials the searcher is told of.
        accept_data_change: be told of them even though they saw other data.
        address: of a running cluster; None for a private Ray on this machine.

    Returns:
        How it ended; a sweep whose every trial failed, or whose winner cannot be exported, is "failed".

    Raises:
        UserError: something given cannot be used; nothing is left behind.
        KeyboardInterrupt: stopped before the first trial.
    """
    if warm_start is not None and sweep.experiments:
        raise UserError(f"{sweep.name} is a controlled experiment: no searcher could be told. Leave --warm-start out.")
    copy_code = partial(workbench.snapshot, project)
    with ray_at(address, copy_code=copy_code) as ray_there:
        checked = check(project, sweep, ray_there=ray_there)
        life = Life()
        if warm_start is not None:
            earlier.check_warm_start(warm_start, checked, accept_data_change=accept_data_change)
            told = partial(earlier.tell, source=warm_start)
            life = Life(details={"warm_start": warm_start.sweep_id}, prepare_study=told)
        root = storage.local_root(project, sweep.storage)
        made = catalog.create(root, sweep, name=name, now=datetime.now(), recipe=recipe, settings=settings)
        return begin(checked, made, watcher=watcher, life=life, copy_code=copy_code, ray_there=ray_there)


@contextlib.contextmanager
def ray_at(address: str | None, *, copy_code: Callable[[Path], object]) -> Iterator[cluster.AttachedRay | None]:
    """The cluster at an address, connected while the block lasts; None without one: the driver starts its own Ray.

    Args:
        address: `auto`, `HOST:PORT` or None.
        copy_code: puts the workbench into a folder that is not there yet; from there it is sent to the cluster.

    Raises:
        UserError: the cluster cannot be used.
    """
    cluster.prepare_environment(address)
    if address is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="toprung-code-") as folder:
        code = Path(folder) / "code"
        copy_code(code)
        ray_there = cluster.attach(address, code=code)
    try:
        yield ray_there
    finally:
        ray_there.stop()


def begin(
    checked: Checked,
    made: SweepDirectory,
    *,
    watcher: Watcher,
    copy_code: Callable[[Path], object],
    life: Life | None = None,
    ray_there: cluster.AttachedRay | None = None,
) -> Outcome:
    """Drive a sweep whose directory has just been made; where nothing came of it, the directory goes.

    Args:
        checked: the sweep, looked at.
        made: its new directory.
        watcher: told what happens.
        copy_code: puts the workbench into a folder that is not there yet.
        life: why the driver runs; None for a new sweep.
        ray_there: the cluster to run on; None for a private Ray.
    """
    board = Board(made.sweep_id, checked.sweep, checked.num_workers, note=checked.images.where)
    try:
        copy_code(made.code_folder)
        with made.lock():
            return _drive(checked, made, board, watcher, life=life, ray_there=ray_there)
    except BaseException as error:
        reached_end = any(trial.status in ("finished", "stopped") for trial in board.trials.values())
        if not board.trials or (isinstance(error, TrackingRefused) and not reached_end):  # nothing worth keeping
            with contextlib.suppress(UserError):
                storage.discard(made)
            shutil.rmtree(made.path, ignore_errors=True)
        raise


def _drive(
    checked: Checked,
    made: SweepDirectory,
    board: Board,
    watcher: Watcher,
    *,
    life: Life | None,
    ray_there: cluster.AttachedRay | None,
) -> Outcome:
    """Run the driver; where the sweep is kept on object storage, beside its copy."""
    with storage.kept_up(made) as copy, output_to(made.log_file):
        outcome = Driver(checked, made, board, watcher, life=life, ray_there=ray_there, copy=copy).run()
    return outcome if copy is None else replace(outcome, unsent=copy.undelivered)


def resume(project: Path, made: SweepDirectory, *, watcher: Watcher, address: str | None = None) -> Outcome:
    """Go on with a sweep whose driver died or was stopped: same spec, same code, same data.

    Args:
        project: the workbench's root, not yet active on `sys.path`.
        made: the sweep.
        watcher: told what happens.
        address: of a running cluster, which may be another one than before; None for a private Ray.

    Raises:
        UserError: it runs, it is finished, or its recipe or its data are others now.
    """
    storage.refresh(made)
    sweep = made.spec()
    _refuse_finished(made, sweep)
    if made.is_driven():
        raise _running(made)
    earlier.refuse_changed_recipe(project, made, sweep)
    longer = [each for each in made.read(made.spec_file).get("extensions", []) if each["from_epochs"]]
    return _take_up(
        project,
        made,
        sweep,
        watcher=watcher,
        address=address,
        life=Life("resume", prepare_study=_longer(made, sweep, longer[-1]["from_epochs"] if longer else None)),
    )


def extend(
    project: Path,
    made: SweepDirectory,
    *,
    num_more: int,
    max_epochs: int | None,
    watcher: Watcher,
    address: str | None = None,
) -> Outcome:
    """More trials for a sweep, or a longer budget for its survivors, from the study as it stands.

    Args:
        project: the workbench's root, not yet active on `sys.path`.
        made: the sweep.
        num_more: new trials.
        max_epochs: the new full budget, above the old one; None leaves it.
        watcher: told what happens.
        address: of a running cluster; None for a private Ray.

    Raises:
        UserError: it runs, it is a controlled experiment, the budget does not grow, or its data are others now.
    """
    storage.refresh(made)
    old = made.spec()
    if old.experiments:
        raise UserError(
            f"{made.sweep_id} is a controlled experiment ({old.plan_text}): more for some would not be equal. "
            f"{_anew(made, old)}"
        )
    if max_epochs is not None and max_epochs <= old.asha.max_epochs:
        raise UserError(
            f"--max-epochs {max_epochs} does not extend {made.sweep_id}: its trials have {old.asha.max_epochs} already."
        )
    if not num_more and max_epochs is None:
        raise UserError(f"Say by how much: toprung extend {made.sweep_id} --trials N, or --max-epochs M, or both.")
    asha = old.asha.model_copy(update={"max_epochs": max_epochs or old.asha.max_epochs})
    asked = len(ledger.read(made))
    sweep = old.model_copy(update={"num_trials": max(old.num_trials, asked) + num_more, "asha": asha})
    if max_epochs is not None:
        survivors = len(earlier.survivors(ledger.read(made), sweep, old_top=old.asha.max_epochs))
        sweep = sweep.model_copy(update={"num_trials": sweep.num_trials + survivors})
    from_epochs = old.asha.max_epochs if max_epochs is not None else None
    life = Life(
        "extend",
        details={"num_trials": sweep.num_trials, "max_epochs": asha.max_epochs},
        prepare_study=_longer(made, sweep, from_epochs),
    )
    extension = {"num_trials": sweep.num_trials, "max_epochs": asha.max_epochs, "from_epochs": from_epochs}
    return _take_up(project, made, sweep, watcher=watcher, address=address, life=life, extension=extension)


def _longer(made: SweepDirectory, sweep: Sweep, from_epochs: int | None) -> Callable[[optuna.Study], None] | None:
    """What gives survivors of a shorter ladder their longer budget, once; a resumed sweep makes sure that it was."""
    if from_epochs is None:
        return None
    return partial(earlier.continue_survivors, directory=made, sweep=sweep, old_top=from_epochs)


def _running(made: SweepDirectory) -> UserError:
    return UserError(f"{made.sweep_id} is running. Type: toprung stop {made.sweep_id}")


def _take_up(
    project: Path,
    made: SweepDirectory,
    sweep: Sweep,
    *,
    watcher: Watcher,
    address: str | None,
    life: Life,
    extension: dict[str, int | None] | None = None,
) -> Outcome:
    try:
        lock = made.lock().acquire()
    except filelock.Timeout:
        raise _running(made) from None
    with lock, contextlib.ExitStack() as connected:
        if not made.lineage_file.is_file():
            raise UserError(f"{made.sweep_id} died before its first record. Remove it: toprung rm {made.sweep_id}")
        workbench.activate_instead(made.code_folder)
        ray_there = connected.enter_context(ray_at(address, copy_code=partial(shutil.copytree, made.code_folder)))
        checked = check(project, sweep, code=made.code_folder, ray_there=ray_there)
        earlier.refuse_changed_data(made, checked)
        board = Board(
            made.sweep_id,
            sweep,
            checked.num_workers,
            note=checked.images.where,
            earlier_seconds=earlier.seconds(made),
        )
        if extension is not None:
            life = replace(life, prepare_study=partial(_record_extension, made, sweep, extension, life.prepare_study))
        return _drive(checked, made, board, watcher, life=life, ray_there=ray_there)


def _record_extension(
    made: SweepDirectory,
    sweep: Sweep,
    extension: dict[str, int | None],
    prepare_study: Callable[[optuna.Study], object] | None,
    study: optuna.Study,
) -> None:
    """Write what the sweep is extended to: after MLflow has answered, so that a refused extension leaves no trace."""
    asked = made.read(made.spec_file)
    extensions = [*asked.get("extensions", []), extension]
    made.write(made.spec_file, {**asked, "spec": sweep.model_dump(mode="json"), "extensions": extensions})
    if prepare_study is not None:
        prepare_study(study)


def _refuse_finished(made: SweepDirectory, sweep: Sweep) -> None:
    if made.is_finished and not made.is_driven():
        state = made.read(made.status_file)
        reason = f" ({state['reason']})" if state.get("reason") else ""
        more = f"For more trials type: toprung extend {made.sweep_id} --trials {max(1, sweep.num_trials // 2)}"
        raise UserError(f"{made.sweep_id} is finished{reason}. {_anew(made, sweep) if sweep.experiments else more}")


def _anew(made: SweepDirectory, sweep: Sweep) -> str:
    recipe = made.read(made.spec_file).get("recipe") or "RECIPE"
    if (confirms := catalog.confirmed_by(made)) is not None:
        return f"For other seeds type: toprung confirm {confirms} --again"
    fresh = [max(sweep.seeds) + place for place in range(1, len(sweep.seeds) + 1)]
    return f"For other seeds type: toprung sweep {recipe} --set 'seeds={fresh}'"
