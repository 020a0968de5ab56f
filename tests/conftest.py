"""Setup for all tests: an environment without telemetry and user settings, and a copy of the project."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PROJECT = Path(__file__).parent.parent
USER_PACKAGES = ("trainers", "search_spaces", "tune")

# Set before any test module imports Ray or MLflow, and inherited by every process that a test starts.
for name in [name for name in os.environ if name.startswith(("MLFLOW_", "OPTUNA_", "RAY_", "TOPRUNG_", "TUNE_"))]:
    del os.environ[name]
os.environ |= {
    "DVC_NO_ANALYTICS": "1",
    "GIT_AUTHOR_NAME": "Test",
    "GIT_AUTHOR_EMAIL": "test@example.org",
    "GIT_COMMITTER_NAME": "Test",
    "GIT_COMMITTER_EMAIL": "test@example.org",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "NO_COLOR": "1",
    "PATH": str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"],
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_USAGE_STATS_ENABLED": "0",
}

# If the parent process ignores Ctrl-C, as for a background job, so would every command that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def project() -> Path:
    """The checkout under test, which must not be modified."""
    return PROJECT


@pytest.fixture(scope="session")
def photo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An exported network for photographs with its data; see tests/photo_bundle.py."""
    from tests.photo_bundle import export_photo_bundle

    return export_photo_bundle(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def user_project(tmp_path: Path) -> Path:
    """A project in a temporary git repository: copies of the three user packages and the files that they need."""
    root = tmp_path / "user_project"
    root.mkdir()
    for folder in USER_PACKAGES:
        shutil.copytree(PROJECT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "requirements.lock", ".gitignore"):
        shutil.copy(PROJECT / file, root / file)
    for command in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "A project"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


@pytest.fixture
def unloaded_user_packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Unload the user packages from this process, and restore them after the test."""

    def loaded() -> dict[str, ModuleType]:
        return {name: module for name, module in sys.modules.items() if name.split(".")[0] in USER_PACKAGES}

    modules = loaded()
    for name in modules:
        del sys.modules[name]
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in loaded():
        del sys.modules[name]
    sys.modules.update(modules)
