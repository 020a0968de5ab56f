"""S3: moto's server, which checks its users' signatures and IAM policies."""

import json
import os
import secrets
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from tests.data.remotes.relay import Relay
from tests.servers import LOOPBACK, free_port, wait_until


@dataclass
class User:
    """An IAM user with one access key."""

    name: str
    access_key_id: str
    secret_access_key: str

    @property
    def environ(self) -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": self.access_key_id, "AWS_SECRET_ACCESS_KEY": self.secret_access_key}


class S3:
    """moto's server and a relay in front of it; `endpoint` is the relay's."""

    region = "us-east-1"
    actions = ("s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject")

    def __init__(self, folder: Path) -> None:
        self._port, self._log = free_port(), folder / "moto.log"
        self.relay = Relay(self._port)
        self.endpoint = f"http://{LOOPBACK}:{self.relay.port}"

    def __enter__(self) -> "S3":
        command = [sys.executable, "-c", "from moto.server import main; main()", "-H", LOOPBACK, "-p", str(self._port)]
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "NO_COLOR": "1"})
        self.relay.__enter__()
        try:
            wait_until(self._answers, "moto's server", timeout_seconds=120)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.relay.__exit__()
        self._process.kill()
        self._process.wait()

    def new_bucket(self) -> str:
        name = f"bucket-{secrets.token_hex(6)}"
        self._as_admin("s3").create_bucket(Bucket=name)
        return name

    def new_user(self, bucket: str, *, actions: tuple[str, ...] = actions) -> User:
        """Create a user who is allowed `actions` in the bucket."""
        iam, name = self._as_admin("iam"), f"user-{secrets.token_hex(4)}"
        iam.create_user(UserName=name)
        statement = {
            "Effect": "Allow",
            "Action": list(actions),
            "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*", "arn:aws:s3:::no-such-bucket"],
        }
        policy = {"Version": "2012-10-17", "Statement": [statement]}
        iam.put_user_policy(UserName=name, PolicyName="data", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        self._check_policies(True)
        return User(name, key["AccessKeyId"], key["SecretAccessKey"])

    def revoke(self, user: User) -> None:
        """Delete the user's access key."""
        self._as_admin("iam").delete_access_key(UserName=user.name, AccessKeyId=user.access_key_id)
        self._check_policies(True)

    def _as_admin(self, service: str) -> Any:
        self._check_policies(False)
        return boto3.client(
            service,
            endpoint_url=f"http://{LOOPBACK}:{self._port}",
            region_name=self.region,
            aws_access_key_id="admin",
            aws_secret_access_key="admin",
        )

    def _check_policies(self, on: bool) -> None:
        request = urllib.request.Request(
            f"http://{LOOPBACK}:{self._port}/moto-api/reset-auth",
            data=b"0" if on else b"inf",
            headers={"Content-Type": "text/plain"},
            method="POST",
        )
        urllib.request.urlopen(request, timeout=30).read()

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            self._check_policies(True)
        except OSError:
            return False
        return True
