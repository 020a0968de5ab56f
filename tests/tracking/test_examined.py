"""The check of MLflow in `toprung doctor`, on real servers."""

import sqlite3

from toprung.cluster.doctor.services import check_tracking


def test_a_running_server_is_reported_with_its_version(tracking_server):
    finding = check_tracking(tracking_server.uri)
    assert finding.state == "ok"
    assert "version 3." in finding.observed


def test_a_server_that_does_not_run_is_an_error(tracking_server):
    tracking_server.kill()
    finding = check_tracking(tracking_server.uri)
    assert finding.state == "error"
    assert "cannot be used (Connection refused: " in finding.observed


def test_a_protected_server_needs_a_user_and_the_remedy_names_the_variables(protected_tracking_server, monkeypatch):
    server = protected_tracking_server
    refused = check_tracking(server.url)
    assert refused.state == "error"
    assert "MLFLOW_TRACKING_USERNAME" in refused.remedy
    assert check_tracking(server.uri).state == "ok"


def test_a_file_with_another_schema_is_an_error(tmp_path):
    file = tmp_path / "mlflow.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.execute("INSERT INTO alembic_version VALUES ('451aebb31d03')")
    connection.close()
    finding = check_tracking(f"sqlite:///{file}")
    assert finding.state == "error"


def test_a_store_that_does_not_exist_yet_is_not_created(tmp_path):
    assert check_tracking(f"sqlite:///{tmp_path}/mlflow.db").state == "ok"
    assert list(tmp_path.iterdir()) == []
