"""Probe a remote for the steps that push and pull need: list, write, read and delete, with DVC's own file systems.

Run as `python -m toprung.data.remotes.probe NAME STEP...` in the project, in a separate process: it gives up after the
first error, where DVC's libraries would retry for minutes; it can be killed if there is no answer; and the libraries'
output is hidden. The last line of its output is JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from toprung.data.remotes.errors import describe

STEPS = ("list", "write", "read", "delete")
PROBE_NAME = "toprung-probe"


def main() -> None:
    """Try the steps in order; the next step is tried even if one is refused."""
    name, *steps = sys.argv[1:]
    os.environ.update({"AWS_MAX_ATTEMPTS": "1", "DVC_NO_ANALYTICS": "1"})
    with tempfile.TemporaryDirectory(prefix="toprung-") as folder:
        try:
            prober = _Prober(name, Path(folder))
        except Exception as error:
            results = [{"step": "connect", "problem": describe(error)}]
        else:
            results = [prober.try_step(step) for step in steps]
    sys.stdout.write(f"\n{json.dumps(results)}\n")
    sys.stdout.flush()
    os._exit(0)  # some clients' threads never end after their connection broke


class _Prober:
    def __init__(self, name: str, folder: Path) -> None:
        from dvc.config import Config
        from dvc.fs import get_cloud_fs

        cls, settings, self._root = get_cloud_fs(Config(dvc_dir=str(Path(".dvc").resolve())), name=name)
        self._protocol = cls.protocol
        self._fs: Any = cls(**settings)
        self._folder = folder
        self._file = self._fs.join(self._root, f"{PROBE_NAME}-{os.urandom(4).hex()}")
        self._content = os.urandom(64)
        self._written = False
        if self._protocol == "gs":
            self._answer_at_once(anonymous=bool(settings.get("allow_anonymous_login")))
        elif self._protocol == "s3":
            self._fs.fs.retries = 1

    def try_step(self, step: str) -> dict[str, Any]:
        try:
            done = getattr(self, f"_{step}")()
        except Exception as error:
            return {"step": step, "problem": describe(error)}
        return {"step": step, "problem": None, "done": done}

    def _answer_at_once(self, *, anonymous: bool) -> None:
        """Disable retries: gcsfs retries a refused token for half a minute, and continues anonymously without a key."""
        import gcsfs.retry

        gcsfs.retry.is_retriable = lambda exception: False
        if not anonymous and self._fs.fs.credentials.method == "anon":
            raise PermissionError("Anonymous caller")

    def _list(self) -> bool:
        try:
            self._fs.ls(self._root, detail=False)
        except FileNotFoundError:
            if self._protocol not in ("gs", "s3"):
                raise
            bucket = self._root.lstrip("/").partition("/")[0]
            self._fs.fs.ls(bucket, detail=False)  # a prefix without files exists if its bucket does
        return True

    def _write(self) -> bool:
        source = self._folder / "written"
        source.write_bytes(self._content)
        self._fs.put_file(str(source), self._file)
        self._written = True
        return True

    def _read(self) -> bool:
        """Read the file that was written or, if writing was refused, any existing file."""
        if not self._written:
            existing = next(iter(self._fs.find(self._root)), None)
            if existing is None:
                return False
            with self._fs.open(existing, "rb") as file:
                file.read(1)
            return True
        target = self._folder / "read"
        self._fs.get_file(self._file, str(target))
        if target.read_bytes() != self._content:
            raise OSError("the bytes that were read are not those that were written")
        return True

    def _delete(self) -> bool:
        if not self._written:
            return False
        self._fs.rm_file(self._file)
        return True


if __name__ == "__main__":
    main()
