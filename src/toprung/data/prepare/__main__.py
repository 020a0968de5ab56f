"""`python -m toprung.data.prepare NAME --out FOLDER`: the command of the DVC stages.

Users type `toprung data prepare NAME`, which runs the stage.
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
    """Prepare a dataset; return exit code 0, or 2 for a user error, or 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m toprung.data.prepare", description="Prepare a dataset.")
    parser.add_argument("name", help="the dataset, such as digits")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--folder", type=Path, help="the folder of a built-in dataset's files")
    parser.add_argument("--downloads", type=Path, default=DOWNLOADS, help="the folder to download to (%(default)s)")
    parser.add_argument("--image-folder", type=Path, help="prepare this folder of images, with the options below")
    add_options(parser)
    arguments = parser.parse_args()
    try:
        if arguments.image_folder is None:
            prepare(arguments.name, out=arguments.out, folder=arguments.folder, downloads=arguments.downloads)
        else:
            with _progress(arguments.name) as progress:
                prepare_folder(
                    arguments.name,
                    out=arguments.out,
                    folder=arguments.image_folder,
                    settings=settings_of(arguments),
                    progress=progress,
                )
    except UserError as error:
        parser.exit(2, f"{error}\n")
    except KeyboardInterrupt:
        return 130
    return 0


@contextlib.contextmanager
def _progress(name: str) -> Iterator[Progress | None]:
    """Yield a callback that writes into the file that the caller reads, or shows a bar if stderr is a terminal."""
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
