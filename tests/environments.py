"""A separate virtual environment for a test, without installing gigabytes of packages."""

import subprocess
import sys
import sysconfig
from pathlib import Path


def environment_beside(folder: Path) -> None:
    """Create a virtual environment with the current packages, except for toprung if its install is editable."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python3.*/site-packages")
    here = dict.fromkeys(
        [*(path for path in sys.path if path.endswith("site-packages")), sysconfig.get_path("purelib")]
    )
    (packages / "here.pth").write_text("\n".join(here) + "\n")
