"""A project with one small dataset: raw files tracked by DVC, and a stage that prepares them."""

import hashlib
import os
import random
import shutil
import subprocess
from pathlib import Path

from tests.data.remotes.locations import Location

NUM_FILES, BYTES_PER_FILE = 8, 60_000


def make_project(root: Path) -> Path:
    """Create the project, without a remote."""
    for folder in ("trainers", "search_spaces", "tune", "data/raw/tiny"):
        (root / folder).mkdir(parents=True)
    noise = random.Random(0)
    for number in range(NUM_FILES):
        (root / f"data/raw/tiny/{number}.png").write_bytes(noise.randbytes(BYTES_PER_FILE))
    command = "mkdir -p data/prepared/tiny && cat data/raw/tiny/*.png > data/prepared/tiny/train_images.npy"
    stage = ["stage", "add", "-q", "-n", "prepare_tiny", "-d", "data/raw/tiny", "-o", "data/prepared/tiny", command]
    for words in (["git", "init", "-q"], ["dvc", "init", "-q"], ["dvc", "config", "core.check_update", "false"],
                  ["dvc", "add", "-q", "data/raw/tiny"], ["dvc", *stage], ["dvc", "repro", "-q"]):  # fmt: skip
        subprocess.run(words, cwd=root, check=True, stdin=subprocess.DEVNULL)
    return root


class Project:
    """A copy of the project, whose commands use one remote."""

    def __init__(self, root: Path, location: Location) -> None:
        self.root, self.location = root, location

    def toprung(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run `toprung data ...` in the project."""
        return subprocess.run(self._command(arguments), **self._how(environ), check=False, timeout=200)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `toprung data ...` in the project."""
        return subprocess.Popen(self._command(arguments), **self._how({}), start_new_session=True)

    def add_remote(self, url: str | None = None) -> None:
        """Add the location as `origin`."""
        self.succeed("remote", "add", "origin", url or self.location.url, *self.location.arguments)

    def point_at(self, url: str) -> None:
        """Change the remote's address, like a user who edits the file."""
        config = self.root / ".dvc/config"
        text = config.read_text()
        assert text.count(self.location.url) == 1
        config.write_text(text.replace(self.location.url, url))

    def succeed(self, *arguments: str) -> str:
        """Run a command that must succeed, and return its output."""
        ran = self.toprung(*arguments)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def refuse(self, *arguments: str, **environ: str) -> str:
        """Run a command that must fail, and return its one-line message."""
        ran = self.toprung(*arguments, **environ)
        assert ran.returncode == 2, ran.stdout + ran.stderr
        lines = ran.stderr.splitlines()
        assert len(lines) == 1, ran.stderr
        return lines[0]

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of every data file, by path."""
        return {
            str(path.relative_to(self.root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted((self.root / "data").rglob("*"))
            if path.suffix in (".png", ".npy")
        }

    def wipe(self) -> None:
        """Delete all data: DVC's cache, the raw files and the arrays."""
        for folder in (".dvc/cache", "data/raw/tiny", "data/prepared/tiny"):
            shutil.rmtree(self.root / folder, ignore_errors=True)

    def num_cached(self) -> int:
        """Return the number of files in DVC's cache."""
        return sum(path.is_file() for path in (self.root / ".dvc/cache").rglob("*"))

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return [self.location.python, "-m", "toprung", "data", *arguments]

    def _how(self, environ: dict[str, str]) -> dict:
        cleared = ("AWS_", "GOOGLE_", "GDRIVE_", "GCSFS_", "DVC_", "http_proxy", "https_proxy", "HTTP", "SSH_AUTH_SOCK")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(cleared)}
        return {
            "cwd": self.root,
            "env": {**inherited, "DVC_NO_ANALYTICS": "1", **self.location.environ, **environ},
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
        }
