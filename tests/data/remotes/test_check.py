"""`toprung data remote check`: its four steps, and the message about a missing permission."""

import re

import pytest

WITH_KEYS = pytest.mark.parametrize("location", ["gs", "s3", "ssh", "gdrive"], indirect=True)
PERMISSIONS = {
    "gs": {
        "list": r"storage\.objects\.list is missing\. Type: gcloud storage buckets add-iam-policy-binding "
        r"gs://bucket-\w+ --member=serviceAccount:toprung-\w+@\S+ --role=roles/storage\.objectViewer$",
        "write": r"storage\.objects\.create is missing\. .* --role=roles/storage\.objectUser   \(pulling works\)$",
        "read": r"storage\.objects\.get is missing\. .* --role=roles/storage\.objectViewer$",
        "delete": r"storage\.objects\.delete is missing\. .* --role=roles/storage\.objectUser   \(pushing and pulling",
    },
    "s3": {
        "list": r"s3:ListBucket is missing\. Allow it on arn:aws:s3:::bucket-\w+ in the policy",
        "write": r"s3:PutObject is missing\. Allow it on arn:aws:s3:::bucket-\w+/\* .*\(pulling works\)$",
        "read": r"s3:GetObject is missing\. Allow it on arn:aws:s3:::bucket-\w+/\* in",
        "delete": r"s3:DeleteObject is missing\. Allow it on arn:aws:s3:::bucket-\w+/\* in",
    },
    "gdrive": {
        "list": r"Viewer is missing\. In Google Drive share that folder, or its shared drive, with toprung-\w+@\S+ as",
        "write": r"Contributor is missing\. In Google Drive share that folder.*\(pulling works\)$",
        "read": r"Viewer is missing\. In Google Drive share that folder",
        "delete": r"Content manager is missing\. In Google Drive share that folder",
    },
    "ssh": {
        "list": r"r-x on the folder is missing\. Type: ssh -p \d+ \w+@127.0.0.1 ls -ld /\S+",
        "write": r"-wx on the folder is missing\. Type: ssh .*\(pulling works\)$",
        "read": r"r on its files is missing\. Type: ssh",
        "delete": r"-wx on it is missing\. Type: ssh",
    },
}


def test_a_remote_with_all_permissions(project, location):
    message = project.succeed("remote", "check")
    assert re.findall(r"^  (\w+) +ok ", message, re.MULTILINE) == ["list", "write", "read", "delete"]
    if location.kind == "local":
        assert not list(project.root.parent.joinpath(location.url).glob("toprung-probe*"))


@WITH_KEYS
@pytest.mark.parametrize("step", ["write", pytest.param("delete", marks=pytest.mark.slow)])
def test_a_missing_permission_is_reported(project, location, step):
    with location.denied(step):
        ran = project.toprung("remote", "check")
    assert ran.returncode == 2
    assert re.search(rf"^  {step} +refused ", ran.stdout, re.MULTILINE), ran.stdout
    message = ran.stderr.strip()
    assert f"does not let {'this AWS key' if location.kind == 's3' else ''}" in message
    assert re.search(PERMISSIONS[location.kind][step], message), message
    assert "\n" not in message


@pytest.mark.slow
@pytest.mark.parametrize("location", ["gs", "s3"], indirect=True)
@pytest.mark.parametrize("step", ["list", "read"])
def test_a_missing_read_permission_is_reported(project, location, step):
    with location.denied(step):
        ran = project.toprung("remote", "check")
    assert ran.returncode == 2
    assert re.search(rf"^  {step} +refused ", ran.stdout, re.MULTILINE), ran.stdout
    assert re.search(PERMISSIONS[location.kind][step], ran.stderr.strip()), ran.stderr
