"""`toprung data remote add`: which settings are committed to git, which stay local, and which are refused."""

import json
import shutil

import pytest

from toprung.data.remotes.add import add_remote
from toprung.data.remotes.check import require_reachable
from toprung.data.versioning.config import find_remote, read_remotes
from toprung.errors import UserError

GOOGLE = {
    "type": "service_account",
    "client_email": "a@b.example",
    "private_key": "-",
    "token_uri": "https://t.example",
}


@pytest.fixture
def root(template, tmp_path, monkeypatch):
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    return shutil.copytree(template, tmp_path / "project", symlinks=True)


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "key.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(GOOGLE))
    return path


def test_a_keys_path_is_only_in_the_settings_of_this_machine(root, key):
    remote = add_remote("origin", "gs://bucket/datasets", project=root, key=key, options={"projectname": "p"})
    assert (remote.kind, remote.is_default, remote.key_file) == ("gs", True, key)
    shared = (root / ".dvc/config").read_text()
    assert "gs://bucket/datasets" in shared
    assert "projectname = p" in shared
    assert str(key) not in shared
    local = root / ".dvc/config.local"
    assert str(key) in local.read_text()
    assert local.stat().st_mode & 0o077 == 0
    assert add_remote("second", "s3://bucket", project=root).is_default is False
    assert [remote.name for remote in read_remotes(root)] == ["origin", "second"]


def test_drive_takes_the_key_of_the_environment(root, key, monkeypatch):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    remote = add_remote("drive", "gdrive://0AbcFolder/datasets", project=root)
    assert remote.key_file == key
    assert remote.options["gdrive_use_service_account"] == "true"


def test_an_address_that_dvc_quotes_is_read_without_the_quotes(root, tmp_path):
    for name in ("store#1", "store, too"):
        folder = tmp_path / name
        assert add_remote(f"r{len(name)}", str(folder), project=root).url == str(folder)


def test_a_relative_folder_is_relative_to_the_current_folder(root, tmp_path):
    (root / "tune/deeper").mkdir()
    remote = add_remote("nas", "../../../store", project=root, here=root / "tune/deeper")
    assert remote.url == str(tmp_path / "store")
    assert (tmp_path / "store").is_dir()
    assert "url = ../../store" in (root / ".dvc/config").read_text()


@pytest.mark.parametrize(
    ("name", "url", "options", "message"),
    [
        ("Origin", "s3://bucket", {}, 'cannot be called "Origin": use lower-case letters'),
        ("o", "ftp://host/x", {}, r'"ftp://host/x" is not the address of a remote'),
        ("o", "s3://", {}, "has no bucket or folder after s3://"),
        ("o", "ssh://host", {}, "has no folder: give ssh://user@host/path"),
        (
            "o",
            "ssh://me:hunter2@host/x",
            {},
            r'"ssh://\*\*\*@host/x" contains a password: leave it out; log in with a key',
        ),
        (
            "o",
            "s3://bucket",
            {"secret_access_key": "x"},
            "secret_access_key is a secret, but --set writes to a file that is committed to git: set AWS",
        ),
        ("o", "s3://bucket", {"endpointurl": "https://me:hunter2@host"}, "endpointurl is a secret, but --set writes"),
        ("o", "ssh://me:hun/ter2@host/x", {}, r"contains a password: leave it out"),
        ("o", "s3://bucket", {"no_such_option": "x"}, "no_such_option"),
        ("o", "data/store", {}, "data/store is inside the repository, so it would be committed to git"),
    ],
)
def test_an_invalid_remote_changes_nothing(root, name, url, options, message):
    before = (root / ".dvc/config").read_bytes()
    with pytest.raises(UserError, match=message) as caught:
        add_remote(name, url, project=root, options=options, here=root)
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert (root / ".dvc/config").read_bytes().strip() == before.strip()
    assert not (root / "data/store").exists()


@pytest.mark.parametrize("broken", ["inside", "readable"])
def test_a_key_that_is_not_safe_changes_nothing(root, key, broken):
    before = (root / ".dvc/config").read_bytes()
    if broken == "inside":
        key = key.rename(root / "key.json")
    else:
        key.chmod(0o644)
    with pytest.raises(UserError, match=r"is inside the repository|can be read by other users"):
        add_remote("origin", "gs://bucket", project=root, key=key)
    assert (root / ".dvc/config").read_bytes() == before
    assert not (root / ".dvc/config.local").exists()


def test_a_key_that_became_readable_later_is_refused_before_it_is_used(root, key):
    remote = add_remote("origin", "gs://bucket", project=root, key=key)
    key.chmod(0o644)
    with pytest.raises(UserError, match=r"can be read by other users \(mode 0644\)\. Type: chmod 600"):
        require_reachable(remote, project=root)


def test_settings_of_this_machine_that_git_would_see_are_refused(root, key):
    (root / ".dvc/.gitignore").write_text("")
    with pytest.raises(UserError, match=r"git does not ignore \.dvc/config\.local\. Type: echo /config\.local >>"):
        add_remote("origin", "gs://bucket", project=root, key=key)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("secret_access_key = wJalrXUtnFEMI", "which is committed to git, contains the secret_access_key of remote o"),
        (
            "url = https://me:hunter2@host/x",
            "which is committed to git, contains a password in the address of remote o",
        ),
    ],
)
def test_a_secret_in_the_settings_that_go_into_git_is_refused(root, line, message):
    (root / ".dvc/config").write_text(f"['remote \"o\"']\n    {line}\n")
    with pytest.raises(UserError, match=message) as caught:
        read_remotes(root)
    assert "wJalrXUtnFEMI" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_an_unknown_remote_and_a_missing_default_are_refused(root):
    with pytest.raises(UserError, match=r"no remote yet\. Type: toprung data remote add NAME URL"):
        find_remote(None, project=root)
    add_remote("one", "s3://bucket", project=root, default=False)
    with pytest.raises(UserError, match=r"There is no default remote\. Name one \(one\)"):
        find_remote(None, project=root)
    with pytest.raises(UserError, match=r'There is no remote "two"\. Known remotes: one\.'):
        find_remote("two", project=root)


@pytest.mark.parametrize("location", ["local"], indirect=True)
def test_one_dataset_or_only_its_arrays_can_be_pushed(new_project, location):
    new_project.add_remote(location.new_url())
    assert 'DVC has no dataset "tony" here. Known datasets: tiny.' in new_project.refuse("pull", "tony")
    assert "2 files sent" in new_project.succeed("push", "tiny", "--prepared-only")
    assert "9 files sent" in new_project.succeed("push", "tiny")
