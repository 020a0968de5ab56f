"""The lineage's data entries are the same as DVC's, without importing DVC."""

import hashlib
import json
import shutil
import subprocess
import sys

import pytest

from toprung.data.versioning.lineage import is_other_than_locked, prepared_md5, raw_md5, remote_name, tracked_md5
from toprung.errors import UserError


@pytest.fixture
def root(template, tmp_path):
    return shutil.copytree(template, tmp_path / "project", symlinks=True)


def _dvc(root, *arguments):
    return subprocess.run(["dvc", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


def test_the_md5_are_those_that_dvc_computes(root):
    raw, prepared = raw_md5("tiny", project=root), prepared_md5("tiny", project=root)
    for md5, num_files in ((raw, 8), (prepared, 1)):
        listing = (root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).read_bytes()
        assert md5 == f"{hashlib.md5(listing).hexdigest()}.dir"
        assert len(json.loads(listing)) == num_files


def test_raw_files_that_changed_after_preparing_are_not_those_prepared(root):
    before = raw_md5("tiny", project=root)
    (root / "data/raw/tiny/new.png").write_bytes(b"new")
    _dvc(root, "add", "-q", "data/raw/tiny")
    assert raw_md5("tiny", project=root) == before
    assert tracked_md5("tiny", project=root) != before


def test_raw_files_that_were_never_prepared_are_those_tracked(root):
    (root / "dvc.lock").unlink()
    assert raw_md5("tiny", project=root) == tracked_md5("tiny", project=root) is not None
    assert prepared_md5("tiny", project=root) is None


def test_arrays_that_differ_from_the_lock_are_detected(root):
    card = root / "data/prepared/tiny/card.json"
    card.write_text('{"fingerprint": "a"}')
    _dvc(root, "commit", "-q", "-f", "prepare_tiny")
    assert not is_other_than_locked("tiny", project=root)
    card.unlink()  # it may be a link into the cache
    card.write_text('{"fingerprint": "b"}')
    assert is_other_than_locked("tiny", project=root)
    shutil.rmtree(root / ".dvc/cache")
    assert not is_other_than_locked("tiny", project=root)


def test_a_dataset_that_dvc_does_not_know_has_none(root):
    assert raw_md5("other", project=root) is None
    assert prepared_md5("other", project=root) is None
    assert remote_name(project=root) is None


def test_the_default_remote_is_dvcs_own(root):
    _dvc(root, "remote", "add", "one", "s3://bucket")
    assert remote_name(project=root) is None
    _dvc(root, "remote", "default", "one")
    _dvc(root, "remote", "add", "--local", "mine", "/tmp/elsewhere")
    assert remote_name(project=root) == "one"
    _dvc(root, "remote", "default", "--local", "mine")
    assert remote_name(project=root) == "mine"


def test_a_broken_file_is_one_line(root):
    (root / "dvc.lock").write_text("stages: [")
    with pytest.raises(UserError, match=r"dvc\.lock cannot be read") as caught:
        prepared_md5("tiny", project=root)
    assert "\n" not in str(caught.value)


def test_no_dvc_is_imported(root):
    code = (
        "import sys; from pathlib import Path; from toprung.data.versioning.lineage import raw_md5, remote_name; "
        f"root = Path({str(root)!r}); raw_md5('tiny', project=root); remote_name(project=root); "
        "print([name for name in sys.modules if name.partition('.')[0] in ('dvc', 'dvc_data', 'dvc_objects')])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
