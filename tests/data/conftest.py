"""Fixtures: a prepared dataset, copies to damage, folders of images, a project with DVC, small disks."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toprung import data


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A read-only root folder of prepared datasets, which contains the digits."""
    root = tmp_path_factory.mktemp("prepared")
    data.prepare("digits", out=root / "digits")
    return root


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    """A copy of `pristine` that a test may damage."""
    return Path(shutil.copytree(pristine, tmp_path / "prepared"))


@pytest.fixture
def dvc_project(project: Path, tmp_path: Path) -> Path:
    """A copy of the files that DVC reads: its settings, dvc.yaml, dvc.lock and the stages' dependencies, but no data.

    Its secrets.py and token.py raise an error if they are imported instead of the standard library's modules.
    """
    root = tmp_path / "project"
    shutil.copytree(project / "src/toprung/data", root / "src/toprung/data")
    (root / ".dvc").mkdir()
    for file in (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "dvc.yaml", "dvc.lock"):
        shutil.copy(project / file, root / file)
    for name in ("secrets", "token"):
        (root / f"{name}.py").write_text(f"raise ImportError('the {name}.py of the project')\n")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with two classes of eight different grey PNGs, 6 pixels high and 5 wide."""
    folder = tmp_path / "pictures"
    noise = np.random.default_rng(0).integers(0, 256, size=(16, 6, 5), dtype=np.uint8)
    for number, pixels in enumerate(noise):
        path = folder / ("cat" if number < 8 else "dog") / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """A function that mounts or remounts a small disk: `disk("1m")`, `disk("64m")`, `disk("64m", "ro")`."""
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    mounted = False

    def mount(size: str, mode: str = "rw") -> Path:
        nonlocal mounted
        options = f"{'remount,' if mounted else ''}size={size},{mode}"
        ran = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(mount_point)], capture_output=True, check=False
        )
        if ran.returncode:
            pytest.skip("needs the right to mount a disk")
        mounted = True
        return mount_point

    yield mount
    if mounted:
        subprocess.run(["umount", str(mount_point)], check=True)
