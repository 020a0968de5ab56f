"""Folder settings as arguments of `python -m toprung.data.prepare`, and back: a stage's command holds them."""

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
    """The command that prepares a folder of images; settings at their defaults are left out."""
    arguments: list[str] = []
    for field, about in FolderSettings.model_fields.items():
        value = getattr(settings, field)
        if value != about.default:
            arguments.append(_option(field) if value is True else f"{_option(field)}={_text(field, value)}")
    return [
        *("python", "-P", "-m", MODULE, name, "--image-folder", folder.as_posix()), *arguments, "--out", out.as_posix(),
    ]  # fmt: skip


def settings_of_command(command: Sequence[str], *, name: str) -> FolderSettings:
    """The settings in a stage's command.

    Raises:
        UserError: the command prepares no folder of images, or its settings cannot be read.
    """
    if MODULE not in command or "--image-folder" not in command:
        raise UserError(f"{name} is no folder of images that was added: toprung data add NAME FOLDER")
    parser = _Parser(add_help=False)
    add_options(parser)
    return settings_of(parser.parse_known_args(command[list(command).index(MODULE) + 1 :])[0])


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give a parser one option a setting."""
    for field, about in FolderSettings.model_fields.items():
        if about.default is False:
            parser.add_argument(_option(field), action="store_true", default=None, help=about.description)
        else:
            parser.add_argument(_option(field), help=about.description)


def settings_of(given: argparse.Namespace) -> FolderSettings:
    """The settings that were parsed.

    Raises:
        UserError: one is out of range.
    """
    values: dict[str, Any] = {
        field: value for field in FolderSettings.model_fields if (value := getattr(given, field)) is not None
    }
    if "size" in values:
        values["size"] = parse_size(values["size"])
    if "augmentations" in values:
        values["augmentations"] = tuple(filter(None, values["augmentations"].split(",")))
    return FolderSettings.checked(**values)


def parse_size(text: str) -> tuple[int, int]:
    """`"32"` as (32, 32), `"32x48"` as height 32 and width 48.

    Raises:
        UserError: it is neither.
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
