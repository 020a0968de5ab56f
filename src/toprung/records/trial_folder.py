"""The files in a trial's folder, and the record of why a trial failed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

CONFIG_FILE = "config.json"
FAILURE_FILE = "failure.json"
ATTEMPT_FILE = "attempt.json"  # the node and the code of the process that trains it
TRIAL_LOCK_FILE = ".lock"  # held by that process
LAST_FILE, PREVIOUS_FILE = "last.pth", "previous.pth"  # its last two checkpoints
WEIGHTS_FILE, WEIGHTS_META_FILE = "model.pth", "model.json"  # its best epoch


@dataclass(frozen=True)
class Failure:
    """Why a trial failed: the cause in one line, and whether it lies outside the trial (a full disk, other code)."""

    cause: str
    disk_full: bool
    code_mismatch: bool = False  # its worker imported other code than the sweep's

    @property
    def as_result(self) -> dict[str, Any]:
        """The fields of a result that reports it to Ray Tune; without `/`, which would make them metrics."""
        return {f"failure_{name}": value for name, value in asdict(self).items()}

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Failure | None:
        """Return the failure that a result reports; None if it reports none."""
        if "failure_cause" not in result:
            return None
        return cls(**{field.name: result[f"failure_{field.name}"] for field in fields(cls)})

    @classmethod
    def read(cls, folder: Path) -> Failure | None:
        """Return the record in a trial's folder; None if there is no valid one."""
        try:
            content = json.loads((folder / FAILURE_FILE).read_text(encoding="utf-8"))
            return cls(
                cause=str(content["cause"]),
                disk_full=bool(content["disk_full"]),
                code_mismatch=bool(content.get("code_mismatch", False)),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
