"""The five remotes under test: how each is added to a project, and how each is made to fail."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.servers import LOOPBACK

if TYPE_CHECKING:  # each needs packages that the others do not
    from tests.data.remotes.drive import Drive
    from tests.data.remotes.gcs import Gcs
    from tests.data.remotes.google import Accounts
    from tests.data.remotes.relay import Relay
    from tests.data.remotes.s3 import S3
    from tests.data.remotes.sshd import Sshd


@dataclass
class Location:
    """A remote: its address, the arguments of `remote add`, the environment, and the relay in front of its server."""

    kind: str
    url: str
    arguments: list[str] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)
    python: str = sys.executable
    relay: Relay | None = None
    gives_up = True  # False if its client retries for more than a minute after the connection is cut

    def new_url(self) -> str:
        """Return an address where nothing is stored yet."""
        return f"{self.url}/{secrets.token_hex(4)}"

    @contextlib.contextmanager
    def wrong_key(self) -> Iterator[None]:
        """Use a key that the server has never accepted."""
        raise NotImplementedError
        yield

    @contextlib.contextmanager
    def revoked(self) -> Iterator[None]:
        """Revoke a key that has worked."""
        raise NotImplementedError
        yield

    @contextlib.contextmanager
    def denied(self, step: str) -> Iterator[None]:
        """Restrict the key, so that one step is forbidden."""
        raise NotImplementedError
        yield

    @property
    def elsewhere(self) -> str:
        """The address of a bucket or folder that does not exist."""
        raise NotImplementedError

    @contextlib.contextmanager
    def _environ_with(self, **changed: str) -> Iterator[None]:
        before = dict(self.environ)
        self.environ.update(changed)
        try:
            yield
        finally:
            self.environ = before


class FolderLocation(Location):
    def __init__(self, folder: Path) -> None:
        super().__init__("local", str(folder / "store"))

    @property
    def elsewhere(self) -> str:
        return f"{self.url}-that-is-not-there"


class GcsLocation(Location):
    gives_up = False

    def __init__(self, gcs: Gcs, folder: Path) -> None:
        self.gcs, self.folder, self.key = gcs, folder, gcs.accounts.new_key(folder)
        super().__init__(
            "gs",
            f"gs://{gcs.new_bucket()}/datasets",
            ["--set", f"endpointurl={gcs.endpoint}"],
            {"GOOGLE_APPLICATION_CREDENTIALS": str(self.key), "NO_GCE_CHECK": "true"},
            relay=gcs.relay,
        )

    @contextlib.contextmanager
    def wrong_key(self) -> Iterator[None]:
        key = self.gcs.accounts.new_key(self.folder, known=False)
        with self._environ_with(GOOGLE_APPLICATION_CREDENTIALS=str(key)):
            yield

    @contextlib.contextmanager
    def revoked(self) -> Iterator[None]:
        with _revoked_account(self.gcs.accounts, self.key):
            yield

    @contextlib.contextmanager
    def denied(self, step: str) -> Iterator[None]:
        verb = {"write": "create", "read": "get"}.get(step, step)
        with _denied_account(self.gcs.accounts, self.key, f"storage.objects.{verb}"):
            yield

    @property
    def elsewhere(self) -> str:
        return "gs://no-such-bucket/datasets"


class S3Location(Location):
    gives_up = False

    def __init__(self, s3: S3) -> None:
        self.s3, self.bucket = s3, s3.new_bucket()
        self.user = s3.new_user(self.bucket)
        arguments = ["--set", f"endpointurl={s3.endpoint}", "--set", f"region={s3.region}"]
        super().__init__("s3", f"s3://{self.bucket}/datasets", arguments, self.user.environ, relay=s3.relay)

    @contextlib.contextmanager
    def wrong_key(self) -> Iterator[None]:
        with self._environ_with(AWS_SECRET_ACCESS_KEY="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"):
            yield

    @contextlib.contextmanager
    def revoked(self) -> Iterator[None]:
        user = self.s3.new_user(self.bucket)
        self.s3.revoke(user)
        with self._environ_with(**user.environ):
            yield

    @contextlib.contextmanager
    def denied(self, step: str) -> Iterator[None]:
        action = {"list": "s3:ListBucket", "write": "s3:PutObject", "read": "s3:GetObject"}.get(step, "s3:DeleteObject")
        user = self.s3.new_user(self.bucket, actions=tuple(each for each in self.s3.actions if each != action))
        with self._environ_with(**user.environ):
            yield

    @property
    def elsewhere(self) -> str:
        return "s3://no-such-bucket/datasets"


class SshLocation(Location):
    def __init__(self, sshd: Sshd, folder: Path) -> None:
        self.sshd, self.folder, self.key = sshd, folder / "store", sshd.new_key(folder)
        sshd.allow(self.key)
        self.folder.mkdir()
        super().__init__(
            "ssh", f"ssh://{sshd.user}@{LOOPBACK}:{sshd.relay.port}{self.folder}", ["--key", str(self.key)],
            {"HOME": str(folder)}, relay=sshd.relay,
        )  # fmt: skip

    def new_url(self) -> str:
        url = super().new_url()
        (self.folder / url.rpartition("/")[2]).mkdir()
        return url

    @contextlib.contextmanager
    def wrong_key(self) -> Iterator[None]:
        stranger = self.sshd.new_key(self.key.parent)
        before = {path: path.read_bytes() for path in (self.key, self.key.with_suffix(".pub"))}
        shutil.copy(stranger, self.key)
        shutil.copy(stranger.with_suffix(".pub"), self.key.with_suffix(".pub"))
        try:
            yield
        finally:
            for path, content in before.items():
                path.write_bytes(content)

    @contextlib.contextmanager
    def revoked(self) -> Iterator[None]:
        self.sshd.forget(self.key)
        try:
            yield
        finally:
            self.sshd.allow(self.key)

    @contextlib.contextmanager
    def denied(self, step: str) -> Iterator[None]:
        self.sshd.forget(self.key)
        requests = {"list": "opendir,readdir", "write": "write", "read": "read", "delete": "remove"}
        self.sshd.allow(self.key, denied_requests=requests[step])
        try:
            yield
        finally:
            self.sshd.forget(self.key)
            self.sshd.allow(self.key)

    @property
    def elsewhere(self) -> str:
        return f"{self.url}-that-is-not-there"


class DriveLocation(Location):
    def __init__(self, drive: Drive, folder: Path, python: str) -> None:
        self.drive, self.folder, self.key = drive, folder, drive.accounts.new_key(folder)
        environ = {**drive.environ, "GOOGLE_APPLICATION_CREDENTIALS": str(self.key)}
        super().__init__("gdrive", "gdrive://a-shared-drive/toprung", environ=environ, python=python, relay=drive.relay)

    def new_url(self) -> str:
        url = super().new_url()
        self.drive.new_folder(url.rpartition("/")[2], parent="in-the-shared-drive")
        return url

    @contextlib.contextmanager
    def wrong_key(self) -> Iterator[None]:
        good = self.key.read_text()
        self.key.write_text(self.drive.accounts.new_key(self.folder, known=False).read_text())
        try:
            yield
        finally:
            self.key.write_text(good)

    @contextlib.contextmanager
    def revoked(self) -> Iterator[None]:
        with _revoked_account(self.drive.accounts, self.key):
            yield

    @contextlib.contextmanager
    def denied(self, step: str) -> Iterator[None]:
        with _denied_account(self.drive.accounts, self.key, step):
            yield

    @property
    def elsewhere(self) -> str:
        return "gdrive://a-shared-drive/no-such-folder"


@contextlib.contextmanager
def _revoked_account(accounts: Accounts, key: Path) -> Iterator[None]:
    public = dict(accounts.public)
    accounts.revoke(key)
    try:
        yield
    finally:
        accounts.public = public


@contextlib.contextmanager
def _denied_account(accounts: Accounts, key: Path, permission: str) -> Iterator[None]:
    accounts.deny(key, permission)
    try:
        yield
    finally:
        accounts.denied.clear()
