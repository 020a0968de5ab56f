"""An environment for Google Drive: that of the tests, overlaid with the older libraries that PyDrive2 requires.

PyDrive2 requires cryptography < 44, which all other packages dropped years ago. It is therefore a separate extra, and
these tests run it outside the locked environment. The overlay is created once, in that environment's folder.
"""

import hashlib
import subprocess
import sys
import sysconfig
from pathlib import Path

LOCK = Path(__file__).with_name("gdrive.lock")


def drive_python() -> tuple[str | None, str]:
    """Return the interpreter and "", or None and the reason why it is missing."""
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
