"""The record that CI measures for a pull request, as a file from an untrusted source.

The measuring job runs the pull request's own code and has no write permission. The commenting job has write permission
and runs none of that code. This record is all that passes between them: numbers, names from a restricted alphabet, and
short texts that the comment shows as code. The reader computes everything else from the numbers, including the verdict.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from toprung.analysis.seeds import values_by_seed
from toprung.errors import UserError
from toprung.records import ledger
from toprung.records.lineage import read_lineage
from toprung.records.ranking import format_config, is_better, rank_trials
from toprung.records.sweep_dir import SweepDirectory
from toprung.records.trial_record import Status, TrialRecord
from toprung.spec import Sweep

MAX_BYTES = 1_000_000
ROWS_SHOWN = 10
MAX_POINTS = 60

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,99}$")]
Commit = Annotated[str, Field(pattern=r"^[0-9a-f]{7,64}$")]
Text = Annotated[str, Field(max_length=400)]
Seed = Annotated[int, Field(ge=0)]
M = TypeVar("M", bound=BaseModel)


class _RecordModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Seeds(_RecordModel):
    """One configuration trained with several seeds; the value is None if the training failed.

    If the configuration could not be trained at all, `values` is empty and `problem` says why.
    """

    recipe: Name
    metric: Name
    mode: Literal["max", "min"]
    commit: Commit | None = None
    values: dict[Seed, float | None] = Field(default_factory=dict, max_length=1000)
    problem: Text | None = None

    @model_validator(mode="after")
    def _values_or_a_problem(self) -> Self:
        if bool(self.values) == (self.problem is not None):
            raise ValueError("give either values or a problem")
        return self


class Row(_RecordModel):
    """One trial in the ranked table."""

    number: int = Field(ge=0)
    value: float
    epoch: int = Field(ge=0)
    ended: Text
    config: Text
    is_default: bool


class Record(_RecordModel):
    """A sweep and the seeds of both sides; `base` is None if there is nothing to compare with."""

    sweep_id: Name
    recipe: Name | None
    metric: Name
    mode: Literal["max", "min"]
    seconds: float | None = Field(ge=0)
    statuses: dict[Status, int]
    num_epochs: int = Field(ge=0)
    rows: tuple[Row, ...] = Field(max_length=ROWS_SHOWN)
    best_so_far: tuple[tuple[Seed, float], ...] = Field(max_length=MAX_POINTS)
    ours: Seeds | None = None
    base: Seeds | None = None


def measure(sweep_dir: SweepDirectory, *, ours: Seeds | None, base: Seeds | None) -> Record:
    """Build the record of a sweep.

    Args:
        sweep_dir: the directory of the mini-sweep.
        ours: the seeds of the change.
        base: the seeds of the base.

    Raises:
        UserError: the sweep cannot be read, it has a name that a comment cannot show, or the recipes or metrics of the
            two sides differ.
    """
    if ours and base and (ours.recipe, ours.metric, ours.mode) != (base.recipe, base.metric, base.mode):
        raise UserError(
            f"{ours.recipe} ({ours.metric}, {ours.mode}) cannot be compared with {base.recipe} "
            f"({base.metric}, {base.mode}): use a base of the same recipe."
        )
    sweep, trials = sweep_dir.spec(), ledger.read(sweep_dir)
    status = sweep_dir.read_status()
    statuses: dict[Status, int] = {}
    for trial in trials:
        statuses[trial.status] = statuses.get(trial.status, 0) + 1
    rows = [
        Row(
            number=trial.number,
            value=float(trial.value or 0),
            epoch=trial.epoch or 0,
            ended=trial.status + (f" at rung {trial.rung}" if trial.rung is not None else ""),
            config=format_config(trial.config)[:400],
            is_default=trial.is_default,
        )
        for trial in rank_trials(trials, mode=sweep.mode)[:ROWS_SHOWN]
    ]
    return _validated(
        sweep_dir,
        Record,
        sweep_id=sweep_dir.sweep_id,
        recipe=sweep_dir.read(sweep_dir.spec_file).get("recipe"),
        metric=sweep.metric,
        mode=sweep.mode,
        seconds=status.get("seconds"),
        statuses=statuses,
        num_epochs=sum(trial.epochs for trial in trials),
        rows=tuple(rows),
        best_so_far=_best_so_far(trials, sweep),
        ours=ours,
        base=base,
    )


def _best_so_far(trials: list[TrialRecord], sweep: Sweep) -> tuple[tuple[int, float], ...]:
    """Return the best value after each epoch of any trial, thinned evenly to at most `MAX_POINTS` points."""
    reports = [epoch for trial in trials if trial.status != "failed" for epoch in trial.epochs_by_number.values()]
    best, points = None, []
    for count, epoch in enumerate(sorted(reports, key=lambda report: report.time_ms), start=1):
        if is_better(epoch.metrics[sweep.metric], best, sweep=sweep):
            best = epoch.metrics[sweep.metric]
        if best is not None:
            points.append((count, best))
    indices = np.linspace(0, len(points) - 1, min(MAX_POINTS, len(points))).round().astype(int).tolist()
    return tuple(points[index] for index in indices)


def read_sweep_seeds(sweep_dir: SweepDirectory) -> Seeds:
    """Read the seeds of a controlled experiment with one configuration, such as `tune.smoke:seeds`.

    Raises:
        UserError: it is another kind of sweep, or it has a name that a comment cannot show.
    """
    sweep = sweep_dir.spec()
    if len(sweep.experiments) != 1:
        raise UserError(
            f"{sweep_dir.sweep_id} does not train one configuration with several seeds, as tune.smoke:seeds does."
        )
    (name,) = (experiment.name for experiment in sweep.experiments)
    values = values_by_seed(ledger.read(sweep_dir)).get(name, {})
    lineage = read_lineage(sweep_dir)
    return _validated(
        sweep_dir,
        Seeds,
        recipe=sweep_dir.read(sweep_dir.spec_file).get("recipe") or sweep.name,
        metric=sweep.metric,
        mode=sweep.mode,
        commit=lineage.commit,
        values={seed: values.get(seed) for seed in sweep.seeds},
    )


def read_record(file: Path) -> Record:
    """Read a record from an untrusted file.

    Raises:
        UserError: the file cannot be read, is too large, or is not a record.
    """
    return _read(file, Record, kind="record of toprung ci-report")


def read_seeds(file: Path) -> Seeds:
    """Read the file that `toprung ci-base` wrote.

    Raises:
        UserError: the file cannot be read, is too large, or has other contents.
    """
    return _read(file, Seeds, kind="file of toprung ci-base")


def _read(file: Path, model: type[M], *, kind: str) -> M:
    try:
        if file.stat().st_size > MAX_BYTES:
            raise UserError(f"{file} has {file.stat().st_size} bytes: a {kind} has at most {MAX_BYTES}.")
        return model.model_validate_json(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}.") from None
    except ValidationError as error:
        raise UserError(f"{file} is not a {kind}: {_first(error)}.") from None


def _validated(sweep_dir: SweepDirectory, model: type[M], **values: object) -> M:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{sweep_dir.sweep_id} cannot be shown in a comment: {_first(error)}.") from None


def _first(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    field = ".".join(map(str, first["loc"])) or "the file"
    return f"{field}: {first['msg'].removeprefix('Value error, ')}"
