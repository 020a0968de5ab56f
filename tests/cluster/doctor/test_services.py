"""The doctor's checks of the DVC remote, the .dvc files, the prepared data and the storage."""

import shutil
import subprocess

import pytest

from toprung.cluster.doctor.services import check_data, check_data_remote, check_dvc_files
from toprung.cluster.doctor.shared_storage import read_and_write, write_storage_probe
from toprung.remote_storage import StorageUnavailable


def test_a_missing_remote_folder_is_an_error_with_the_command_to_type(user_project, tmp_path):
    folder = tmp_path / "remote"
    folder.mkdir()
    for command in (["init", "-q"], ["remote", "add", "-q", "-d", "shared", str(folder)]):
        subprocess.run(["dvc", *command], cwd=user_project, check=True, capture_output=True)
    before = check_data_remote(user_project)
    shutil.rmtree(folder)
    after = check_data_remote(user_project)
    assert (before.state, after.state) == ("ok", "error")
    assert f"mkdir -p {folder}" in after.remedy


def test_having_no_remote_is_ok(user_project):
    finding = check_data_remote(user_project)
    assert finding.state == "ok"
    assert "toprung data remote add" in finding.remedy


def test_a_dataset_that_dvc_overlooks_is_a_warning_with_the_rules_to_change(user_project):
    (user_project / "data" / "raw").mkdir(parents=True)
    (user_project / "data" / "raw" / "cats.dvc").write_text("outs:\n- md5: 0123.dir\n  path: cats\n")
    (user_project / "dvc.yaml").write_text("stages: {}\n")
    assert check_dvc_files(user_project).state == "ok"  # no DVC repository yet
    subprocess.run(["dvc", "init", "-q"], cwd=user_project, check=True, capture_output=True)
    (user_project / ".gitignore").write_text("/data/*\n!/data/raw/\n")
    finding = check_dvc_files(user_project)
    assert (finding.state, finding.remedy) == ("warning", "Change in .gitignore: /data/* to /data/?*.")
    assert finding.observed.startswith("DVC overlooks data/raw/cats.dvc: ")


def test_having_no_dataset_is_a_warning_that_suggests_one_to_prepare():
    finding = check_data({})
    assert (finding.state, finding.remedy) == ("warning", "Type: toprung data prepare digits")


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_node_answers_in_the_storage_and_nothing_is_left_there(tmp_path, scheme):
    with write_storage_probe(f"{scheme}{tmp_path}/runs") as probe:
        assert read_and_write(probe, node_id="a") is None
        assert (tmp_path / "runs" / probe.folder / "a").read_text() == probe.text
    assert not (tmp_path / "runs" / probe.folder).exists()


def test_a_storage_folder_may_have_any_characters_in_its_path(tmp_path):
    folder = tmp_path / "a?b #1 50%20@é"
    folder.mkdir()
    with write_storage_probe(str(folder)) as probe:
        assert read_and_write(probe, node_id="a") is None
        assert (folder / probe.folder / "a").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_node_that_sees_another_folder_reports_it(tmp_path):
    with write_storage_probe(f"{tmp_path}/runs") as probe:
        shutil.rmtree(tmp_path / "runs" / probe.folder)
        assert "does not find what the driver wrote" in str(read_and_write(probe, node_id="a"))


def test_a_storage_that_is_not_a_folder_is_unavailable(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageUnavailable, match="Not a directory"), write_storage_probe(f"{tmp_path}/file/runs"):
        pass
