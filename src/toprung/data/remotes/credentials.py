"""Keys and secrets: where a key may lie, and who may read it."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

from toprung.errors import UserError

GOOGLE_KEY = "GOOGLE_APPLICATION_CREDENTIALS"
SECRET_OPTIONS = frozenset(
    {
        "access_key_id", "account_key", "connection_string", "credentialpath", "custom_auth_header",
        "gdrive_client_secret", "gdrive_service_account_json_file_path", "gdrive_user_credentials_file", "keyfile",
        "oss_key_id", "oss_key_secret", "passphrase", "password", "sas_token", "secret_access_key", "session_token",
        "sse_customer_key", "token",
    }
)  # fmt: skip


def google_key_from_environment() -> Path | None:
    """The service account's key that `GOOGLE_APPLICATION_CREDENTIALS` names."""
    path = os.environ.get(GOOGLE_KEY)
    return Path(path).expanduser() if path else None


def check_key(path: Path, *, project: Path, is_google: bool) -> Path:
    """Make sure that a private key is one, lies outside the repository, and is for its owner's eyes only.

    Args:
        path: of the key.
        project: the workbench's root; the git repository around it counts as a whole.
        is_google: whether it must be the JSON key of a Google account.

    Returns:
        its absolute path, links followed.

    Raises:
        UserError: with the reason and the remedy.
    """
    key = path.expanduser().resolve()
    if not key.is_file():
        raise UserError(f"There is no key {path}. Give the file that you downloaded: --key FILE, or {GOOGLE_KEY}=FILE")
    repository = find_repository(project)
    for resolved in (path.expanduser().absolute(), key):
        if resolved.is_relative_to(repository):
            raise UserError(
                f"The key {path} lies inside the repository {repository}: one `git add` away from the public. "
                f"Move it out: mkdir -p ~/.config/toprung && mv {path} ~/.config/toprung/"
            )
    if os.name == "posix" and (mode := stat.S_IMODE(key.stat().st_mode)) & 0o077:
        raise UserError(f"The key {path} can be read by others (mode {mode:04o}). Type: chmod 600 {path}")
    try:
        content = key.read_text(encoding="utf-8")
        if is_google:
            key_account(json.loads(content))
    except (OSError, ValueError) as error:
        reason = "it is no JSON" if isinstance(error, json.JSONDecodeError) else error
        raise UserError(f"{path} is no Google key: {reason}. Download one: docs/data-remotes.md") from None
    return key


def key_account(key: object) -> str:
    """The account that a Google key speaks for, as its email address or what stands for one.

    Raises:
        ValueError: it is no key.
    """
    if not isinstance(key, dict) or not isinstance(key.get("type"), str):
        raise ValueError('it has no "type"')
    if key["type"] != "service_account":
        return str(key.get("client_email") or key["type"])
    for field in ("client_email", "private_key", "token_uri"):
        if not isinstance(key.get(field), str):
            raise ValueError(f'it has no "{field}"')
    return str(key["client_email"])


def find_repository(project: Path) -> Path:
    """The git repository that the project lies in; the project itself where there is none."""
    root = project.resolve()
    return next((folder for folder in (root, *root.parents) if (folder / ".git").exists()), root)
