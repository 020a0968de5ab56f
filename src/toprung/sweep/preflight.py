"""Checks of a sweep's inputs, made before anything starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toprung import cluster, data, metric_names, remote_storage
from toprung.analysis.wording import join
from toprung.errors import UserError, pluralize
from toprung.project.modules import find_source_file, import_dotted, trainer_defaults
from toprung.records.sweep_dir import SweepDirectory
from toprung.spec import Sweep
from toprung.sweep.dependencies import check_dependencies
from toprung.tracking import server
from toprung.weights import WeightsCard, read_weights

MAX_NAMED = 5


@dataclass(frozen=True)
class PreparedSweep:
    """A sweep that is ready to start, with the inputs that were checked."""

    project: Path
    code: Path
    sweep: Sweep
    defaults: dict[str, Any]
    card: data.DatasetCard
    images: data.ImageArrays
    num_concurrent_trials: int
    nodes: list[cluster.Node]
    weights: tuple[WeightsCard, ...] = ()

    @property
    def split_fingerprint(self) -> str:
        """The fingerprint of the training and validation indices."""
        return self.images.split_fingerprint


def prepare_sweep(
    project: Path, sweep: Sweep, *, code: Path | None = None, ray_cluster: cluster.ConnectedCluster | None = None
) -> PreparedSweep:
    """Check a sweep's resources, trainer, dataset, metric and search space.

    Args:
        project: the project's root folder.
        sweep: the spec.
        code: the folder of the trainer and the space, already on `sys.path`: a sweep's copy of the project, or None
            for the project itself.
        ray_cluster: the cluster to run on; None for this machine.

    Raises:
        UserError: an input is invalid; the message is about the first one found.
    """
    server.check_reachable()
    if code is None:
        code = project
        check_dependencies(project, sources(project, sweep))
    nodes = [cluster.local_node()] if ray_cluster is None else ray_cluster.nodes()
    num_concurrent_trials = count_concurrent_trials(
        sweep, nodes, autoscaler_nodes=[] if ray_cluster is None else cluster.autoscaler_nodes()
    )
    defaults = trainer_defaults(code, sweep.trainer)
    sources(code, sweep)
    prepared_root = project / data.PREPARED
    if remote_storage.is_uri(sweep.storage):
        remote_storage.check_usable(remote_storage.open_storage(sweep.storage))
    card = data.open_prepared(sweep.data.name, root=prepared_root).card
    metric_names.check_num_classes(sweep.metric, num_classes=len(card.classes))
    images = data.load_arrays(
        sweep.data,
        root=prepared_root,
        budget_bytes=cluster.image_budget_bytes(nodes),
        num_repeats=sweep.num_repeats,
    )
    weights = tuple(read_weights(name, project=project) for name in sweep.weights)
    if sweep.experiments:
        _check_experiments(sweep, defaults)
    else:
        _check_space(code, sweep, defaults)
    return PreparedSweep(project, code, sweep, defaults, card, images, num_concurrent_trials, nodes, weights)


def count_concurrent_trials(sweep: Sweep, nodes: list[cluster.Node], *, autoscaler_nodes: list[cluster.Node]) -> int:
    """Count the trials that can run at once on these nodes and on those that the autoscaler may add.

    Raises:
        UserError: no trial can ever be placed.
    """
    cluster.check_placeable(sweep.resources, [*nodes, *autoscaler_nodes])
    most = min(sweep.max_concurrent_trials or sweep.num_trials, sweep.num_trials)
    return cluster.count_placeable_trials(sweep.resources, [*nodes, *autoscaler_nodes], limit=most)


def fold_warnings(prepared: PreparedSweep) -> list[str]:
    """Return a line that names the classes without a validation image in some fold, if there are any."""
    num_folds = prepared.sweep.data.num_folds
    if num_folds is None or not (missing := data.classes_missing_from_folds(prepared.images.arrays)):
        return []
    counts = np.bincount(prepared.images.arrays["pool_labels"], minlength=len(prepared.card.classes))
    names = [f"{prepared.card.classes[label]} ({pluralize(int(counts[label]), 'image')})" for label in missing]
    if len(names) > MAX_NAMED:
        names = [*names[:MAX_NAMED], f"{len(names) - MAX_NAMED} more"]
    units = "images" if prepared.card.num_groups is None or not prepared.sweep.data.groups else "groups"
    warning = (
        f"some of the {num_folds} folds validate no image of {join(names)}: too few {units}. Averages over classes "
        "leave such a class out of these folds"
    )
    return [warning]


def check_nodes(prepared: PreparedSweep, sweep_dir: SweepDirectory) -> list[str]:
    """Check on every node of the cluster that it shares the storage and imports the sweep's code.

    Returns:
        Warnings: problems that do not keep the sweep from running.

    Raises:
        UserError: a node cannot run trials; the message names the first one.
    """
    from toprung.cluster import doctor

    images = prepared.images
    findings = doctor.preflight(
        code=sweep_dir.code_folder,
        storage=uri if remote_storage.is_uri(uri := sweep_dir.spec().storage) else str(sweep_dir.path.parent),
        image_bytes=0 if images.mmap_dir is not None else images.num_bytes,
        mmap_dir=images.mmap_dir,
    )
    if problems := doctor.errors(findings):
        raise UserError(f"This cluster cannot run the sweep. {problems[0]}")
    return [str(finding) for finding in doctor.warnings(findings)]


def sources(project: Path, sweep: Sweep) -> list[Path]:
    """Return the source files of a sweep's trainer and search space.

    Raises:
        UserError: the trainer or the space does not exist.
    """
    files = [find_source_file(project, sweep.trainer, kind="trainer")]
    if sweep.space is not None:
        files.append(find_source_file(project, sweep.space, kind="search space"))
    return files


def _check_space(code: Path, sweep: Sweep, defaults: dict[str, Any]) -> None:
    import optuna

    from toprung.search import rehearsal
    from toprung.search import space as spaces

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    held = spaces.with_constants(load_space(code, sweep), sweep.constants)
    spaces.check_types(sweep.constants, defaults, trainer=sweep.trainer)
    rehearsal.validate_space(held, sweep, defaults)
    rehearsal.default_point(held, {**defaults, **sweep.constants}, space_name=str(sweep.space))


def _check_experiments(sweep: Sweep, defaults: dict[str, Any]) -> None:
    from toprung.search import space as spaces

    for source, given in (
        ("constants give", sweep.constants),
        *((f'experiment "{experiment.name}" gives', experiment.config) for experiment in sweep.experiments),
    ):
        spaces.check_known(given, {*defaults}, source=source, trainer=sweep.trainer)
        spaces.check_types(given, defaults, trainer=sweep.trainer)


def load_space(code: Path, sweep: Sweep) -> Any:
    """Import the sweep's search space."""
    assert sweep.space is not None
    return import_dotted(code, sweep.space, default="space", kind="search space")
