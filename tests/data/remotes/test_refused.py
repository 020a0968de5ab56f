"""A remote that refuses access: one line says what is wrong and how to fix it, and nothing is half-written."""

import functools
import re

import pytest

SLOW = functools.partial(pytest.param, marks=pytest.mark.slow)

WITH_KEYS = pytest.mark.parametrize("location", ["gs", "s3", "ssh", "gdrive"], indirect=True)
WRONG_KEY = {
    "gs": r"rejects the key of toprung-\w+@a-project\S+: Invalid grant: account not found\. Create a new key: docs/",
    "gdrive": r"rejects the key of toprung-\w+@a-project\S+: invalid_grant.* Create a new key: docs/",
    "s3": r"rejects the key of this AWS key: .*SignatureDoesNotMatch.*\. Set AWS_ACCESS_KEY_ID",
    "ssh": r"rejects the key of \w+@127.0.0.1: Permission denied .*\. Check: ssh -p \d+ \w+@127.0.0.1 true",
}
REVOKED = WRONG_KEY | {"s3": r"rejects the key of this AWS key: .*InvalidAccessKeyId.*\. Set AWS_ACCESS_KEY_ID"}
ELSEWHERE = {
    "local": r"has no folder /\S+-that-is-not-there\. Correct the address, or create the folder: mkdir -p /\S+",
    "gs": r"is in a bucket that does not exist: no-such-bucket\. .* gcloud storage buckets create gs://no-such-bucket",
    "s3": r"is in a bucket that does not exist: no-such-bucket\. .* aws s3 mb s3://no-such-bucket",
    "ssh": r"has no folder /\S+-that-is-not-there\. .* ssh -p \d+ \w+@127.0.0.1 mkdir -p /\S+-that-is-not-there",
    "gdrive": r"has no folder a-shared-drive/no-such-folder\. .* share it with toprung-\w+@\S+ as Content manager",
}


@WITH_KEYS
def test_a_wrong_key(project, location):
    project.wipe()
    with location.wrong_key():
        message = project.refuse("pull")
    assert re.search(WRONG_KEY[location.kind], message), message
    assert location.environ.get("AWS_SECRET_ACCESS_KEY", "PRIVATE KEY") not in message
    assert project.hashes() == {}


@pytest.mark.parametrize("location", ["gs", "s3", *map(SLOW, ["ssh", "gdrive"])], indirect=True)
def test_a_revoked_key(project, location):
    project.wipe()
    with location.revoked():
        message = project.refuse("pull")
    assert re.search(REVOKED[location.kind], message), message


@pytest.mark.parametrize("location", ["s3"], indirect=True)
def test_a_revoked_key_is_not_called_in_sync(project, location):
    project.succeed("push")
    with location.revoked():
        assert "InvalidAccessKeyId" in project.refuse("status")  # `dvc status --cloud` prints "in sync" and exits 0


def test_a_missing_bucket_or_folder(project, location):
    project.wipe()
    project.point_at(location.elsewhere)
    message = project.refuse("pull")
    assert re.search(ELSEWHERE[location.kind], message), message


@WITH_KEYS
def test_no_network(project, location):
    project.wipe()
    location.relay.cut()
    message = project.refuse("pull")
    assert re.search(
        r"cannot be reached: .+ Check the network, then try again: transferred files are kept$", message
    ), message


@pytest.mark.parametrize("location", ["gs"], indirect=True)
def test_no_key_at_all(project, location):
    project.wipe()
    message = project.refuse("pull", GOOGLE_APPLICATION_CREDENTIALS="", HOME=str(project.root))
    assert "has no credentials. Set GOOGLE_APPLICATION_CREDENTIALS to the service account's JSON key" in message


@pytest.mark.parametrize("location", ["local", SLOW("s3")], indirect=True)
def test_files_that_were_never_pushed(new_project, location):
    new_project.add_remote(location.new_url())
    new_project.wipe()
    message = new_project.refuse("pull")
    assert message.endswith("On the machine that has them, type: toprung data push"), message


@pytest.mark.parametrize("location", ["local"], indirect=True)
def test_files_missing_here_and_on_the_remote_are_not_reported_as_pushed(new_project, location):
    new_project.add_remote(location.new_url())
    new_project.wipe()
    assert "and DVC's cache here both lack files" in new_project.refuse("push")  # `dvc push` exits with 0
    status = new_project.succeed("status")
    assert "data/raw/tiny: neither in DVC's cache here nor on the remote" in status
    assert "data/prepared/tiny: neither in DVC's cache here nor on the remote" in status


@pytest.mark.parametrize("location", ["gdrive"], indirect=True)
def test_a_service_account_has_no_storage_in_my_drive(new_project, location):
    new_project.add_remote("gdrive://in-my-drive")
    for command in (("push",), ("remote", "check")):
        message = new_project.refuse(*command)
        assert (
            "has no space left: The user's Drive storage quota has been exceeded. A service account has no" in message
        )
        assert "use a shared drive, or better a bucket (gs://)" in message
