"""`python -m toprung.data.prepare NAME --out FOLDER`: the command of the DVC stages.

A person types `toprung data prepare NAME`, which runs the stage.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from toprung.data.prepare import DOWNLOADS, prepare
from toprung.errors import UserError


def main() -> int:
    """Exit code 0 when prepared, 2 for a user's mistake, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m toprung.data.prepare", description="Prepare a dataset.")
    parser.add_argument("name", help="the dataset, such as digits")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--folder", type=Path, help="where the dataset's own files lie")
    parser.add_argument("--downloads", type=Path, default=DOWNLOADS, help="where to download to (%(default)s)")
    given = parser.parse_args()
    try:
        prepare(given.name, out=given.out, folder=given.folder, downloads=given.downloads)
    except UserError as error:
        parser.exit(2, f"{error}\n")
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
