"""The entrypoint of a job on the cluster's head: find or prepare the data, then execute `python -m toprung ...`.

    python -m toprung.cluster.jobs.entrypoint --prepared /mnt/data/prepared --dataset digits -- sweep tune.digits ...

Its working directory is the job's copy of the project; the cluster's prepared data are linked into it.
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
    """Find or prepare the data, then replace this process by the command after `--`; exit with 2 if that fails."""
    parser = argparse.ArgumentParser(prog="toprung.cluster.jobs.entrypoint")
    parser.add_argument("--prepared", type=Path, required=True, help="the folder of all prepared datasets")
    parser.add_argument("--dataset", help="the dataset that a new sweep trains on; omit it to resume a sweep")
    parser.add_argument("command", nargs="+", help="the arguments of toprung")
    options = parser.parse_args(arguments)
    try:
        if options.dataset is not None:
            ensure_prepared(options.dataset, prepared=options.prepared)
    except UserError as error:
        print(error, file=sys.stderr)  # noqa: T201 (the job's log)
        sys.exit(2)
    link = Path.cwd() / data.PREPARED
    link.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):  # jobs with the same content share a folder, and use the same data
        link.symlink_to(options.prepared, target_is_directory=True)
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


if __name__ == "__main__":
    main()
