"""Add a remote: a local folder, Google Cloud Storage, Google Drive, S3 or SSH.

Public settings go into `.dvc/config` (and so into git), paths of keys into `.dvc/config.local`; the keys themselves are
not copied. See also `check` (can the remote be used?) and `transfer` (push, pull, status).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from toprung.data.remotes.credentials import (
    GOOGLE_KEY,
    SECRET_OPTIONS,
    check_key,
    google_key_from_environment,
)
from toprung.data.remotes.credentials import find_repository as _repository_around
from toprung.data.versioning.config import KINDS, LOCAL, Remote, find_remote, read_remotes
from toprung.data.versioning.dvc_project import check_dvc_repository, run_dvc
from toprung.errors import UserError
from toprung.git_command import query_git
from toprung.secrets import has_password, mask_text

KEY_OPTIONS = {"gs": "credentialpath", "gdrive": "gdrive_service_account_json_file_path", "ssh": "keyfile"}


def add_remote(
    name: str,
    url: str,
    *,
    project: Path,
    key: Path | None = None,
    options: Mapping[str, str] | None = None,
    default: bool | None = None,
    here: Path | None = None,
) -> Remote:
    """Add a remote to DVC's settings.

    Args:
        name: lower-case letters, digits, - and _.
        url: `gs://bucket/folder`, `gdrive://folder-id/folder`, `s3://bucket/folder`, `ssh://user@host/folder`, or
            a folder, which is created if it does not exist.
        project: the project's root.
        key: the service account's JSON key, or SSH's private key; its path goes into `.dvc/config.local`. None:
            Google Cloud Storage uses `GOOGLE_APPLICATION_CREDENTIALS`, S3 the AWS variables and profiles, SSH its
            agent and ~/.ssh.
        options: more of DVC's settings for this kind of remote, such as `region`; no secrets.
        default: whether it becomes the default remote; None: if there is no default remote yet.
        here: the folder to which a relative path refers; None: the current folder.

    Raises:
        UserError: the name is taken; the address, an option or the key cannot be used (with the reason).
    """
    check_dvc_repository(project)
    before = read_remotes(project)
    _check_name(name, before)
    options = dict(options or {})
    kind = _check_kind(url, options)
    local = _local_options(kind, key, project=project)
    if kind == "local":
        url = _make_folder(url, project=project, here=here or Path.cwd())
    if kind == "gdrive":
        options.setdefault("gdrive_use_service_account", "true")
        options.setdefault("gdrive_trash_only", "true")  # only a manager of the shared drive may delete permanently
    if local:
        _require_ignored(project)

    as_default = default if default is not None else not any(remote.is_default for remote in before)
    run_dvc("remote", "add", "--quiet", *(["--default"] if as_default else []), name, url, project=project)
    try:
        for option, value in options.items():
            run_dvc("remote", "modify", "--quiet", name, option, value, project=project)
        for option, value in local.items():
            run_dvc("remote", "modify", "--quiet", "--local", name, option, value, project=project)
            (project / LOCAL).chmod(0o600)
    except BaseException:
        run_dvc("remote", "remove", "--quiet", name, project=project)
        raise
    return find_remote(name, project=project)


def _check_name(name: str, before: list[Remote]) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise UserError(f'A remote cannot be called "{name}": use lower-case letters, digits, - and _.')
    for remote in before:
        if remote.name == name:
            raise UserError(f"{remote} already exists. Give another name, or type: dvc remote remove {name}")


def _check_kind(url: str, options: Mapping[str, str]) -> str:
    """Check an address and its options, and return the kind of the remote."""
    address = urlsplit(url)
    kind = address.scheme if "://" in url else "local"
    if kind not in KINDS:
        known = ", ".join(f"{scheme}://" for scheme in KINDS if scheme != "local")
        raise UserError(
            f'"{mask_text(url)}" is not the address of a remote: give a folder, or an address that begins with {known}.'
        )
    if address.password or has_password(url):
        raise UserError(f'"{mask_text(url)}" contains a password: leave it out; {_how_to_log_in(kind)}.')
    if kind != "local" and not address.hostname:
        raise UserError(f'"{url}" has no {"host" if kind == "ssh" else "bucket or folder"} after {kind}://.')
    if kind == "ssh" and address.path in ("", "/"):
        raise UserError(f'"{url}" has no folder: give ssh://user@host/path/of/a/folder.')
    for option, value in options.items():
        if option in SECRET_OPTIONS or has_password(value):
            raise UserError(
                f"{option} is a secret, but --set writes to a file that is committed to git: {_how_to_log_in(kind)}."
            )
    return kind


def _how_to_log_in(kind: str) -> str:
    return {
        "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or --set profile=NAME of ~/.aws",
        "ssh": "log in with a key (--key FILE, or ssh-agent)",
    }.get(kind, f"give the service account's key with --key FILE, or in {GOOGLE_KEY}")


def _local_options(kind: str, key: Path | None, *, project: Path) -> dict[str, str]:
    """Return the settings that stay on this machine."""
    from_environment = google_key_from_environment() if kind in ("gs", "gdrive") else None
    if key is None and from_environment is not None:
        checked = check_key(from_environment, project=project, is_google=True)
        return {} if kind == "gs" else {KEY_OPTIONS[kind]: str(checked)}
    if key is None:
        return {}
    if kind not in KEY_OPTIONS:
        raise UserError(f"--key cannot be used with {KINDS[kind]}: {_how_to_log_in(kind)}.")
    return {KEY_OPTIONS[kind]: str(check_key(key, project=project, is_google=kind != "ssh"))}


def _make_folder(url: str, *, project: Path, here: Path) -> str:
    """Create a local folder, and return its path for DVC: relative to the project if it was given as relative."""
    folder = (here / Path(url).expanduser()).resolve()
    if folder.is_relative_to(_repository_around(project)):
        raise UserError(f"{url} is inside the repository, so it would be committed to git. Give a folder elsewhere.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be created: {error.strerror or error}.") from None
    return str(folder) if Path(url).expanduser().is_absolute() else os.path.relpath(folder, project.resolve())


def _require_ignored(project: Path) -> None:
    """Make sure that git ignores the settings of this machine."""
    if query_git(project, "check-ignore", "--quiet", LOCAL) is None:
        raise UserError(f"git does not ignore {LOCAL}. Type: echo /config.local >> {project / '.dvc/.gitignore'}")
