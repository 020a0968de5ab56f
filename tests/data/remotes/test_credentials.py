"""Where a key file may be stored, and who may have read access to it."""

import json
import subprocess

import pytest

from toprung.data.remotes.credentials import check_key
from toprung.errors import UserError

KEY = {"type": "service_account", "client_email": "a@b.example", "private_key": "-", "token_uri": "https://t.example"}


@pytest.fixture
def repository(tmp_path):
    root = tmp_path / "repository"
    subprocess.run(["git", "init", "-q", root], check=True)
    (root / "project").mkdir()
    return root


def _written(path, content=KEY, mode=0o600):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(mode)
    return path


def test_a_key_outside_the_repository_that_only_its_owner_can_read_is_accepted(repository, tmp_path):
    key = _written(tmp_path / "key.json")
    assert check_key(key, project=repository / "project", is_google=True) == key


def test_a_key_inside_the_repository_is_refused(repository, tmp_path):
    key = _written(repository / "key.json")
    with pytest.raises(UserError, match=r"key\.json is inside the repository .* Move it: mkdir -p ~/\.config"):
        check_key(key, project=repository / "project", is_google=True)


def test_a_link_into_or_out_of_the_repository_is_refused(repository, tmp_path):
    outside, inside = _written(tmp_path / "key.json"), _written(repository / "key.json")
    (repository / "link.json").symlink_to(outside)
    (tmp_path / "link.json").symlink_to(inside)
    for link in (repository / "link.json", tmp_path / "link.json"):
        with pytest.raises(UserError, match="is inside the repository"):
            check_key(link, project=repository / "project", is_google=True)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(repository, tmp_path, mode):
    key = _written(tmp_path / "key.json", mode=mode)
    with pytest.raises(UserError, match=rf"can be read by other users \(mode {mode:04o}\)\. Type: chmod 600 "):
        check_key(key, project=repository, is_google=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no JSON", "it is not JSON"),
        ("[]", 'it has no "type"'),
        ({"installed": {}}, 'it has no "type"'),
        ({"type": "service_account", "client_email": "a@b.example"}, 'it has no "private_key"'),
    ],
)
def test_a_file_that_is_not_a_google_key_is_refused(repository, tmp_path, content, message):
    key = _written(tmp_path / "key.json", content)
    with pytest.raises(UserError, match=f"is not a Google key: {message}") as caught:
        check_key(key, project=repository, is_google=True)
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named(repository, tmp_path):
    with pytest.raises(UserError, match="There is no key"):
        check_key(tmp_path / "none.json", project=repository, is_google=True)
