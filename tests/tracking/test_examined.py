"""MLflow as `toprung doctor` sees it: real servers, and what is wrong with them."""

import sqlite3

from toprung.cluster.doctor.services import check_tracking


def test_a_server_that_answers_is_named_with_its_version(tracking_server):
    finding = check_tracking(tracking_server.uri)
    assert finding.state == "ok"
    assert "version 3." in finding.observed


def test_a_server_that_is_down_is_an_error(tracking_server):
    tracking_server.kill()
    finding = check_tracking(tracking_server.uri)
    assert finding.state == "error"
    assert "cannot be used (Connection refused: " in finding.observed


def test_a_protected_server_wants_a_user_and_says_which_variables(protected_tracking_server, monkeypatch):
    server = protected_tracking_server
    refused = check_tracking(server.url)
    assert refused.state == "error"
    assert "MLFLOW_TRACKING_USERNAME" in refused.remedy
    assert check_tracking(server.uri).state == "ok"


def test_a_file_that_is_no_store_of_mlflows_is_an_error(tmp_path):
    file = tmp_path / "mlflow.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.execute("INSERT INTO alembic_version VALUES ('451aebb31d03')")
    connection.close()
    finding = check_tracking(f"sqlite:///{file}")
    assert finding.state == "error"


def test_a_store_that_is_not_there_yet_is_not_made(tmp_path):
    assert check_tracking(f"sqlite:///{tmp_path}/mlflow.db").state == "ok"
    assert list(tmp_path.iterdir()) == []
