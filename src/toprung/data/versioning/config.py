"""Read DVC's settings of a project from its two files, without importing DVC.

`.dvc/config` goes into git and lists the remotes; `.dvc/config.local` stays on this machine and has the secret options.
DVC's settings of the machine and of the user (`dvc config --global`) are not read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from toprung.data.remotes.credentials import SECRET_OPTIONS
from toprung.errors import UserError
from toprung.secrets import has_password, mask_text

SHARED, LOCAL = ".dvc/config", ".dvc/config.local"
KINDS = {"gs": "Google Cloud Storage", "gdrive": "Google Drive", "s3": "S3", "ssh": "SSH", "local": "a local folder"}
EXTRAS = ("gs", "gdrive", "s3", "ssh")  # pip install "toprung[gs]"


@dataclass(frozen=True)
class Remote:
    """A storage that data is pushed to and pulled from; `str` gives its name and address without secrets."""

    name: str
    url: str
    is_default: bool
    options: dict[str, str] = field(repr=False)

    @property
    def kind(self) -> str:
        """One of `KINDS`, or the address's scheme if it is of another kind that DVC knows."""
        scheme = urlsplit(self.url).scheme
        return scheme if len(scheme) > 1 else "local"  # C:\data is a folder

    @property
    def key_file(self) -> Path | None:
        """The path of the service account's JSON key in DVC's settings, if any."""
        option = {"gs": "credentialpath", "gdrive": "gdrive_service_account_json_file_path"}.get(self.kind)
        return Path(self.options[option]) if option in self.options else None

    def __str__(self) -> str:
        return f'Remote "{self.name}" ({mask_text(self.url)})'


def read_remotes(project: Path) -> list[Remote]:
    """Return the project's remotes, in the order in which they were added.

    Raises:
        UserError: a settings file cannot be read, or the one that goes into git contains a secret.
    """
    shared, local = _read(project / SHARED), _read(project / LOCAL)
    sections: dict[str, dict[str, str]] = {}
    for settings in (shared, local):
        for title, section in settings.items():
            if title.startswith('remote "') and title.endswith('"'):
                sections.setdefault(title[len('remote "') : -1], {}).update(section)
    _check_no_secrets(shared)
    default = {**shared.get("core", {}), **local.get("core", {})}.get("remote")
    remotes = []
    for name, options in sections.items():
        url = options.pop("url", "")
        if "://" not in url:  # a folder, relative to the settings file
            url = str((project / ".dvc" / url).resolve())
        remotes.append(Remote(name, url, name == default, options))
    return remotes


def find_remote(name: str | None, *, project: Path) -> Remote:
    """Return the remote of that name, or the default remote.

    Raises:
        UserError: there is none; the message lists the existing remotes.
    """
    remotes = read_remotes(project)
    known = ", ".join(remote.name for remote in remotes)
    for remote in remotes:
        if remote.name == (name or "").lower() or (name is None and remote.is_default):
            return remote
    if not remotes:
        raise UserError("The project has no remote yet. Type: toprung data remote add NAME URL")
    if name is None:
        raise UserError(f"There is no default remote. Name one ({known}): --remote NAME")
    raise UserError(f'There is no remote "{name}". Known remotes: {known}.')


def cached_files(md5s: Iterable[str], *, project: Path) -> list[Path]:
    """Return the paths that files with these md5 hashes have in DVC's cache on this machine.

    Raises:
        UserError: a settings file cannot be read.
    """
    settings = {**_read(project / SHARED).get("cache", {}), **_read(project / LOCAL).get("cache", {})}
    folder = project / ".dvc" / settings.get("dir", "cache") / "files" / "md5"
    return [folder / md5[:2] / md5[2:] for md5 in md5s]


def _read(path: Path) -> dict[str, dict[str, str]]:
    from configobj import ConfigObj, ConfigObjError

    if not path.is_file():
        return {}
    try:
        read = ConfigObj(str(path), encoding="utf-8", interpolation=False)  # parses quotes and lists as DVC does
    except (ConfigObjError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None
    return {
        title: {name: ", ".join(value) if isinstance(value, list) else value for name, value in section.items()}
        for title, section in read.items()
        if isinstance(section, dict)
    }


def _check_no_secrets(shared: dict[str, dict[str, str]]) -> None:
    for title, section in shared.items():
        name = title.removeprefix("remote ").strip('"')
        for option, value in section.items():
            if option in SECRET_OPTIONS or (option != "url" and has_password(value)):
                raise UserError(
                    f"{SHARED}, which is committed to git, contains the {option} of remote {name}. Revoke that secret "
                    f"where it was issued, and type: dvc remote modify --unset {name} {option}"
                )
        url = section.get("url", "")
        if urlsplit(url).password or has_password(url):
            raise UserError(
                f"{SHARED}, which is committed to git, contains a password in the address of remote {name}. Change "
                f"that password, and type: dvc remote modify {name} url ADDRESS-WITHOUT-IT"
            )
