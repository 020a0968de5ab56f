"""Objects on S3 and Google Cloud Storage, over their own protocols, and in a folder."""

import io
import time

import pytest
from pyarrow.fs import LocalFileSystem

from toprung.errors import UserError
from toprung.remote_storage import StorageUnavailable, check_usable, is_uri, open_storage
from toprung.remote_storage.objects import CHUNK_BYTES, ObjectStorage


def test_objects_are_written_read_listed_and_removed(storage, tmp_path):
    check_usable(storage)
    before = time.time()
    storage.put("a/one", b"first")
    storage.put("a/one", b"second")
    storage.put_file("a/b/two", io.BytesIO(b"x" * (CHUNK_BYTES + 5)))
    assert storage.get("a/one") == b"second"
    assert {name: info.size for name, info in storage.list_objects("a").items()} == {
        "a/one": 6,
        "a/b/two": CHUNK_BYTES + 5,
    }
    assert abs(storage.modified_at("a/one") - before) < 60
    assert storage.download("a/b/two", tmp_path / "deep" / "two")
    assert (tmp_path / "deep" / "two").stat().st_size == CHUNK_BYTES + 5
    storage.delete(["a/one", "a/one"])
    assert storage.get("a/one") is None
    storage.delete_all("a")
    storage.delete_all("a")
    assert storage.list_objects() == {}


def test_the_address_of_a_folder_is_decoded(tmp_path):
    folder = tmp_path / "a?b #1 50%20@é"
    open_storage(folder.as_uri()).put("one", b"first")
    assert (folder / "one").read_bytes() == b"first"


def test_a_missing_object_is_reported_and_leaves_no_file(storage, tmp_path):
    assert storage.get("none") is None
    assert storage.modified_at("none") is None
    assert storage.list_objects("none") == {}
    assert not storage.download("none", tmp_path / "none")
    assert list(tmp_path.glob("*none*")) == []


def test_a_storage_that_cannot_be_reached_gives_the_reason_and_works_again_later(s3):
    storage = open_storage(s3.new_uri())
    s3.relay.cut()
    with pytest.raises(StorageUnavailable, match=r"^it cannot be reached$"):
        storage.put("a", b"1")
    with pytest.raises(UserError, match=r"^The storage s3://\S+ cannot be written: it cannot be reached\.$"):
        check_usable(storage)
    s3.relay.mend()
    storage.put("a", b"1")
    assert storage.get("a") == b"1"


def test_a_client_that_could_not_be_created_is_created_on_the_next_request(tmp_path):
    """Creating a client on AWS requires a request if no region is set, and another if the machine has a role."""
    clients = iter([OSError("AWS Error NETWORK_CONNECTION during HeadBucket"), LocalFileSystem()])

    def open_filesystem():
        if isinstance(client := next(clients), OSError):
            raise client
        return client

    storage = ObjectStorage("file:///somewhere", str(tmp_path), open_filesystem, is_folder=True)
    with pytest.raises(StorageUnavailable, match=r"^it cannot be reached$"):
        storage.put("a", b"1")
    storage.put("a", b"1")
    assert storage.get("a") == b"1"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "ftp://host/folder",
            r'The storage "ftp://\.\.\." is not supported\. Use one of s3://, gs://, file://, or a',
        ),
        ("s3://AKIAKEY:secret@bucket/folder", r"The storage s3://\.\.\. must not contain credentials"),
        ("s3://bucket/folder?secret_key=secret", r"The storage s3://\.\.\. must not contain credentials"),
        ("s3://", 'The storage "s3://" names no folder'),
        ("file://folder", r'The storage "file://folder" names no folder\. Use an address such as file:///some/folder'),
    ],
)
def test_an_invalid_address_is_refused_without_showing_its_secrets(address, message):
    assert is_uri(address)
    with pytest.raises(UserError, match=message) as refused:
        open_storage(address)
    assert "secret@" not in str(refused.value)
    assert "=secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("actions", "step"), [(("s3:ListBucket", "s3:GetObject"), "written"), (("s3:ListBucket", "s3:PutObject"), "read")]
)
def test_a_key_without_a_needed_permission_is_refused_before_the_sweep_starts(s3, s3_server, used, actions, step):
    bucket = s3.uri.split("/")[2]
    s3.environ, full_environ = {**s3.environ, **s3_server.new_user(bucket, actions=actions).environ}, s3.environ
    used(s3)
    s3.environ = full_environ
    with pytest.raises(UserError, match=rf"cannot be {step}: access is denied: no such bucket, or these credentials"):
        check_usable(open_storage(s3.new_uri()))


def test_a_missing_bucket_is_refused_before_the_sweep_starts(s3, gs, used):
    for location, uri in ((s3, "s3://no-such-bucket/a"), (gs, "gs://no-such-bucket/a")):
        used(location)
        message = rf"^The storage {uri} cannot be written: (access is denied: |there is )no such bucket"
        with pytest.raises(UserError, match=message):
            check_usable(open_storage(uri))


def test_a_wrong_key_is_refused_before_the_sweep_starts(s3, used, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-somebody-else")
    with pytest.raises(UserError, match=r"cannot be written: the key is not accepted\.$"):
        check_usable(open_storage(s3.new_uri()))
