"""Preparation through DVC: it uses the project's stage if there is one, and each failure is a one-line message."""

import shutil
import subprocess

import pytest

from toprung import data
from toprung.errors import UserError


def test_the_stage_makes_on_this_machine_the_bytes_that_dvc_lock_names(dvc_project, project):
    card = data.reproduce("digits", project=dvc_project)
    assert data.verify("digits", root=dvc_project / data.PREPARED) == card
    # If this fails after a dependency of the stage has changed, run `dvc repro` and commit dvc.lock.
    assert (dvc_project / "dvc.lock").read_text() == (project / "dvc.lock").read_text()


def test_a_prepared_dataset_is_kept_and_a_damaged_one_is_repaired(dvc_project):
    card = data.reproduce("digits", project=dvc_project)
    root = dvc_project / data.PREPARED
    before = (root / "digits" / "train_images.npy").stat()
    assert data.reproduce("digits", project=dvc_project) == card
    left = (root / "digits" / "train_images.npy").stat()
    assert (left.st_ino, left.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

    (root / "digits" / "train_images.npy").write_bytes(b"damaged")
    data.reproduce("digits", project=dvc_project)
    assert data.verify("digits", root=root) == card


def test_a_removed_dataset_comes_back_from_dvcs_cache_without_its_source(dvc_project, monkeypatch):
    card = data.reproduce("digits", project=dvc_project)
    shutil.rmtree(dvc_project / data.PREPARED)
    monkeypatch.setenv("PYTHONPATH", str(dvc_project / "broken"))
    (dvc_project / "broken" / "sklearn").mkdir(parents=True)
    (dvc_project / "broken" / "sklearn" / "__init__.py").write_text("raise ImportError('no scikit-learn here')")
    assert data.reproduce("digits", project=dvc_project) == card
    assert data.verify("digits", root=dvc_project / data.PREPARED) == card


def test_every_source_that_needs_no_download_has_a_stage(project):
    listed = subprocess.run(
        ["dvc", "stage", "list", "--name-only"], cwd=project, check=True, capture_output=True, text=True
    ).stdout.split()
    assert set(listed) >= {f"prepare_{name}" for name in data.SOURCES if name != "cifar10"}  # added on demand


def test_dvc_sends_no_telemetry_and_stages_nothing_by_itself(dvc_project):
    for option in ("core.analytics", "core.check_update", "core.autostage"):
        message = subprocess.run(["dvc", "config", option], cwd=dvc_project, check=True, capture_output=True)
        assert message.stdout.strip() == b"false"


@pytest.mark.parametrize("missing", [".dvc", ".git", "dvc.yaml"])
def test_a_project_without_dvc_is_prepared_directly(dvc_project, missing):
    if (dvc_project / missing).is_dir():
        shutil.rmtree(dvc_project / missing)
    else:
        (dvc_project / missing).unlink()
    (dvc_project / "dvc.lock").unlink()
    card = data.reproduce("digits", project=dvc_project)
    assert data.verify("digits", root=dvc_project / data.PREPARED, project=dvc_project) == card
    assert not (dvc_project / "dvc.lock").exists()


def test_a_built_in_dataset_without_a_stage_is_given_one(dvc_project):
    (dvc_project / "dvc.yaml").write_text("# ours\nstages: {}\n")
    (dvc_project / "dvc.lock").unlink()
    card = data.reproduce("digits", project=dvc_project)
    assert (dvc_project / "dvc.yaml").read_text().startswith("# ours\nstages:\n  prepare_digits:\n")
    assert data.read_lock("digits", project=dvc_project).prepared_md5
    assert data.verify("digits", root=dvc_project / data.PREPARED, project=dvc_project) == card


def test_a_stage_that_fails_at_first_is_not_kept(dvc_project, monkeypatch):
    before = (dvc_project / "dvc.yaml").read_bytes()
    monkeypatch.setenv("TOPRUNG_DATA", "/nowhere")
    with pytest.raises(UserError, match="TOPRUNG_DATA is /nowhere"):
        data.reproduce("cifar10", project=dvc_project)
    assert (dvc_project / "dvc.yaml").read_bytes() == before


def test_the_reason_of_a_failed_stage_is_the_stages_own_line(dvc_project, monkeypatch):
    monkeypatch.setenv("TOPRUNG_DATA", "/nowhere")
    with pytest.raises(UserError) as caught:
        data.reproduce("fashion_mnist", project=dvc_project)
    assert str(caught.value) == ("TOPRUNG_DATA is /nowhere, which is not a folder. Correct it, or: unset TOPRUNG_DATA")
    assert not (dvc_project / data.PREPARED / "fashion_mnist").exists()


@pytest.mark.parametrize(
    ("dvc_yaml", "message"),
    [
        ("stages: [", "dvc.yaml"),
        ("stages:\n  prepare_digits:\n    command: x\n", "dvc.yaml"),
        ("stages:\n  prepare_digits:\n    cmd: no-such-command\n    outs: [data/prepared/digits]\n", "no-such"),
    ],
)
def test_a_broken_stage_ends_in_one_line(dvc_project, dvc_yaml, message):
    (dvc_project / "dvc.yaml").write_text(dvc_yaml)
    with pytest.raises(UserError, match=message) as caught:
        data.reproduce("digits", project=dvc_project)
    assert "\n" not in str(caught.value)


def test_a_missing_dependency_is_named(dvc_project):
    (dvc_project / "src/toprung/data/splits/stratified_split.py").unlink()
    with pytest.raises(UserError, match=r"split\.py"):
        data.reproduce("digits", project=dvc_project)


def test_an_unknown_dataset_never_reaches_dvc(tmp_path):
    with pytest.raises(UserError, match='Did you mean "digits"'):
        data.reproduce("digit", project=tmp_path)
