"""Each remote, started once on loopback. If its package is missing, its tests are skipped and the reason names it."""

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

KINDS = ("local", "gs", "s3", "ssh", "gdrive")
WITH_KEYS = tuple(kind for kind in KINDS if kind != "local")


def _require(*modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs the package {module}: pip install -r requirements.lock")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests of remote servers as slow; `make test` uses only the one that is a folder."""
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if item.path.parent == Path(__file__).parent and parameters.get("location", "local") != "local":
            item.add_marker("slow")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.data.remotes.projects import make_project

    return make_project(tmp_path_factory.mktemp("template") / "project")


@pytest.fixture(scope="session")
def local_location(tmp_path_factory):
    from tests.data.remotes.locations import FolderLocation

    return FolderLocation(tmp_path_factory.mktemp("local"))


@pytest.fixture(scope="session")
def gs_location(tmp_path_factory) -> Iterator:
    _require("gcp_storage_emulator", "dvc_gs")
    from tests.data.remotes.gcs import Gcs
    from tests.data.remotes.locations import GcsLocation

    folder = tmp_path_factory.mktemp("gs")
    with Gcs(folder) as gcs:
        yield GcsLocation(gcs, folder)


@pytest.fixture(scope="session")
def s3_location(tmp_path_factory) -> Iterator:
    _require("moto", "dvc_s3", "boto3")
    from tests.data.remotes.locations import S3Location
    from tests.data.remotes.s3 import S3

    with S3(tmp_path_factory.mktemp("s3")) as s3:
        yield S3Location(s3)


@pytest.fixture(scope="session")
def ssh_location(tmp_path_factory) -> Iterator:
    _require("dvc_ssh")
    from tests.data.remotes.locations import SshLocation
    from tests.data.remotes.sshd import Sshd, sshd_binary

    if sshd_binary() is None or shutil.which("ssh-keygen") is None:
        pytest.skip("needs sshd (Debian: openssh-server)")
    folder = tmp_path_factory.mktemp("ssh")
    with Sshd(folder) as sshd:
        yield SshLocation(sshd, folder)


@pytest.fixture(scope="session")
def gdrive_location(tmp_path_factory) -> Iterator:
    from tests.data.remotes.drive import Drive
    from tests.data.remotes.drive_environment import drive_python
    from tests.data.remotes.locations import DriveLocation

    python, reason = drive_python()
    if python is None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("gdrive")
    with Drive(folder) as drive:
        yield DriveLocation(drive, folder, python)


@pytest.fixture(params=KINDS)
def location(request):
    """Each remote in turn."""
    location = request.getfixturevalue(f"{request.param}_location")
    yield location
    if location.relay:
        location.relay.mend()


@pytest.fixture
def new_project(location, template, tmp_path):
    """A project that has no remote yet."""
    from tests.data.remotes.projects import Project

    return Project(Path(shutil.copytree(template, tmp_path / "project", symlinks=True)), location)


@pytest.fixture(scope="session")
def _with_remote() -> dict[str, Path]:
    return {}


@pytest.fixture
def project(new_project, _with_remote, tmp_path_factory):
    """A project whose default remote is `location`, and whose data the test has not pushed."""
    kept = _with_remote.get(new_project.location.kind)
    if kept is None:
        new_project.add_remote()
        kept = _with_remote[new_project.location.kind] = tmp_path_factory.mktemp("with-remote") / ".dvc"
        shutil.copytree(new_project.root / ".dvc", kept, symlinks=True)
    for file in ("config", "config.local"):
        if (kept / file).is_file():
            shutil.copy(kept / file, new_project.root / ".dvc" / file)
    return new_project
