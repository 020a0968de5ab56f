"""`toprung ci-base` and `toprung ci-report`: compare a pull request with its base in continuous integration."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from toprung import atomic_write
from toprung.cli.options import Settings, Storage, current_project, short_path, storage_root
from toprung.errors import UserError, pluralize

app = typer.Typer()

RECORD_FILE, COMMENT_FILE = "record.json", "comment.md"


@app.command("ci-base", epilog="Example: toprung ci-base tune.smoke:seeds --commit HEAD^1")
def ci_base(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="Recipe that trains one configuration with several seeds.")
    ],
    commit: Annotated[str, typer.Option(metavar="COMMIT", help="Commit whose code is trained.")] = "HEAD^1",
    out: Annotated[Path, typer.Option(metavar="FILE", help="File for the results.")] = Path("build/base.json"),
    settings: Settings = None,
) -> None:
    """Train a recipe with the code of another commit, as the base for ci-report."""
    from toprung.overrides import apply_overrides
    from toprung.project.modules import activate, load_recipe
    from toprung.sweep.base_commit import train_base

    project = current_project()
    activate(project)
    sweep = apply_overrides(load_recipe(project, recipe), settings or [])
    if len(sweep.experiments) != 1:
        raise UserError(f"{recipe} does not train one configuration with several seeds, as tune.smoke:seeds does.")
    seeds = train_base(project, recipe, sweep, commit=commit, settings=settings or [])
    _write(out, seeds.model_dump_json(indent=2))
    if seeds.problem is None:
        print(f"{recipe} at {commit}: {pluralize(len(seeds.values), 'seed')}, in {short_path(out)}")
    else:
        print(f"{recipe} at {commit} could not be trained (recorded in {short_path(out)}): {seeds.problem}")


@app.command("ci-report")
def ci_report(
    sweep_name: Annotated[
        str | None, typer.Argument(metavar="SWEEP", help="Id or name of the pull request's mini-sweep.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="SWEEP", help="Sweep that trained this code with several seeds.")
    ] = None,
    base: Annotated[Path | None, typer.Option(metavar="FILE", help="Results of ci-base to compare with.")] = None,
    record: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the comment for this record of an earlier run; always exit with 0."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Write record.json and comment.md to this folder.")] = Path(
        "build/ci-report"
    ),
    summary: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append the comment to this file, such as $GITHUB_STEP_SUMMARY."),
    ] = None,
    run_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Link to the workflow run that has the report.")
    ] = None,
    level: Annotated[
        float, typer.Option(min=0.0001, max=0.2, help="A drop is significant if its p-value is below this.")
    ] = 0.01,
    storage: Storage = "runs",
) -> None:
    """Write a comment on a pull request's mini-sweep; exit with 1 if it is significantly worse than the base."""
    from toprung.analysis.pull_request import comment, measure, read_record, read_seeds, read_sweep_seeds, run_rank_test
    from toprung.records import catalog

    if (sweep_name is None) == (record is None):
        raise UserError("Give a sweep or a record: toprung ci-report SWEEP, or toprung ci-report --record FILE")
    if record is not None:
        measured = read_record(record)
    else:
        root = storage_root(storage)
        sweep_dir = catalog.find_sweep(root, str(sweep_name))
        ours = read_sweep_seeds(catalog.find_sweep(root, seeds)) if seeds else None
        measured = measure(sweep_dir, ours=ours, base=read_seeds(base) if base else None)
        _write(out / RECORD_FILE, measured.model_dump_json(indent=2))
    text = comment(measured, level=level, run_url=run_url)
    _write(out / COMMENT_FILE, text)
    if summary is not None:
        _append(summary, text)
    test = run_rank_test(measured, level=level)
    print(f"{'Not compared' if test is None else test.verdict.capitalize()}. {short_path(out / COMMENT_FILE)}")
    if record is None and test is not None and test.verdict == "worse":
        sys.exit(1)


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write.write_text(file, text)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror or error}.") from None


def _append(file: Path, text: str) -> None:
    try:
        with file.open("a", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror or error}.") from None
