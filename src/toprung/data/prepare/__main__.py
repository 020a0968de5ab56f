"""`python -m toprung.data.prepare NAME --out FOLDER`: the command of the DVC stages.

A person types `toprung data prepare NAME`, which runs the stage.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from toprung.data.image_folder.arguments import add_options, settings_of
from toprung.data.image_folder.chunks import Progress
from toprung.data.prepare import DOWNLOADS, prepare
from toprung.data.prepare.folder import prepare_folder
from toprung.data.prepare.progress import ENVIRONMENT, write_progress
from toprung.errors import UserError


def main() -> int:
    """Exit code 0 when prepared, 2 for a user's mistake, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m toprung.data.prepare", description="Prepare a dataset.")
    parser.add_argument("name", help="the dataset, such as digits")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--folder", type=Path, help="where a built-in dataset's own files lie")
    parser.add_argument("--downloads", type=Path, default=DOWNLOADS, help="where to download to (%(default)s)")
    parser.add_argument("--image-folder", type=Path, help="prepare this class-per-folder tree, by the options below")
    add_options(parser)
    given = parser.parse_args()
    try:
        if given.image_folder is None:
            prepare(given.name, out=given.out, folder=given.folder, downloads=given.downloads)
        else:
            with _progress(given.name) as progress:
                prepare_folder(
                    given.name,
                    out=given.out,
                    folder=given.image_folder,
                    settings=settings_of(given),
                    progress=progress,
                )
    except UserError as error:
        parser.exit(2, f"{error}\n")
    except KeyboardInterrupt:
        return 130
    return 0


@contextlib.contextmanager
def _progress(name: str) -> Iterator[Progress | None]:
    """Into the file that the caller reads, else a bar where someone watches."""
    if path := os.environ.get(ENVIRONMENT):
        yield write_progress(Path(path))
    elif not sys.stderr.isatty():
        yield None
    else:
        from rich import progress as bars
        from rich.console import Console

        columns = (bars.TextColumn(name), bars.BarColumn(), bars.MofNCompleteColumn(), bars.TimeRemainingColumn())
        with bars.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(name, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)


if __name__ == "__main__":
    sys.exit(main())
