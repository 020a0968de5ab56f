"""The verbs of a sweep that is there: resume, extend, stop, watch, sync, events, rm."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toprung.cli.places import Address, Json, Named, Storage, exit_code, root_of, say
from toprung.errors import UserError

if TYPE_CHECKING:
    from toprung.directory import SweepDirectory

lives_app = typer.Typer()


@lives_app.command()
def resume(named: Named, address: Address = None, storage: Storage = "runs") -> None:
    """Go on with a sweep that died or was stopped."""
    from toprung.cli.display import watcher_for
    from toprung.sweep import workbench
    from toprung.sweep.run import resume as resume_sweep

    project, made = workbench.find_project(Path.cwd()), _find(named, storage)
    with watcher_for(sys.stdout) as watcher:
        outcome = resume_sweep(project, made, watcher=watcher, address=address)
        watcher.summarise(outcome)
    sys.exit(exit_code(outcome.status))


@lives_app.command()
def extend(
    named: Named,
    trials: Annotated[int, typer.Option(min=0, help="So many more trials.")] = 0,
    max_epochs: Annotated[int | None, typer.Option(min=1, help="A longer budget, for the survivors too.")] = None,
    address: Address = None,
    storage: Storage = "runs",
) -> None:
    """More trials, or a longer budget, for a sweep that ended."""
    from toprung.cli.display import watcher_for
    from toprung.sweep import workbench
    from toprung.sweep.run import extend as extend_sweep

    project, made = workbench.find_project(Path.cwd()), _find(named, storage)
    with watcher_for(sys.stdout) as watcher:
        outcome = extend_sweep(project, made, num_more=trials, max_epochs=max_epochs, watcher=watcher, address=address)
        watcher.summarise(outcome)
    sys.exit(exit_code(outcome.status))


@lives_app.command()
def stop(
    named: Named,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for its end.")] = 120,
    storage: Storage = "runs",
) -> None:
    """Stop a sweep that runs, from another terminal, as Ctrl-C does in its own."""
    from toprung.sweep import upkeep

    made = _find(named, storage)
    state = upkeep.stop(made, timeout_seconds=wait)
    print(f"{made.sweep_id}: {state.get('reason') or state['status']}. Go on with: toprung resume {made.sweep_id}")


@lives_app.command()
def watch(named: Named, storage: Storage = "runs") -> None:
    """Follow a sweep that runs in another terminal, until it ends; Ctrl-C ends the watching alone."""
    from toprung.cli.display import watcher_for
    from toprung.storage import driven_elsewhere
    from toprung.sweep.following import follow

    made = _find(named, storage)
    if not made.is_driven():
        state = made.read(made.status_file).get("status", "unknown") if made.status_file.is_file() else "not begun"
        if state == "running" and driven_elsewhere(made):
            print(f"{made.sweep_id} runs on another machine, and is watched there. Type: toprung show {made.sweep_id}")
            return
        word = "interrupted: its driver died" if state == "running" else state
        print(f"{made.sweep_id} is not running ({word}). Type: toprung show {made.sweep_id}")
        return
    with watcher_for(sys.stdout) as watcher:
        outcome = follow(made, watcher=watcher)
        watcher.summarise(outcome)


@lives_app.command()
def sync(named: Named, storage: Storage = "runs") -> None:
    """Deliver to MLflow what it has not got."""
    from toprung.sweep import upkeep

    made = _find(named, storage)
    problems = upkeep.sync(made)
    for problem in problems:
        say(f"Not in MLflow: {problem}")
    if problems:
        print(f"{made.sweep_id}: MLflow has everything else.")
        sys.exit(1)
    print(f"{made.sweep_id}: MLflow has everything.")


@lives_app.command("events")
def list_events(named: Named, as_json: Json = False, storage: Storage = "runs") -> None:
    """Print a sweep's ledger in order: what was asked, reported, decided, told, ended."""
    from toprung import ledger
    from toprung.analysis.events import events

    made = _find(named, storage)
    spec = made.spec()
    found = events(ledger.read_all(made), metric=spec.metric, rungs=spec.rungs)
    if as_json:
        print(json.dumps([asdict(event) for event in found], indent=2))
        return
    for event in found:
        at = datetime.fromtimestamp(event.time_ms / 1000)
        who = "sweep" if event.number is None else f"trial {event.number}"
        print(f"{at:%H:%M:%S}.{at.microsecond // 1000:03d}  {who:<10} {event.what:<9} {event.text}".rstrip())


@lives_app.command()
def rm(
    named: Named,
    keep_export: Annotated[bool, typer.Option("--keep-export", help="Keep the winner's folder.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    storage: Storage = "runs",
) -> None:
    """Remove a sweep's directory and those of its confirmations. What MLflow has of them stays."""
    from toprung.catalog import confirmations
    from toprung.sweep import upkeep

    made = _find(named, storage)
    if made.is_driven():
        raise UserError(f"{made.sweep_id} is running. Type: toprung stop {made.sweep_id}")
    what = "all but its export" if keep_export else "its export too"
    along = [each.sweep_id for each in confirmations(made)]
    what += f"; with what confirms it: {', '.join(along)}" if along else ""
    if not yes and not typer.confirm(f"Remove {made.path} ({what})?"):
        print("Nothing was removed.")
        sys.exit(1)
    upkeep.remove(made, keep_export=keep_export)
    kept = f" Its export stays in {made.export_folder}." if keep_export and made.export_folder.is_dir() else ""
    print(f"Removed {', '.join([made.sweep_id, *along])}.{kept}")


def _find(named: str, storage: str) -> SweepDirectory:
    from toprung import catalog

    return catalog.find(root_of(storage), named)
