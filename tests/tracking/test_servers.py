"""The servers used by the tests, checked through MLflow's own client."""

import contextlib
import socket
from collections.abc import Callable

import psutil
import psycopg2
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from tests.servers import LOOPBACK, FaultyProxy, Postgres, TrackingServer, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def asks_once(monkeypatch):
    """Turn off the retries of MLflow's client, which take four minutes by default."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def _new_run(uri: str, experiment: str) -> str:
    client = MlflowClient(tracking_uri=uri)
    known = client.get_experiment_by_name(experiment)
    return client.create_run(known.experiment_id if known else client.create_experiment(experiment)).info.run_id


def _num_runs(server: TrackingServer, experiment: str) -> int:
    client = MlflowClient(tracking_uri=server.uri)
    return len(client.search_runs([client.get_experiment_by_name(experiment).experiment_id]))


def _times_out(monkeypatch, ask: Callable[[], object]) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        with pytest.raises(MlflowException, match="Read timed out"):
            ask()


def _refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) != 0


def test_a_run_recorded_on_postgresql_is_read_back_from_the_server_and_from_the_database(
    postgres, postgres_tracking_server
):
    run_id = _new_run(postgres_tracking_server.uri, "on postgresql")
    client = MlflowClient(tracking_uri=postgres_tracking_server.uri)
    client.log_batch(run_id, metrics=[Metric("val/accuracy", 0.5, 1, 1)])
    assert client.get_run(run_id).data.metrics == {"val/accuracy": 0.5}
    with contextlib.closing(psycopg2.connect(postgres.uri("mlflow", driver=None))) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT key, value FROM metrics WHERE run_uuid = %s", (run_id,))
        assert cursor.fetchall() == [("val/accuracy", 0.5)]


def test_a_stopped_database_is_an_error_of_the_server_until_it_runs_again(
    postgres, postgres_tracking_server, asks_once
):
    run_id = _new_run(postgres_tracking_server.uri, "a database that stops")
    client = MlflowClient(tracking_uri=postgres_tracking_server.uri)
    postgres.stop()
    try:
        with pytest.raises(MlflowException, match="503 error responses"):
            client.get_run(run_id)
    finally:
        postgres.start()
    assert client.get_run(run_id).info.run_id == run_id


def test_postgresql_gives_empty_databases_and_refuses_a_wrong_password(postgres):
    postgres.new_database("twice")
    with contextlib.closing(psycopg2.connect(postgres.uri("twice", driver=None))) as connection:
        connection.cursor().execute("CREATE TABLE numbers (number integer)")
        connection.commit()
    assert postgres.new_database("twice") == postgres.uri("twice")
    with contextlib.closing(psycopg2.connect(postgres.uri("twice", driver=None))) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT count(*) FROM pg_tables WHERE tablename = 'numbers'")
        assert cursor.fetchone() == (0,)
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(postgres.uri("twice", driver=None, password="wrong"))


def test_postgresql_leaves_no_process_and_no_folder(postgres):
    with Postgres() as short:
        folder, port = short._folder, short.port
        process = psutil.Process(short._process.pid)
        family = [process, *process.children(recursive=True)]
        assert folder.is_dir()
        assert len(family) > 1
    assert not folder.exists()
    assert _refuses(port)
    wait_until(lambda: not any(one.is_running() and one.status() != "zombie" for one in family), "PostgreSQL's end")


def test_a_protected_server_accepts_only_the_right_password(protected_tracking_server):
    server = protected_tracking_server
    run_id = _new_run(server.uri, "protected")
    assert MlflowClient(tracking_uri=server.uri).get_run(run_id).info.run_id == run_id
    for uri in (server.uri.replace(server.password, "wrong"), server.url):
        with pytest.raises(MlflowException, match="not authenticated") as refused:
            MlflowClient(tracking_uri=uri).get_run(run_id)
        assert refused.value.get_http_status_code() == 401


def test_a_killed_server_refuses_connections_and_has_its_runs_after_a_restart(tracking_server, asks_once):
    run_id = _new_run(tracking_server.uri, "interrupted")
    client = MlflowClient(tracking_uri=tracking_server.uri)
    family = tracking_server.processes()
    assert len(family) > 1
    tracking_server.kill()
    assert not any(one.is_running() and one.status() != "zombie" for one in family)
    with pytest.raises(MlflowException, match="Max retries exceeded"):
        client.get_run(run_id)
    tracking_server.start()
    assert client.get_run(run_id).info.run_id == run_id


def test_a_suspended_server_hangs_until_it_continues(tracking_server, asks_once, monkeypatch):
    run_id = _new_run(tracking_server.uri, "suspended")
    client = MlflowClient(tracking_uri=tracking_server.uri)
    tracking_server.suspend()
    _times_out(monkeypatch, lambda: client.get_run(run_id))
    tracking_server.start()
    assert client.get_run(run_id).info.run_id == run_id


def test_the_proxy_passes_requests_and_files_on_and_counts_them(tracking_server, proxy, tmp_path):
    run_id = _new_run(proxy.url, "passed on")
    assert MlflowClient(tracking_uri=tracking_server.uri).get_run(run_id).info.run_id == run_id
    client = MlflowClient(tracking_uri=proxy.url)
    for name, content in (("weights", b"\0" * 100_000), ("empty", b"")):  # the client sends an empty file chunked
        (tmp_path / name).write_bytes(content)
        client.log_artifact(run_id, str(tmp_path / name))
        fetched = client.download_artifacts(run_id, name, str(tmp_path / "fetched"))
        with open(fetched, "rb") as file:
            assert file.read() == content
    assert proxy.counts["/api/2.0/mlflow/runs/create"] == proxy.count("/runs/create") == 1
    (created,) = [request for request in proxy.requests if request.path.endswith("/runs/create")]
    assert (created.method, created.authorization) == ("POST", None)
    assert "experiment_id" in created.json


def test_the_proxy_answers_with_an_error_without_passing_the_request_on(tracking_server, proxy, asks_once):
    _new_run(proxy.url, "error")
    proxy.answer(500, path="/runs/create", times=1)
    with pytest.raises(MlflowException, match="500 error responses"):
        _new_run(proxy.url, "error")
    assert (_num_runs(tracking_server, "error"), proxy.count("/runs/create")) == (1, 2)
    _new_run(proxy.url, "error")
    assert _num_runs(tracking_server, "error") == 2


def test_the_proxy_hangs_until_released_and_passes_on_late(tracking_server, proxy, asks_once, monkeypatch):
    experiment_id = MlflowClient(tracking_uri=proxy.url).create_experiment("hang")
    proxy.hang(path="/runs/create")
    _times_out(monkeypatch, lambda: MlflowClient(tracking_uri=proxy.url).create_run(experiment_id))
    assert _num_runs(tracking_server, "hang") == 0
    proxy.pass_on()
    wait_until(lambda: _num_runs(tracking_server, "hang") == 1, "the late request")


def test_the_proxy_forgets_what_hangs_when_it_is_closed(tracking_server, asks_once, monkeypatch):
    experiment_id = MlflowClient(tracking_uri=tracking_server.uri).create_experiment("forgotten")
    with FaultyProxy(tracking_server.url) as proxy:
        proxy.hang(path="/runs/create")
        _times_out(monkeypatch, lambda: MlflowClient(tracking_uri=proxy.url).create_run(experiment_id))
    assert _num_runs(tracking_server, "forgotten") == 0


def test_the_proxy_refuses_new_connections_and_closes_open_ones(proxy, asks_once):
    run_id = _new_run(proxy.url, "refused")
    proxy.refuse()
    with pytest.raises(MlflowException, match="Max retries exceeded"):
        MlflowClient(tracking_uri=proxy.url).get_run(run_id)
    proxy.pass_on()
    assert MlflowClient(tracking_uri=proxy.url).get_run(run_id).info.run_id == run_id


def test_a_dropped_answer_leaves_a_run_that_the_client_does_not_know(tracking_server, proxy, asks_once):
    _new_run(proxy.url, "dropped")
    proxy.drop_answers(path="/runs/create", times=1)
    with pytest.raises(MlflowException, match="closed connection without response"):
        _new_run(proxy.url, "dropped")
    assert _num_runs(tracking_server, "dropped") == 2


def test_mlflows_client_retries_after_a_dropped_answer_and_duplicates_the_run(tracking_server, proxy, monkeypatch):
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)  # toprung's own client turns them off
    _new_run(proxy.url, "duplicated")
    proxy.drop_answers(path="/runs/create", times=1)
    _new_run(proxy.url, "duplicated")
    assert _num_runs(tracking_server, "duplicated") == 3
