"""Real servers, each started once per session and restarted before a test if necessary."""

import importlib.util
from collections.abc import Iterator

import pytest

from tests.servers import FaultyProxy, Postgres, TrackingServer


@pytest.fixture(autouse=True)
def _poll_often(monkeypatch):
    """Let a writer in this process deliver sooner than a sweep needs it."""
    monkeypatch.setattr("toprung.tracking.writer.MIN_POLL_SECONDS", 0.1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Start PostgreSQL; `new_database(name)` creates a database and returns its URI."""
    if reason := Postgres.missing():
        pytest.skip(reason)
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def _sqlite_server(tmp_path_factory) -> Iterator[TrackingServer]:
    with TrackingServer(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="session")
def _postgres_server(tmp_path_factory, postgres) -> Iterator[TrackingServer]:
    folder, backend_uri = tmp_path_factory.mktemp("server"), postgres.new_database("mlflow")
    with TrackingServer(folder, backend_uri=backend_uri) as server:
        yield server


@pytest.fixture(scope="session")
def _protected_server(tmp_path_factory) -> Iterator[TrackingServer]:
    if importlib.util.find_spec("flask_wtf") is None:
        pytest.skip("MLflow's basic auth needs Flask-WTF: pip install 'mlflow[auth]'")
    with TrackingServer(tmp_path_factory.mktemp("server"), protected=True) as server:
        yield server


@pytest.fixture
def tracking_server(_sqlite_server) -> TrackingServer:
    """Return an `mlflow server` on SQLite that is responsive when the test begins."""
    _sqlite_server.start()
    return _sqlite_server


@pytest.fixture
def postgres_tracking_server(_postgres_server) -> TrackingServer:
    """Return an `mlflow server` on PostgreSQL that is responsive when the test begins."""
    _postgres_server.start()
    return _postgres_server


@pytest.fixture
def protected_tracking_server(_protected_server) -> TrackingServer:
    """Return an `mlflow server` with basic auth that is responsive when the test begins."""
    _protected_server.start()
    return _protected_server


@pytest.fixture
def proxy(tracking_server) -> Iterator[FaultyProxy]:
    """Start a proxy in front of `tracking_server`, without faults and with an empty list of requests."""
    with FaultyProxy(tracking_server.url) as faulty:
        yield faulty
