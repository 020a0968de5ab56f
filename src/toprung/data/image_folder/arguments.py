"""Convert folder settings to the arguments of `python -m toprung.data.prepare` in a DVC stage's command, and back."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from toprung.data.image_folder.settings import FolderSettings
from toprung.errors import UserError

MODULE = "toprung.data.prepare"


def stage_command(name: str, settings: FolderSettings, *, folder: Path, out: Path) -> list[str]:
    """Return the command that prepares a folder of images; settings with their default values are left out."""
    arguments: list[str] = []
    for field, info in FolderSettings.model_fields.items():
        value = getattr(settings, field)
        if value != info.default:
            arguments.append(_option(field) if value is True else f"{_option(field)}={_text(field, value)}")
    return [
        *("python", "-P", "-m", MODULE, name, "--image-folder", folder.as_posix()), *arguments, "--out", out.as_posix(),
    ]  # fmt: skip


def settings_of_command(command: Sequence[str], *, name: str) -> FolderSettings:
    """Return the settings in a stage's command.

    Raises:
        UserError: the command does not prepare a folder of images, or its settings cannot be read.
    """
    if MODULE not in command or "--image-folder" not in command:
        raise UserError(f"{name} is not a folder of images that was added. Type: toprung data add NAME FOLDER")
    parser = _Parser(add_help=False)
    add_options(parser)
    return settings_of(parser.parse_known_args(command[list(command).index(MODULE) + 1 :])[0])


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add one option per setting to a parser."""
    for field, info in FolderSettings.model_fields.items():
        if info.default is False:
            parser.add_argument(_option(field), action="store_true", default=None, help=info.description)
        else:
            parser.add_argument(_option(field), help=info.description)


def settings_of(arguments: argparse.Namespace) -> FolderSettings:
    """Return the settings in parsed arguments.

    Raises:
        UserError: a setting is out of range.
    """
    values: dict[str, Any] = {
        field: value for field in FolderSettings.model_fields if (value := getattr(arguments, field)) is not None
    }
    if "size" in values:
        values["size"] = parse_size(values["size"])
    if "augmentations" in values:
        values["augmentations"] = tuple(filter(None, values["augmentations"].split(",")))
    return FolderSettings.checked(**values)


def parse_size(text: str) -> tuple[int, int]:
    """Parse `"32"` as (32, 32), and `"32x48"` as height 32 and width 48.

    Raises:
        UserError: the text has neither form.
    """
    match = re.fullmatch(r"([0-9]{1,4})(?:x([0-9]{1,4}))?", text)
    if not match:
        raise UserError(f'size is "{text}"; give a side such as 32, or height x width such as 32x48.')
    return int(match[1]), int(match[2] or match[1])


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _text(field: str, value: Any) -> str:
    return {"size": "x", "augmentations": ","}[field].join(map(str, value)) if isinstance(value, tuple) else str(value)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"The stage's command cannot be read: {message}.")
