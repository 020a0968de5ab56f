"""DVC's settings of a project, read from its two files without importing DVC.

`.dvc/config` goes into git and names the remotes; `.dvc/config.local` stays on this machine and holds what is secret.
DVC's settings of the whole machine and of the user (`dvc config --global`) are not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from toprung.data.remotes.credentials import SECRET_OPTIONS
from toprung.errors import UserError
from toprung.secrets import mask_text

SHARED, LOCAL = ".dvc/config", ".dvc/config.local"
KINDS = {"gs": "Google Cloud Storage", "gdrive": "Google Drive", "s3": "S3", "ssh": "SSH", "local": "a local folder"}
EXTRAS = ("gs", "gdrive", "s3", "ssh")  # pip install "toprung[gs]"


@dataclass(frozen=True)
class Remote:
    """A place that data is pushed to and pulled from; `str` gives its name and address without what is secret."""

    name: str
    url: str
    is_default: bool
    options: dict[str, str] = field(repr=False)

    @property
    def kind(self) -> str:
        """One of `KINDS`, or the scheme of its address where it is of another kind that DVC knows."""
        scheme = urlsplit(self.url).scheme
        return scheme if len(scheme) > 1 else "local"  # C:\data is a folder

    @property
    def key_file(self) -> Path | None:
        """The service account's JSON key that DVC's settings name, if any."""
        option = {"gs": "credentialpath", "gdrive": "gdrive_service_account_json_file_path"}.get(self.kind)
        return Path(self.options[option]) if option in self.options else None

    def __str__(self) -> str:
        return f'Remote "{self.name}" ({mask_text(self.url)})'


def read_remotes(project: Path) -> list[Remote]:
    """The project's remotes, in the order in which they were added.

    Raises:
        UserError: a settings file cannot be read, or one that goes into git holds something secret.
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
        if "://" not in url:  # a folder: relative to the settings that name it
            url = str((project / ".dvc" / url).resolve())
        remotes.append(Remote(name, url, name == default, options))
    return remotes


def find_remote(name: str | None, *, project: Path) -> Remote:
    """The remote of that name, or the default one.

    Raises:
        UserError: there is none; the message names those that there are.
    """
    remotes = read_remotes(project)
    known = ", ".join(remote.name for remote in remotes)
    for remote in remotes:
        if remote.name == (name or "").lower() or (name is None and remote.is_default):
            return remote
    if not remotes:
        raise UserError("The project has no remote yet. Type: toprung data remote add NAME URL")
    if name is None:
        raise UserError(f"No remote is the default one. Name one ({known}): --remote NAME")
    raise UserError(f'There is no remote "{name}". There are: {known}.')


def cache_folder(project: Path) -> Path:
    """Where DVC keeps this project's data on this machine.

    Raises:
        UserError: a settings file cannot be read.
    """
    settings = {**_read(project / SHARED).get("cache", {}), **_read(project / LOCAL).get("cache", {})}
    return project / ".dvc" / settings.get("dir", "cache")


def _read(path: Path) -> dict[str, dict[str, str]]:
    from configobj import ConfigObj, ConfigObjError

    if not path.is_file():
        return {}
    try:
        read = ConfigObj(str(path), encoding="utf-8", interpolation=False)  # with quotes and lists, as DVC reads it
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
        for option in section:
            if option in SECRET_OPTIONS:
                raise UserError(
                    f"{SHARED} holds the {option} of remote {name}, and it goes into git: change that secret where it "
                    f"was given out, and type: dvc remote modify --unset {name} {option}"
                )
        if urlsplit(section.get("url", "")).password:
            raise UserError(
                f"{SHARED} holds a password in the address of remote {name}, and it goes into git: change that "
                f"password, and type: dvc remote modify {name} url ADDRESS-WITHOUT-IT"
            )
