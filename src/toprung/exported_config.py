"""The files of an exported model: their names, reading `config.json`, and checking the others against it.

Without torch, so that `toprung predict` can start without it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toprung.checksums import sha256_of
from toprung.errors import UserError

SAFETENSORS_FILE, PTH_FILE, ONNX_FILE, PT2_FILE = "model.safetensors", "model.pth", "model.onnx", "model.pt2"
CONFIG_FILE, PREPROCESSOR_FILE, LABELS_FILE = "config.json", "preprocessor.json", "labels.json"
METRICS_FILE, REQUIREMENTS_FILE, MODEL_CARD_FILE = "metrics.json", "requirements.txt", "README.md"
BUILDER, TIMM_PREFIX = "toprung.vision:build_model", "timm/"
# Of the key "toprung" in config.json. Increment it when an older toprung would load such a folder wrongly.
FORMAT = 1


def read_description(folder: Path) -> dict[str, Any]:
    """Return toprung's part of config.json: how the model is built, the trial that trained it, and each file's sha256.

    Raises:
        UserError: it is missing or damaged, or written by a newer or an older version of toprung.
    """
    file = folder / CONFIG_FILE
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        if "trainer" in config and "toprung" not in config:
            raise UserError(
                f"{folder} was exported by an older version of toprung, whose format this version does not read. "
                "Export the model again: toprung export SWEEP"
            )
        description: dict[str, Any] = config["toprung"]
        found = description["format"]
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} is not an exported model: it has no {CONFIG_FILE}.") from None
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{file} does not say how to build the model: {error!r}.") from None
    check_format(found, FORMAT, folder=folder)
    return description


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON file of an exported model.

    Raises:
        UserError: it is missing, unreadable or not a JSON object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file.parent} is not an exported model: it has no {file.name}.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{file} is not a JSON object.")
    return content


def is_timm_model(description: Mapping[str, Any]) -> bool:
    """Return whether a description is that of a network of timm, built by `build_model`."""
    return description["builder"] == BUILDER and str(description["arguments"].get("name")).startswith(TIMM_PREFIX)


def check_format(found: Any, supported: int, *, folder: Path) -> None:
    """Check the format of one of an exported model's files.

    Raises:
        UserError: the format is newer than the supported one.
    """
    if not isinstance(found, int) or found > supported:
        raise UserError(
            f"{folder} is from a newer version of toprung: its format is {found}, this version reads up to "
            f"{supported}. Upgrade toprung."
        )


def check_unchanged(file: Path, description: Mapping[str, Any]) -> None:
    """Check that a file with a model exists and is the one that was exported.

    Raises:
        UserError: it is missing, or its sha256 is not that in config.json.
    """
    if not file.is_file():
        raise UserError(f"{file.parent} is not an exported model: it has no {file.name}.")
    expected = description.get("sha256", {}).get(file.name)
    if expected is not None and (sha256 := sha256_of(file)) != expected:
        raise UserError(
            f"{file} was changed since the export: its sha256 begins with {sha256[:12]}, {CONFIG_FILE} says "
            f"{expected[:12]}. Export the model again, or get the original file."
        )
