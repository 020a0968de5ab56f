"""`toprung verify`: compare a sweep's records and its exported model with what is here now."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toprung.cli.console import open_console, print_check
from toprung.cli.options import Json, Storage, SweepName, echo_err, print_json, storage_root
from toprung.cli.summary import format_seconds

if TYPE_CHECKING:
    from toprung.sweep.verification import Fact

STATE_WIDTH, NAME_WIDTH = 9, 12

verify_app = typer.Typer()


@verify_app.command(epilog="Example: toprung verify digits-20261123-141200 --retrain")
def verify(
    sweep_name: SweepName,
    retrain: Annotated[
        bool,
        typer.Option(
            "--retrain", help="Train the exported trial again, and compare its epochs and weights bit by bit."
        ),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 also if something has only drifted, such as a library.")
    ] = False,
    as_json: Json = False,
    storage: Storage = "runs",
) -> None:
    """Check that a sweep's data, code, libraries and exported model are as recorded, and that its score is right."""
    from toprung.project.modules import find_project
    from toprung.records import catalog
    from toprung.sweep.verification import check_records, check_retrain, is_verified, read_recorded, verdict

    project = find_project(Path.cwd())
    recorded = read_recorded(project, catalog.find_sweep(storage_root(storage), sweep_name))
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

    if not as_json:
        console.print(f"{recorded.sweep_dir.sweep_id}\n")
    try:
        for fact in check_records(recorded):
            show(fact)
        if retrain:
            for fact in check_retrain(recorded, tuple(facts), echo=echo_err if as_json else print_epoch):
                show(fact)
    except KeyboardInterrupt:
        echo_err("Stopped. Nothing was changed.")
        sys.exit(130)
    passed = is_verified(facts, strict=strict)
    if as_json:
        content = {"sweep_id": recorded.sweep_dir.sweep_id, "ok": passed, "verdict": verdict(facts)}
        print_json(content | {"facts": [asdict(fact) for fact in facts]})
    else:
        console.print(f"\n{verdict(facts)} Took {format_seconds(time.monotonic() - started)}.")
    sys.exit(0 if passed else 1)
