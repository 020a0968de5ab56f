"""`toprung verify`: compare a sweep's records and its exported model with what is here now."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toprung.cli.console import open_console, print_check
from toprung.cli.options import Json, Storage, current_project, echo_err, exported_folder, find_sweep, print_json
from toprung.cli.summary import format_seconds
from toprung.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from toprung.sweep.verification import Fact

STATE_WIDTH, NAME_WIDTH = 9, 12

app = typer.Typer()


@app.command(epilog="Example: toprung verify digits-20261123-141200 --retrain")
def verify(
    sweep_name: Annotated[
        str, typer.Argument(metavar="SWEEP|FOLDER", help="Id or name of a sweep, or the folder of an exported model.")
    ],
    retrain: Annotated[
        bool,
        typer.Option(
            "--retrain", help="Train the exported trial again, and compare its epochs and weights bit for bit."
        ),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 also if something has only drifted, such as a library.")
    ] = False,
    as_json: Json = False,
    storage: Storage = "runs",
) -> None:
    """Check that the data, code, libraries and exported model of a sweep are as recorded, and that its score is right.

    For the folder of an exported model, check what can be checked without its sweep.
    """
    from toprung.sweep.verification import is_verified, verdict

    console, started = open_console(), time.monotonic()
    facts: list[Fact] = []

    def show(fact: Fact) -> None:
        facts.append(fact)
        if not as_json:
            print_check(
                console,
                fact.name,
                fact.state,
                fact.observed,
                fact.remedy,
                state_width=STATE_WIDTH,
                name_width=NAME_WIDTH,
            )

    def print_epoch(line: str) -> None:
        console.print(f"  {'':{STATE_WIDTH}} {line}", style="dim")

    subject, checks = _select_checks(
        sweep_name, storage=storage, retrain=retrain, facts=facts, echo=echo_err if as_json else print_epoch
    )
    if not as_json:
        console.print(f"{subject}\n")
    try:
        for fact in checks:
            show(fact)
    except KeyboardInterrupt:
        echo_err("Stopped. Nothing was changed.")
        sys.exit(130)
    passed = is_verified(facts, strict=strict)
    if as_json:
        kind = "folder" if isinstance(subject, Path) else "sweep_id"
        content = {kind: str(subject), "ok": passed, "verdict": verdict(facts)}
        print_json(content | {"facts": [asdict(fact) for fact in facts]})
    else:
        console.print(f"\n{verdict(facts)} Took {format_seconds(time.monotonic() - started)}.")
    sys.exit(0 if passed else 1)


def _select_checks(
    name: str, *, storage: str, retrain: bool, facts: Sequence[Fact], echo: Callable[[str], object]
) -> tuple[str | Path, Iterator[Fact]]:
    """Return what is checked, the id of a sweep or a folder, and the checks.

    Args:
        name: the id or name of a sweep, or a folder.
        storage: where sweeps are stored.
        retrain: whether to train the exported trial again after the other checks.
        facts: the facts so far, when the retraining begins.
        echo: called with a line for each epoch of the retraining.

    Raises:
        UserError: there is no such sweep or folder, or `retrain` was given with a folder.
    """
    from toprung.sweep.verification import check_exported, check_records, check_retrain, read_recorded

    project = current_project()
    if (folder := exported_folder(name)) is not None:
        if retrain:
            raise UserError(f"{name} is an exported model, which has no ledger to compare with. Give its sweep.")
        return folder, check_exported(folder, project=project)
    recorded = read_recorded(project, find_sweep(name, storage))

    def checks() -> Iterator[Fact]:
        yield from check_records(recorded)
        if retrain:
            yield from check_retrain(recorded, tuple(facts), echo=echo)

    return recorded.sweep_dir.sweep_id, checks()
