"""What is sent to a cluster with a job, and the paths on the cluster."""

import json
import subprocess
import sys

import pytest

from toprung import data
from toprung.cluster.jobs import entrypoint, package
from toprung.errors import UserError
from toprung.records import lineage


@pytest.fixture
def staged(user_project, tmp_path):
    """The staged copy of a project that also has files that must not be sent."""
    (user_project / "runs" / "digits-1").mkdir(parents=True)
    (user_project / "runs" / "digits-1" / "last.pth").write_bytes(b"weights")
    (user_project / "data" / "prepared" / "digits").mkdir(parents=True)
    (user_project / "data" / "prepared" / "digits" / "train_images.npy").write_bytes(b"images")
    (user_project / "trainers" / "secret.env").write_text("MLFLOW_TRACKING_URI=https://user:password@host\n")
    target = tmp_path / "staged"
    target.mkdir()
    package.stage(user_project, target, where=package.cluster_paths("/mnt/shared/runs", None))
    return target


def test_code_and_lineage_files_are_sent_but_never_git_data_or_runs(staged):
    assert {path.name for path in staged.iterdir()} == {
        "cluster.json",
        "source-commit.json",
        "requirements.lock",
        "search_spaces",
        "toprung",
        "trainers",
        "tune",
    }
    assert {
        path.suffix for folder in ("tune", "trainers", "search_spaces") for path in (staged / folder).iterdir()
    } == {".py"}
    assert not [path for path in staged.rglob("*") if path.name == "__pycache__"]


def test_the_copy_of_toprung_is_imported_from_the_jobs_folder(staged):
    code = "import toprung, toprung.analysis.report as r; print(toprung.__file__); print(r.__file__)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=staged, capture_output=True, text=True, check=True)
    assert [line.startswith(f"{staged}/toprung/") for line in ran.stdout.splitlines()] == [True, True]
    assert (staged / "toprung/analysis/report/page.html").is_file()


def test_the_copy_without_git_records_the_commit_it_was_made_from(staged, user_project):
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=user_project, capture_output=True, text=True, check=True)
    assert json.loads((staged / lineage.SOURCE_COMMIT_FILE).read_text()) == {
        "commit": commit.stdout.strip(),
        "dirty": True,
    }


def test_no_variable_of_this_machine_is_in_the_runtime_env(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://user:password@host")
    assert "password" not in json.dumps(package.runtime_env(tmp_path))
    assert all(name.startswith("RAY_") for name in package.runtime_env(tmp_path)["env_vars"])


def test_prepared_data_are_beside_the_storage_folder_by_default():
    assert package.cluster_paths("/mnt/shared/runs", None).prepared == "/mnt/shared/data/prepared"
    assert package.cluster_paths("gs://bucket/runs", "/mnt/data").prepared == "/mnt/data"


@pytest.mark.parametrize(
    ("storage", "prepared", "message"),
    [
        ("runs", None, "--storage /mnt/shared/runs"),
        ("s3://bucket/runs", None, "--data /mnt/shared/data/prepared"),
        ("/mnt/shared/runs", "data/prepared", "must be a full path"),
    ],
)
def test_a_path_that_only_this_machine_has_is_refused(storage, prepared, message):
    with pytest.raises(UserError, match=message):
        package.cluster_paths(storage, prepared)


def test_a_built_in_dataset_that_the_cluster_lacks_is_prepared_there_by_the_job(tmp_path, capsys):
    shared = tmp_path / "shared" / "data" / "prepared"
    entrypoint.ensure_prepared("digits", prepared=shared)
    assert data.open_prepared("digits", root=shared).card.name == "digits"
    assert capsys.readouterr().out.startswith("Preparing digits in ")
    entrypoint.ensure_prepared("digits", prepared=shared)
    assert capsys.readouterr().out == ""


def test_a_missing_folder_of_images_gets_the_command_to_copy_it(tmp_path):
    with pytest.raises(UserError, match=f"rsync -a data/prepared/mushrooms HEAD:{tmp_path}/"):
        entrypoint.ensure_prepared("mushrooms", prepared=tmp_path)


def test_a_job_runs_its_command_with_the_clusters_data_in_its_project(user_project, tmp_path):
    shared = tmp_path / "shared"
    data.prepare("digits", out=shared / "digits")
    command = [sys.executable, "-m", "toprung.cluster.jobs.entrypoint", "--prepared", shared, "--dataset", "digits"]
    for _ in range(2):  # a second job with the same code gets the same folder
        ran = subprocess.run(
            [*command, "--", "data", "verify", "digits"], cwd=user_project, capture_output=True, text=True, check=False
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        assert ran.stdout.startswith("digits: unchanged since it was prepared.")
    assert (user_project / data.PREPARED).resolve() == shared
