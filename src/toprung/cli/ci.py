"""The verbs that continuous integration uses on a pull request: ci-base, ci-report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from toprung import atomic_write
from toprung.cli.options import Storage, short_path, storage_root
from toprung.errors import UserError

ci_app = typer.Typer()

RECORD, COMMENT = "record.json", "comment.md"


@ci_app.command("ci-base")
def ci_base(
    recipe: Annotated[str, typer.Argument(help="One configuration with several seeds, such as tune.smoke:seeds.")],
    commit: Annotated[str, typer.Option(help="Whose code is trained; by default the one before this.")] = "HEAD^1",
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the values go.")] = Path("build/base.json"),
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="Override a field; may be given again.")
    ] = None,
) -> None:
    """Train a recipe with the code of another commit: the base that ci-report compares with."""
    from toprung.overrides import apply_overrides
    from toprung.project.modules import activate, find_project, load_recipe
    from toprung.sweep.base_commit import train_base

    project = find_project(Path.cwd())
    activate(project)
    sweep = apply_overrides(load_recipe(project, recipe), settings or [])
    if len(sweep.experiments) != 1:
        raise UserError(f"{recipe} is not one configuration with several seeds, as tune.smoke:seeds is.")
    seeds = train_base(project, recipe, sweep, commit=commit, settings=settings or [])
    _write(out, seeds.model_dump_json(indent=2))
    if seeds.problem is None:
        print(f"{recipe} at {commit}: {len(seeds.values)} seeds, in {short_path(out)}")
    else:
        print(f"{recipe} at {commit} could not be trained, which {short_path(out)} says: {seeds.problem}")


@ci_app.command("ci-report")
def ci_report(
    sweep_name: Annotated[
        str | None, typer.Argument(metavar="[SWEEP]", help="The mini-sweep, by its id or name.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(metavar="SWEEP", help="This code's sweep of several seeds.")] = None,
    base: Annotated[Path | None, typer.Option(metavar="FILE", help="What ci-base wrote.")] = None,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the comment of this record; nothing is judged.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where record and comment go.")] = Path("build/ci-report"),
    summary: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append the comment here: $GITHUB_STEP_SUMMARY.")
    ] = None,
    run_url: Annotated[str | None, typer.Option(metavar="URL", help="Of the run that keeps the report.")] = None,
    level: Annotated[float, typer.Option(min=0.0001, max=0.2, help="Below this p-value a loss is significant.")] = 0.01,
    storage: Storage = "runs",
) -> None:
    """Tell a pull request of its mini-sweep, in Markdown; exit code 1 where it is significantly worse than the base."""
    from toprung.analysis.pull_request import comment, measure, read_record, read_seeds, read_sweep_seeds, run_rank_test
    from toprung.records import catalog

    if (sweep_name is None) == (record is None):
        raise UserError("Say what it is about: toprung ci-report SWEEP, or toprung ci-report --record FILE")
    if record is not None:
        measured = read_record(record)
    else:
        root = storage_root(storage)
        sweep_dir = catalog.find_sweep(root, str(sweep_name))
        ours = read_sweep_seeds(catalog.find_sweep(root, seeds)) if seeds else None
        measured = measure(sweep_dir, ours=ours, base=read_seeds(base) if base else None)
        _write(out / RECORD, measured.model_dump_json(indent=2))
    text = comment(measured, level=level, run_url=run_url)
    _write(out / COMMENT, text)
    if summary is not None:
        _append(summary, text)
    test = run_rank_test(measured, level=level)
    print(f"{'Not compared' if test is None else test.verdict.capitalize()}. {short_path(out / COMMENT)}")
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
        with file.open("a", encoding="utf-8") as end:
            end.write(text)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror or error}.") from None
