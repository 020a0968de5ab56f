"""An environment for Google Drive: the tests' own, and over it the older libraries that PyDrive2 holds on to.

PyDrive2 wants cryptography below 44, which everything else left years ago: so it is an extra of its own, and these
tests run it beside the locked environment instead of in it. Made once, inside that environment's folder.
"""

import hashlib
import subprocess
import sys
import sysconfig
from pathlib import Path

LOCK = Path(__file__).with_name("gdrive.lock")


def drive_python() -> tuple[str | None, str]:
    """The interpreter, or None and why there is none."""
    folder = Path(sys.prefix) / "gdrive"
    python, marker = folder / "bin/python", folder / f"made-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"
    if marker.is_file():
        return str(python), ""
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (own / "below.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
    ran = subprocess.run([*command, "--no-deps", "--requirement", LOCK], check=False, capture_output=True, text=True)
    if ran.returncode:
        return None, f"PyDrive2 cannot be installed: {(ran.stderr.strip().splitlines() or ['pip failed'])[-1]}"
    marker.touch()
    return str(python), ""
