"""A prepared dataset to read, and copies of it to damage."""

import shutil
from pathlib import Path

import pytest

from toprung import data


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of prepared datasets, with digits in it; read it only."""
    root = tmp_path_factory.mktemp("prepared")
    data.prepare("digits", out=root / "digits")
    return root


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(pristine, tmp_path / "prepared"))
