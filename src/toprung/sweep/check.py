"""Look at everything a sweep was given before anything starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toprung import cluster, data
from toprung.spec import Sweep
from toprung.sweep import workbench
from toprung.tracking import server


@dataclass(frozen=True)
class Checked:
    """A sweep that can start: everything from outside has been looked at."""

    project: Path
    code: Path
    sweep: Sweep
    defaults: dict[str, Any]
    card: data.Card
    images: data.Placed
    num_workers: int
    capacity: tuple[float, float]

    @property
    def split_fingerprint(self) -> str:
        """Of the indices that train and validate."""
        return self.images.split_fingerprint


def check(project: Path, sweep: Sweep, *, code: Path | None = None) -> Checked:
    """Check resources, trainer, dataset and space.

    Args:
        project: the workbench's root.
        sweep: the spec.
        code: where trainer and space come from, active on `sys.path`: the project, or the copy that a sweep keeps.

    Raises:
        UserError: the first thing that cannot be used.
    """
    code = code or project
    capacity = cluster.local_capacity()
    num_workers = cluster.concurrency(
        cpus=sweep.resources.cpus * sweep.resources.workers,
        gpus=sweep.resources.gpus * sweep.resources.workers,
        limit=sweep.max_concurrent_trials,
        capacity=capacity,
    )
    defaults = workbench.trainer_defaults(code, sweep.trainer)
    if sweep.space is not None:
        workbench.source_file(code, sweep.space, kind="search space")
    prepared_root = project / data.PREPARED
    server.check_reachable(server.tracking_uri(project / sweep.storage))
    card = data.open_prepared(sweep.data.name, root=prepared_root).card
    images = data.place(sweep.data, root=prepared_root, room_bytes=cluster.shared_memory_for_images())
    if sweep.experiments:
        _check_experiments(sweep, defaults)
    else:
        _check_space(code, sweep, defaults)
    return Checked(project, code, sweep, defaults, card, images, num_workers, capacity)


def _check_space(code: Path, sweep: Sweep, defaults: dict[str, Any]) -> None:
    import optuna

    from toprung.search import space as spaces

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    held = spaces.holding(space_of(code, sweep), sweep.constants)
    spaces.refuse_mistyped(sweep.constants, defaults, trainer=sweep.trainer)
    spaces.check_names(held, sweep, defaults)
    spaces.default_point(held, {**defaults, **sweep.constants}, named=str(sweep.space))


def _check_experiments(sweep: Sweep, defaults: dict[str, Any]) -> None:
    from toprung.search import space as spaces

    for source, given in (
        ("constants give", sweep.constants),
        *((f'experiment "{each.name}" gives', each.config) for each in sweep.experiments),
    ):
        spaces.refuse_unknown(given, {*defaults}, source=source, trainer=sweep.trainer)
        spaces.refuse_mistyped(given, defaults, trainer=sweep.trainer)


def space_of(code: Path, sweep: Sweep) -> Any:
    """The sweep's search space, imported."""
    assert sweep.space is not None
    return workbench.resolve(code, sweep.space, default="space", kind="search space")
