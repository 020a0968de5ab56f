"""The store without a server: special characters in its path, and moving its folder."""

import shutil

import pytest
from mlflow import MlflowClient
from mlflow.tracking._tracking_service import utils as mlflow_utils
from sqlalchemy.engine import make_url

from tests.tracking.recorded import Recorded, assert_agrees, parent_of, runs_of
from toprung.errors import UserError
from toprung.records import catalog
from toprung.sweep import maintenance
from toprung.tracking import server
from toprung.tracking.artifacts import log_files
from toprung.tracking.local_store import database_file, follow_move, sqlite_uri

AWKWARD = ["proj#1", "a?b", "50%20off", "100%", "a b", "projét", "a@b:c"]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Return a storage root with a sweep of one trial in MLflow; tests copy it."""
    root = tmp_path_factory.mktemp("original") / "runs"
    recorded = Recorded(root)
    recorded.whole("aa", num_epochs=1)
    recorded.close()
    maintenance.sync(recorded.sweep_dir)  # writes the id of the sweep's run to status.json, as a driver does
    return root


@pytest.fixture(autouse=True)
def fresh_client():
    """Clear the artifact locations that MLflow's client caches; otherwise only a new process would notice a move."""
    mlflow_utils._artifact_repos_cache.clear()


def _sweep_dir(root):
    return next(catalog.list_sweeps(root))


def _run(root):
    """Return the run of the only trial."""
    return runs_of(server.tracking_uri(root), _sweep_dir(root).sweep_id)["aa"]


def _files(folder):
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("name", AWKWARD)
def test_a_sqlite_uri_names_its_file_with_any_characters_in_the_path(name, tmp_path):
    file = tmp_path / name / "mlflow.db"
    assert make_url(sqlite_uri(file)).database == str(file)
    assert database_file(sqlite_uri(file)) == file


@pytest.mark.parametrize("uri", ["http://host", "./mlruns", "sqlite://", "sqlite:///:memory:", "postgresql://h/sqlite"])
def test_other_uris_name_no_file(uri):
    assert database_file(uri) is None


def test_records_and_artifacts_stay_in_a_project_with_special_characters_in_its_path(tmp_path):
    root = tmp_path / "a?b #1 50%20é" / "runs"
    recorded = Recorded(root)
    recorded.whole("aa", num_epochs=1)
    recorded.close()
    assert_agrees(server.tracking_uri(root), recorded.sweep_dir)
    assert [path.name for path in tmp_path.iterdir()] == ["a?b #1 50%20é"]
    assert {path.name for path in root.iterdir() if not path.name.startswith(".")} == {
        recorded.sweep_dir.sweep_id, "mlartifacts", "mlflow.db"
    }  # fmt: skip
    assert sum(file.endswith("model.pth") for file in _files(root / "mlartifacts")) == 1


def test_a_moved_or_copied_store_records_new_runs_at_its_new_location(original, tmp_path):
    new, before = tmp_path / "new#1", _files(original)
    shutil.copytree(original, new)
    assert str(original) in str(follow_move(new))
    assert follow_move(new) is None
    again = Recorded(None, sweep_dir=_sweep_dir(new), is_behind=True)
    again.whole("bb", num_epochs=1)
    again.close()
    assert_agrees(server.tracking_uri(new), again.sweep_dir)
    assert _files(original) == before
    for run in [parent_of(server.tracking_uri(new), again.sweep_dir.sweep_id), _run(new)]:
        assert run.info.artifact_uri.startswith(f"{new.as_uri()}/mlartifacts/")


@pytest.mark.parametrize(
    "command", [maintenance.sync, lambda sweep_dir: log_files(sweep_dir, [sweep_dir.spec_file], folder="more")]
)
def test_commands_after_the_sweep_notice_a_move(command, original, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(original, old)
    follow_move(old)
    shutil.move(old, new)
    command(_sweep_dir(new))
    assert not old.exists()
    assert _run(new).info.artifact_uri.startswith(new.as_uri())


def test_files_that_were_not_moved_along_keep_their_location(original, tmp_path):
    shutil.copytree(original, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("mlartifacts"))
    follow_move(tmp_path)
    assert _run(tmp_path).info.artifact_uri.startswith(original.as_uri())
    client = MlflowClient(tracking_uri=server.tracking_uri(tmp_path))
    experiment = client.get_experiment_by_name(_sweep_dir(tmp_path).spec().name)
    assert experiment.artifact_location == f"{tmp_path.as_uri()}/mlartifacts"


def test_a_users_own_experiment_keeps_its_artifact_location(original, tmp_path):
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    client = MlflowClient(tracking_uri=server.tracking_uri(tmp_path))
    client.create_experiment("mine", artifact_location="s3://bucket/mine")
    follow_move(tmp_path)
    assert client.get_experiment_by_name("mine").artifact_location == "s3://bucket/mine"


def test_a_store_is_left_alone_if_the_environment_names_a_server(original, tmp_path, monkeypatch):
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv(server.ENVIRONMENT, "http://host")
    assert server.follow_move(tmp_path) is None
    monkeypatch.delenv(server.ENVIRONMENT)
    assert _run(tmp_path).info.artifact_uri.startswith(original.as_uri())


def test_a_damaged_database_is_reported_in_one_line(tmp_path):
    (tmp_path / "mlflow.db").write_text("no database" * 200)
    with pytest.raises(UserError, match=r"mlflow\.db cannot be used \(file is not a database\)\. Restore it"):
        follow_move(tmp_path)


def test_an_empty_database_has_nothing_to_correct(tmp_path):
    assert follow_move(tmp_path) is None
    (tmp_path / "mlflow.db").touch()
    assert follow_move(tmp_path) is None


def test_show_names_the_new_location_of_a_moved_store(original, tmp_path):
    from toprung.analysis.summary import sweep_summary

    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    assert sweep_summary(_sweep_dir(tmp_path))["tracking_uri"] == server.tracking_uri(tmp_path)
