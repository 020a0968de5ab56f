"""Explain in one line why a remote refused: which permission is missing, and what to type."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from toprung.data.remotes.credentials import GOOGLE_KEY, google_key_from_environment, key_account
from toprung.data.versioning.config import EXTRAS, KINDS, Remote
from toprung.secrets import mask_text

GUIDE = "docs/data-remotes.md"

# The permission that each step needs, by the provider's name.
PERMISSIONS = {
    "gs": {
        "list": "storage.objects.list",
        "write": "storage.objects.create",
        "read": "storage.objects.get",
        "delete": "storage.objects.delete",
    },
    "s3": {"list": "s3:ListBucket", "write": "s3:PutObject", "read": "s3:GetObject", "delete": "s3:DeleteObject"},
    "gdrive": {"list": "Viewer", "write": "Contributor", "read": "Viewer", "delete": "Content manager"},
    "ssh": {"list": "r-x on the folder", "write": "-wx on the folder", "read": "r on its files", "delete": "-wx on it"},
    "local": {"list": "r-x on the folder", "write": "-wx on it", "read": "r on its files", "delete": "-wx on it"},
}


def permission(remote: Remote, step: str) -> str:
    """Return the permission that a step needs."""
    return PERMISSIONS.get(remote.kind, {}).get(step, step)


def active_key(remote: Remote) -> Path | None:
    """Return the Google key that DVC will use: from its settings, else from the environment."""
    if remote.kind not in ("gs", "gdrive") or remote.options.get("allow_anonymous_login") == "true":
        return None
    return remote.key_file or google_key_from_environment()


def explain(remote: Remote, problem: dict[str, str], *, steps: Sequence[str] = ("list",)) -> str:
    """Return one line: the remote, its message, what to do; `steps` are the refused steps."""
    reason, message = problem["reason"], mask_text(problem["message"], values=_secrets(remote)).rstrip(".")
    what, todo = _REASONS.get(reason, ("cannot be used: {message}", f"See {GUIDE}"))
    if reason == "denied":
        what, todo = _denied(remote, steps), _grant(remote, steps)
    if reason == "missing" and remote.kind in ("gs", "s3"):
        what, todo = _REASONS["no_bucket"]
    parts = _parts(remote) | {"message": message}
    return f"{remote} {what.format(**parts)}. {_todo(remote, reason, todo).format(**parts)}"


def _denied(remote: Remote, steps: Sequence[str]) -> str:
    """Return which permissions the account lacks."""
    missing = " and ".join(dict.fromkeys(permission(remote, step) for step in steps))
    return f"does not let {{account}} {' or '.join(steps)}: {missing} is missing"


def _grant(remote: Remote, steps: Sequence[str]) -> str:
    """Return what to type to grant the permissions."""
    if remote.kind == "gs":
        role = "roles/storage.objectUser" if {"write", "delete"} & set(steps) else "roles/storage.objectViewer"
        return (
            "Type: gcloud storage buckets add-iam-policy-binding gs://{bucket} "
            f"--member=serviceAccount:{{account}} --role={role}"
        )
    if remote.kind == "s3":
        on = "arn:aws:s3:::{bucket}" if list(steps) == ["list"] else "arn:aws:s3:::{bucket}/*"
        return f"Allow it on {on} in the policy of the key's user or role ({GUIDE})"
    if remote.kind == "gdrive":
        return "In Google Drive share that folder, or its shared drive, with {account} as Content manager"
    if remote.kind == "ssh":
        return "Type: ssh {host} ls -ld {path}   and give yourself the folder with chown or chmod"
    return "Type: ls -ld {path}   and give yourself the folder with chown or chmod"


_REASONS = {
    "package": ("needs a package that is not installed ({message})", 'Type: pip install "toprung[{extra}]"'),
    "quota": ("has no space left: {message}", "Free some space there, or add another remote: toprung data remote add"),
    "rate": ("limits the request rate: {message}", "Try again in a few minutes"),
    "no_key": (
        "has no credentials",
        f"Set {GOOGLE_KEY} to the service account's JSON key, see {GUIDE}",
    ),
    "no_bucket": ("is in a bucket that does not exist: {bucket}", "Correct the address, or create the bucket: {make}"),
    "key": ("rejects the key of {account}: {message}", f"Create a new key: {GUIDE}"),
    "host_key": (
        "has another host key than the known one: {message}",
        "Ask the administrator of {server} before you continue",
    ),
    "unreachable": ("cannot be reached: {message}", "Check the network, then try again: transferred files are kept"),
    "missing": ("has no folder {path}", "Correct the address, or create the folder: {make}"),
    "silent": ("does not respond: {message}", "Check the network, then try again: transferred files are kept"),
}


def _todo(remote: Remote, reason: str, todo: str) -> str:
    if remote.kind == "gdrive" and reason == "quota":
        return f"A service account has no storage quota: use a shared drive, or better a bucket (gs://), see {GUIDE}"
    if remote.kind == "gdrive" and reason == "missing":
        return (
            "Correct the address, or create the folder in Google Drive and share it with {account} as Content manager"
        )
    if remote.kind == "s3" and reason in ("no_key", "key"):
        return "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile of ~/.aws: docs/data-remotes.md"
    if remote.kind == "ssh" and reason == "key":
        return "Check: ssh {host} true   and that {server} has your public key in ~/.ssh/authorized_keys"
    return todo


def _parts(remote: Remote) -> dict[str, str]:
    """Return the values for the placeholders in the messages."""
    address = urlsplit(remote.url)
    bucket, path = address.hostname or "", address.path if remote.kind != "local" else remote.url
    user = remote.options.get("user") or address.username
    host = f"{user}@{address.hostname}" if user else str(address.hostname)
    if port := remote.options.get("port") or address.port:
        host = f"-p {port} {host}"
    make = {
        "gs": f"gcloud storage buckets create gs://{bucket}",
        "s3": f"aws s3 mb s3://{bucket}",
        "ssh": f"ssh {host} mkdir -p {path}",
    }.get(remote.kind, f"mkdir -p {path}")
    return {
        "account": _account(remote, host),
        "bucket": bucket,
        "extra": remote.kind if remote.kind in EXTRAS else "all",
        "host": host,
        "make": make,
        "server": str(address.hostname),
        "path": f"{bucket}{path}" if remote.kind == "gdrive" else path,
    }


def _account(remote: Remote, host: str) -> str:
    if remote.kind == "ssh":
        return host.rpartition(" ")[2]
    if remote.kind in ("gs", "gdrive") and (key := active_key(remote)):
        try:
            return key_account(json.loads(key.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return str(key)
    return {"s3": "this AWS key", "local": "you"}.get(remote.kind, f"you ({KINDS.get(remote.kind, remote.kind)})")


def _secrets(remote: Remote) -> list[str]:
    """Return the secret values in DVC's settings, which no message may show; paths of keys are not secret."""
    return [
        remote.options[option]
        for option in ("access_key_id", "secret_access_key", "session_token", "password", "passphrase")
        if option in remote.options
    ]
