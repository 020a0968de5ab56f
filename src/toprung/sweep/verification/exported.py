"""Check an exported model alone, without its sweep: its files, and its score on the data of the current project."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from toprung import data
from toprung.errors import UserError
from toprung.exported_config import METRICS_FILE, read_description, read_json
from toprung.records.lineage import Lineage
from toprung.records.sweep_dir import LINEAGE_FILE
from toprung.spec import Data
from toprung.sweep.verification.environment import check_environment
from toprung.sweep.verification.fact import Fact
from toprung.sweep.verification.inputs import check_inputs
from toprung.sweep.verification.model import check_score, checksum_problems


class _Scoring(BaseModel):
    """How the exported model was scored, from `toprung.export.bundle.scoring_settings`."""

    model_config = ConfigDict(extra="forbid")

    data: Data
    num_threads: int | None
    metrics: tuple[str, ...]
    num_repeats: int
    split_index: int | None
    use_gpu: bool = True  # exports of earlier versions do not say it
    part: Literal["seen"] | None = None


class _Exported(BaseModel):
    """The part of config.json that is needed here."""

    sha256: dict[str, str] = Field(min_length=1)
    scoring: _Scoring


class _Metrics(BaseModel):
    """The part of metrics.json that is needed here: of a trial, or of a model that was refit on all images."""

    verified: dict[str, float] = {}
    verified_on: str | None = None
    seen: dict[str, float] = {}


def check_exported(folder: Path, *, project: Path) -> Iterator[Fact]:
    """Compare an exported model with its own records, and with the data and libraries of a project.

    Args:
        folder: the exported folder.
        project: the project whose data are used.

    Raises:
        UserError: the folder has no readable config.json, metrics.json and lineage.json.
    """
    try:
        exported = _Exported.model_validate(read_description(folder))
        metrics = _Metrics.model_validate(read_json(folder / METRICS_FILE))
        lineage = Lineage.model_validate(read_json(folder / LINEAGE_FILE))
    except ValidationError as error:
        names = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise UserError(
            f"{folder} does not say how to verify its model ({names}). Export it again: toprung export SWEEP"
        ) from None
    problems = list(checksum_problems(folder, exported.sha256))
    for problem in problems:
        yield Fact("model", "changed", problem)
    if not problems:
        yield Fact("model", "ok", f"{', '.join(exported.sha256)}: every byte as exported")
    scoring = exported.scoring
    yield from check_inputs(lineage, project=project, settings=scoring.data, num_repeats=scoring.num_repeats)
    yield from check_environment(project, lineage)
    if not problems:
        was = metrics.verified or {f"val/{name}": value for name, value in metrics.seen.items()}
        settings = scoring.model_dump(mode="json", exclude_none=True)
        yield check_score(
            folder, settings, was, was_on=metrics.verified_on, prepared_root=project / data.PREPARED, code=project
        )
