"""The entrypoint of a job on the cluster's head: find the data and weights, then execute `python -m toprung ...`.

    python -m toprung.cluster.jobs.entrypoint --prepared /mnt/data/prepared --dataset digits -- sweep tune.digits ...

Its working directory is the job's copy of the project; the cluster's prepared data and weights are linked into it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from toprung import data
from toprung.atomic_write import staged_folder
from toprung.cluster.jobs.package import SENT_WEIGHTS
from toprung.errors import UserError
from toprung.weights.card import CARD_FILE, WEIGHTS, read_card


def main(arguments: Sequence[str] | None = None) -> None:
    """Find the data and weights, then replace this process by the command after `--`; exit with 2 if that fails."""
    parser = argparse.ArgumentParser(prog="toprung.cluster.jobs.entrypoint")
    parser.add_argument("--prepared", type=Path, required=True, help="the folder of all prepared datasets")
    parser.add_argument("--dataset", help="the dataset that a new sweep trains on; omit it to resume a sweep")
    parser.add_argument("--weights", action="append", default=[], help="pretrained weights that a new sweep needs")
    parser.add_argument("command", nargs="+", help="the arguments of toprung")
    options = parser.parse_args(arguments)
    weights = options.prepared.parent / WEIGHTS.name
    try:
        if options.dataset is not None:
            ensure_prepared(options.dataset, prepared=options.prepared)
        for name in options.weights:
            ensure_weights(name, shared=weights / name, sent=Path(SENT_WEIGHTS, name))
    except UserError as error:
        print(error, file=sys.stderr)  # noqa: T201 (the job's log)
        sys.exit(2)
    for link, target in ((data.PREPARED, options.prepared), (WEIGHTS, weights)):
        link.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # jobs with the same content share a folder, and use the same data
            link.symlink_to(target, target_is_directory=True)
    os.execv(sys.executable, [sys.executable, "-m", "toprung", *options.command])


def ensure_prepared(dataset: str, *, prepared: Path) -> None:
    """Prepare a built-in dataset unless the cluster has it already.

    Args:
        dataset: the dataset's name.
        prepared: the folder of all prepared datasets, which every node can access.

    Raises:
        UserError: a dataset that is not built in is missing, or a built-in dataset cannot be prepared.
    """
    if (prepared / dataset).is_dir():
        return
    if dataset not in data.SOURCES:
        raise UserError(
            f"The dataset {dataset} is not prepared on the cluster: there is no {prepared / dataset}. "
            f"Copy it from your machine: rsync -a data/prepared/{dataset} HEAD:{prepared}/"
        )
    print(f"Preparing {dataset} in {prepared}", flush=True)  # noqa: T201 (the job's log)
    try:
        prepared.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The folder {prepared} cannot be created ({error.strerror}). Give another: --data FOLDER"
        ) from None
    data.prepare(dataset, out=prepared / dataset, downloads=prepared.parent / "raw")


def ensure_weights(name: str, *, shared: Path, sent: Path) -> None:
    """Store the pretrained weights that were sent with the job on the cluster, unless it has them already.

    Args:
        name: the weights' name.
        shared: their folder on the cluster, which every node can access.
        sent: their folder in the job's working directory; it does not exist if they were too large to send.

    Raises:
        UserError: they are neither sent nor on the cluster, the cluster has other weights of this name, or they cannot
            be written.
    """
    if not sent.is_dir():
        if not (shared / CARD_FILE).is_file():
            raise UserError(
                f"The pretrained weights {name} are too large to send with a job, and not on the cluster. "
                f"Copy them from your machine: rsync -a {WEIGHTS / name} HEAD:{shared.parent}/"
            )
        return
    if (shared / CARD_FILE).is_file():
        theirs, ours = read_card(shared).sha256, read_card(sent).sha256
        if theirs != ours:
            raise UserError(
                f"The cluster has other pretrained weights in {shared} ({theirs[:12]}, yours are {ours[:12]}). "
                "Rename yours, or remove the cluster's if no sweep needs them."
            )
        return
    try:
        with staged_folder(shared) as staging:
            shutil.copytree(sent, staging, dirs_exist_ok=True)
    except OSError as error:
        raise UserError(f"{shared} cannot be written: {error.strerror or error}.") from None


if __name__ == "__main__":
    main()
