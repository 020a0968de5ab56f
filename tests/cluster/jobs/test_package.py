"""What is sent to a cluster with a job, and the paths on the cluster."""

import hashlib
import json
import subprocess
import sys

import pytest

from toprung import data
from toprung.cluster.jobs import entrypoint, package
from toprung.errors import UserError
from toprung.records import lineage
from toprung.sweep.dependencies import check_dependencies
from toprung.weights import WEIGHTS
from toprung.weights.card import CARD_FILE, TENSORS_FILE, WeightsCard


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


def write_weights(project, *, content=b"tensors"):
    """Write pretrained weights whose file is never read as tensors."""
    card = WeightsCard(
        name="resnet18.mine", num_classes=0, num_parameters=1, mean=(0.5,) * 3, std=(0.5,) * 3, image_size=224,
        crop_pct=0.9, interpolation="bicubic", source="test", sha256=hashlib.sha256(content).hexdigest(),
    )  # fmt: skip
    folder = project / WEIGHTS / card.name
    folder.mkdir(parents=True)
    (folder / TENSORS_FILE).write_bytes(content)
    (folder / CARD_FILE).write_text(card.model_dump_json())
    return card.name


def stage_with_weights(project, target):
    target.mkdir()
    where = package.cluster_paths("/mnt/shared/runs", None)
    package.stage(project, target, where=where, weights=["resnet18.mine"])


def test_the_sweeps_pretrained_weights_are_sent_and_stored_on_the_cluster_once(user_project, tmp_path):
    name = write_weights(user_project)
    stage_with_weights(user_project, tmp_path / "staged")
    sent, shared = tmp_path / "staged" / package.SENT_WEIGHTS / name, tmp_path / "cluster" / name
    for _ in range(2):
        entrypoint.ensure_weights(name, shared=shared, sent=sent)
        assert {file.name for file in shared.iterdir()} == {CARD_FILE, TENSORS_FILE}
        assert [folder.name for folder in shared.parent.iterdir()] == [name]
    write_weights(tmp_path / "other", content=b"others")
    with pytest.raises(UserError, match="The cluster has other pretrained weights in "):
        entrypoint.ensure_weights(name, shared=shared, sent=tmp_path / "other" / WEIGHTS / name)
    assert (shared / TENSORS_FILE).read_bytes() == b"tensors"


def test_weights_that_are_too_large_to_send_must_be_on_the_cluster(user_project, tmp_path, monkeypatch):
    name = write_weights(user_project)
    monkeypatch.setattr(package, "MAX_WEIGHTS_BYTES", 100)
    stage_with_weights(user_project, tmp_path / "staged")
    sent = tmp_path / "staged" / package.SENT_WEIGHTS / name
    assert not sent.exists()
    with pytest.raises(UserError, match=f"rsync -a data/weights/{name} HEAD:{tmp_path}/"):
        entrypoint.ensure_weights(name, shared=tmp_path / name, sent=sent)
    entrypoint.ensure_weights(name, shared=user_project / WEIGHTS / name, sent=sent)


def test_weights_that_the_project_lacks_are_reported_before_anything_is_sent(user_project, tmp_path):
    with pytest.raises(UserError, match=r"There are no pretrained weights resnet18\.mine"):
        stage_with_weights(user_project, tmp_path / "staged")


def test_the_copy_of_toprung_is_imported_from_the_jobs_folder(staged):
    code = "import toprung, toprung.analysis.report as r; print(toprung.__file__); print(r.__file__)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=staged, capture_output=True, text=True, check=True)
    assert [line.startswith(f"{staged}/toprung/") for line in ran.stdout.splitlines()] == [True, True]
    assert (staged / "toprung/analysis/report/page.html").is_file()


def test_what_the_copy_of_toprung_uses_is_not_expected_in_the_trials(user_project, tmp_path):
    (user_project / "dvc.yaml").write_text("stages: {}\n")
    staged = tmp_path / "staged"
    staged.mkdir()
    package.stage(user_project, staged, where=package.cluster_paths("/mnt/shared/runs", None))
    assert (staged / "dvc.yaml").is_file()
    check_dependencies(staged, [staged / "trainers/convnet.py", staged / "search_spaces/convnet.py"])


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
    assert (user_project / WEIGHTS).resolve() == tmp_path / "weights"
