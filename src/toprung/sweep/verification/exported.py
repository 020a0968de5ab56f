"""Check an exported model alone, without its sweep: its files, and its score on the data of the current project."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

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


def check_exported(folder: Path, *, project: Path) -> Iterator[Fact]:
    """Compare an exported model with its own records, and with the data and libraries of a project.

    Args:
        folder: the exported folder.
        project: the project whose data are used.

    Raises:
        UserError: the folder has no readable config.json, metrics.json and lineage.json.
    """
    description = read_description(folder)
    try:
        metrics = read_json(folder / METRICS_FILE)
        lineage = Lineage.model_validate(read_json(folder / LINEAGE_FILE))
        scoring = description["scoring"]
        settings = Data.model_validate(scoring["data"])
    except (KeyError, TypeError, ValidationError) as error:
        raise UserError(
            f"{folder} does not say how to score its model: {str(error).splitlines()[0]}. Export it again: toprung "
            "export SWEEP"
        ) from None
    problems = list(checksum_problems(folder, description))
    for problem in problems:
        yield Fact("model", "changed", problem)
    if not problems:
        yield Fact("model", "ok", f"{', '.join(description['sha256'])}: every byte as exported")
    yield from check_inputs(lineage, project=project, settings=settings, num_repeats=scoring["num_repeats"])
    yield from check_environment(project, lineage)
    if not problems:
        yield check_score(
            folder, scoring, metrics.get("verified", {}), prepared_root=project / data.PREPARED, code=project
        )
