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
    sweep: Sweep
    defaults: dict[str, Any]
    card: data.Card
    arrays: dict[str, Any]
    split_fingerprint: str
    num_workers: int
    capacity: tuple[float, float]


def check(project: Path, sweep: Sweep) -> Checked:
    """Check resources, trainer, dataset and space.

    Args:
        project: the workbench's root, active on `sys.path`.
        sweep: the spec.

    Raises:
        UserError: the first thing that cannot be used.
    """
    capacity = cluster.local_capacity()
    num_workers = cluster.concurrency(
        cpus=sweep.resources.cpus,
        gpus=sweep.resources.gpus,
        limit=sweep.max_concurrent_trials,
        capacity=capacity,
    )
    defaults = workbench.trainer_defaults(project, sweep.trainer)
    workbench.source_file(project, sweep.space, kind="search space")
    prepared_root = project / data.PREPARED
    server.check_reachable(server.tracking_uri(project / sweep.storage))
    card = data.open_prepared(sweep.data.name, root=prepared_root).card
    arrays, split_fingerprint = data.split_arrays(sweep.data, root=prepared_root)
    _check_space(project, sweep, defaults)
    return Checked(project, sweep, defaults, card, arrays, split_fingerprint, num_workers, capacity)


def _check_space(project: Path, sweep: Sweep, defaults: dict[str, Any]) -> None:
    import optuna

    from toprung.search import space as spaces

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    held = spaces.holding(space_of(project, sweep), sweep.constants)
    spaces.refuse_mistyped(sweep.constants, defaults, trainer=sweep.trainer)
    spaces.check_names(held, sweep, defaults)
    spaces.default_point(held, {**defaults, **sweep.constants}, named=sweep.space)


def space_of(project: Path, sweep: Sweep) -> Any:
    """The sweep's search space, imported."""
    return workbench.resolve(project, sweep.space, default="space", kind="search space")
