"""Object storage for tests: moto's S3, which checks keys and policies, behind a relay, and Google's emulator."""

import importlib.util
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.chaos.sweeps import Arena, new_bench
from tests.data.remotes.relay import Relay
from toprung.remote_storage import objects, open_storage, trials


@dataclass
class Location:
    """A storage under test: its URI, the environment variables needed to use it, and its network."""

    uri: str
    environ: dict[str, str] = field(default_factory=dict)
    relay: Relay | None = None

    def new_uri(self) -> str:
        """Return a URI below which there are no objects."""
        return f"{self.uri}/{secrets.token_hex(4)}"


def _require(*modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs the package {module}: pip install -r requirements.lock")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory) -> Iterator:
    _require("moto", "boto3")
    from tests.data.remotes.s3 import S3

    with S3(tmp_path_factory.mktemp("s3")) as s3:
        yield s3


@pytest.fixture(scope="session")
def _s3(s3_server) -> Location:
    bucket = s3_server.new_bucket()
    environ = {"AWS_ENDPOINT_URL": s3_server.endpoint, **s3_server.new_user(bucket).environ}
    return Location(f"s3://{bucket}/sweeps", environ, s3_server.relay)


@pytest.fixture(scope="session")
def _gs(tmp_path_factory) -> Iterator[Location]:
    _require("gcp_storage_emulator")
    from tests.data.remotes.gcs import Gcs

    with Gcs(tmp_path_factory.mktemp("gs")) as gcs:  # anonymous access to the emulator, bypassing its gate
        environ = {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{gcs.emulator_port}"}
        yield Location(f"gs://{gcs.new_bucket()}/sweeps", environ)


@pytest.fixture
def _file(tmp_path) -> Location:
    return Location(f"file://{tmp_path}/storage")


@pytest.fixture
def used(monkeypatch) -> Callable[[Location], Location]:
    """Set this process's environment for a storage."""

    def use(location: Location) -> Location:
        for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "STORAGE_"))]:
            monkeypatch.delenv(name)
        for name, value in location.environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(trials, "_storages", {})  # discard clients that use another test's credentials
        return location

    return use


@pytest.fixture(params=["file", "s3", "gs"])
def location(request, used) -> Iterator[Location]:
    """Each kind of storage in turn."""
    location = used(request.getfixturevalue(f"_{request.param}"))
    yield location
    if location.relay:
        location.relay.mend()


@pytest.fixture
def s3(_s3, used) -> Iterator[Location]:
    yield used(_s3)
    _s3.relay.mend()


@pytest.fixture
def gs(_gs, used) -> Location:
    return used(_gs)


@pytest.fixture
def storage(location) -> objects.ObjectStorage:
    return open_storage(location.new_uri())


@pytest.fixture
def bucket_folder(tmp_path) -> Path:
    """A folder used as a storage, whose files tests can inspect."""
    folder = tmp_path / "storage"
    folder.mkdir()
    return folder


@pytest.fixture(scope="session")
def _bench(tmp_path_factory) -> Path:
    return new_bench(tmp_path_factory.mktemp("bench") / "user_project")


@pytest.fixture
def machines(_bench, tmp_path) -> Iterator[Callable[[Location], list[Arena]]]:
    """Two machines, as a sweep sees them: each has a copy of the project and its own folder `runs`.

    No process that they started outlives the test.
    """
    arenas = []

    def make(location):
        uri = location.new_uri()
        for number in (1, 2):
            project, logs = tmp_path / f"machine-{number}", tmp_path / f"output-{number}"
            logs.mkdir()
            shutil.copytree(_bench, project)
            arenas.append(Arena(project, project / "runs", logs, environment=location.environ, storage=uri))
        return arenas

    yield make
    left = [line for arena in arenas for line in arena.end()]
    assert left == []
