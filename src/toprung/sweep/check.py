"""Look at everything a sweep was given before anything starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toprung import cluster, data, storage
from toprung.directory import SweepDirectory
from toprung.errors import UserError
from toprung.spec import Sweep
from toprung.sweep import workbench
from toprung.sweep.dependencies import check_dependencies


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
    nodes: list[cluster.Node]

    @property
    def split_fingerprint(self) -> str:
        """Of the indices that train and validate."""
        return self.images.split_fingerprint


def check(
    project: Path, sweep: Sweep, *, code: Path | None = None, ray_there: cluster.AttachedRay | None = None
) -> Checked:
    """Check resources, trainer, dataset and space.

    Args:
        project: the workbench's root.
        sweep: the spec.
        code: where trainer and space come from, active on `sys.path`: the project, or the copy that a sweep keeps.
        ray_there: the cluster to run on; None for this machine.

    Raises:
        UserError: the first thing that cannot be used.
    """
    if code is None:
        code = project
        check_dependencies(project, sources(project, sweep))
    nodes = [cluster.local_node()] if ray_there is None else ray_there.nodes()
    num_workers = num_at_once(sweep, nodes, to_come=[] if ray_there is None else cluster.nodes_to_come())
    defaults = workbench.trainer_defaults(code, sweep.trainer)
    sources(code, sweep)
    prepared_root = project / data.PREPARED
    if storage.is_uri(sweep.storage):
        storage.check_usable(storage.open_storage(sweep.storage))
    card = data.open_prepared(sweep.data.name, root=prepared_root).card
    images = data.place(sweep.data, root=prepared_root, room_bytes=cluster.room_for_images(nodes))
    if sweep.experiments:
        _check_experiments(sweep, defaults)
    else:
        _check_space(code, sweep, defaults)
    return Checked(project, code, sweep, defaults, card, images, num_workers, nodes)


def num_at_once(sweep: Sweep, nodes: list[cluster.Node], *, to_come: list[cluster.Node]) -> int:
    """How many trials run at once on these nodes, with those that the autoscaler may add.

    Raises:
        UserError: not even one, ever.
    """
    cluster.refuse_unplaceable(sweep.resources, [*nodes, *to_come])
    most = min(sweep.max_concurrent_trials or sweep.num_trials, sweep.num_trials)
    return cluster.num_trials_at_once(sweep.resources, [*nodes, *to_come], most=most)


def check_nodes(checked: Checked, made: SweepDirectory) -> list[str]:
    """Look at every node of the cluster before the first trial: does it share the storage, does it import our code?

    Returns:
        what a person should know of, and what does not keep the sweep from running.

    Raises:
        UserError: naming the first node that is not fit.
    """
    from toprung import doctor

    images = checked.images
    findings = doctor.quick(
        code=made.code_folder,
        storage=uri if storage.is_uri(uri := made.spec().storage) else str(made.path.parent),
        image_bytes=0 if images.mapped is not None else images.num_bytes,
        mapped=images.mapped,
    )
    if found := doctor.errors(findings):
        raise UserError(f"This cluster cannot run the sweep. {found[0]}")
    return [str(each) for each in doctor.warnings(findings)]


def sources(project: Path, sweep: Sweep) -> list[Path]:
    """Return the files of a sweep's trainer and space.

    Raises:
        UserError: there is no such trainer or space.
    """
    files = [workbench.source_file(project, sweep.trainer, kind="trainer")]
    if sweep.space is not None:
        files.append(workbench.source_file(project, sweep.space, kind="search space"))
    return files


def _check_space(code: Path, sweep: Sweep, defaults: dict[str, Any]) -> None:
    import optuna

    from toprung.search import rehearsal
    from toprung.search import space as spaces

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    held = spaces.holding(space_of(code, sweep), sweep.constants)
    spaces.refuse_mistyped(sweep.constants, defaults, trainer=sweep.trainer)
    rehearsal.check_names(held, sweep, defaults)
    rehearsal.default_point(held, {**defaults, **sweep.constants}, named=str(sweep.space))


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
