"""A job's first steps, on the cluster's head: find or prepare the data, then become `python -m toprung ...`.

    python -m toprung.cluster.jobs.entrypoint --prepared /mnt/data/prepared --dataset digits -- sweep tune.digits ...

Its working directory is the job's own copy of the workbench; the prepared data of the cluster are linked into it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from toprung import data
from toprung.errors import UserError


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare, and be replaced by the command after `--`; exit code 2 where that cannot be."""
    parser = argparse.ArgumentParser(prog="toprung.cluster.jobs.entrypoint")
    parser.add_argument("--prepared", type=Path, required=True, help="the folder of all prepared datasets")
    parser.add_argument("--dataset", help="that a new sweep trains on; one that goes on has had its data")
    parser.add_argument("command", nargs="+", help="the arguments of toprung")
    given = parser.parse_args(arguments)
    try:
        if given.dataset is not None:
            ensure_prepared(given.dataset, prepared=given.prepared)
    except UserError as error:
        print(error, file=sys.stderr)  # noqa: T201 (the job's log)
        sys.exit(2)
    link = Path.cwd() / data.PREPARED
    link.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):  # jobs that carry the same share one folder, and name the same data
        link.symlink_to(given.prepared, target_is_directory=True)
    os.execv(sys.executable, [sys.executable, "-m", "toprung", *given.command])


def ensure_prepared(dataset: str, *, prepared: Path) -> None:
    """Prepare a built-in dataset now, if the cluster has not got it yet.

    Args:
        dataset: its name.
        prepared: the folder of all prepared datasets, that every node reaches.

    Raises:
        UserError: a folder of images is not there, or a built-in dataset cannot be prepared.
    """
    if (prepared / dataset).is_dir():
        return
    if dataset not in data.SOURCES:
        raise UserError(
            f"The dataset {dataset} is not prepared on the cluster: there is no {prepared / dataset}. "
            f"From your machine, bring it there: rsync -a data/prepared/{dataset} HEAD:{prepared}/"
        )
    print(f"{dataset} is not prepared there yet: preparing it in {prepared}", flush=True)  # noqa: T201 (the job's log)
    try:
        prepared.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"The folder {prepared} cannot be made ({error.strerror}). Give another: --data FOLDER"
        ) from None
    data.prepare(dataset, out=prepared / dataset, downloads=prepared.parent / "raw")


if __name__ == "__main__":
    main()
