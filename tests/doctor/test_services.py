"""DVC's remote and the prepared data, as the doctor sees them."""

import shutil
import subprocess

from toprung.doctor.services import check_data, check_data_remote


def test_a_remote_that_is_gone_is_an_error_with_what_to_type(workbench, tmp_path):
    folder = tmp_path / "remote"
    folder.mkdir()
    for command in (["init", "-q"], ["remote", "add", "-q", "-d", "shared", str(folder)]):
        subprocess.run(["dvc", *command], cwd=workbench, check=True, capture_output=True)
    there = check_data_remote(workbench)
    shutil.rmtree(folder)
    gone = check_data_remote(workbench)
    assert (there.state, gone.state) == ("ok", "error")
    assert f"mkdir -p {folder}" in gone.remedy


def test_no_remote_is_no_fault(workbench):
    finding = check_data_remote(workbench)
    assert finding.state == "ok"
    assert "toprung data remote add" in finding.remedy


def test_no_dataset_is_a_warning_with_the_first_one_to_prepare():
    finding = check_data({})
    assert (finding.state, finding.remedy) == ("warning", "Type: toprung data prepare digits")
