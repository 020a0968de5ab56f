"""The verbs of a sweep that is there: resume, extend, stop, watch, sync, events, rm."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toprung.cli.options import Address, Json, Storage, SweepName, echo_err, exit_code, storage_root
from toprung.errors import UserError

if TYPE_CHECKING:
    from toprung.records.sweep_dir import SweepDirectory

lifecycle_app = typer.Typer()


@lifecycle_app.command()
def resume(sweep_name: SweepName, address: Address = None, storage: Storage = "runs") -> None:
    """Go on with a sweep that died or was stopped."""
    from toprung.cli.display import open_display
    from toprung.project.modules import find_project
    from toprung.sweep.resume import resume as resume_sweep

    project, sweep_dir = find_project(Path.cwd()), _find(sweep_name, storage)
    with open_display(sys.stdout) as listener:
        outcome = resume_sweep(project, sweep_dir, listener=listener, address=address)
        listener.summarise(outcome)
    sys.exit(exit_code(outcome.status))


@lifecycle_app.command()
def extend(
    sweep_name: SweepName,
    trials: Annotated[int, typer.Option(min=0, help="So many more trials.")] = 0,
    max_epochs: Annotated[int | None, typer.Option(min=1, help="A longer budget, for the survivors too.")] = None,
    address: Address = None,
    storage: Storage = "runs",
) -> None:
    """More trials, or a longer budget, for a sweep that ended."""
    from toprung.cli.display import open_display
    from toprung.project.modules import find_project
    from toprung.sweep.extend import extend as extend_sweep

    project, sweep_dir = find_project(Path.cwd()), _find(sweep_name, storage)
    with open_display(sys.stdout) as listener:
        outcome = extend_sweep(
            project, sweep_dir, num_new_trials=trials, max_epochs=max_epochs, listener=listener, address=address
        )
        listener.summarise(outcome)
    sys.exit(exit_code(outcome.status))


@lifecycle_app.command()
def stop(
    sweep_name: SweepName,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for its end.")] = 120,
    storage: Storage = "runs",
) -> None:
    """Stop a sweep that runs, from another terminal, as Ctrl-C does in its own."""
    from toprung.sweep import maintenance

    sweep_dir = _find(sweep_name, storage)
    state = maintenance.stop(sweep_dir, timeout_seconds=wait)
    print(
        f"{sweep_dir.sweep_id}: {state.get('reason') or state['status']}. Go on with: toprung resume "
        f"{sweep_dir.sweep_id}"
    )


@lifecycle_app.command()
def watch(sweep_name: SweepName, storage: Storage = "runs") -> None:
    """Follow a sweep that runs in another terminal, until it ends; Ctrl-C ends the watching alone."""
    from toprung.cli.display import open_display
    from toprung.remote_storage import has_remote_driver
    from toprung.sweep.watch import watch_sweep

    sweep_dir = _find(sweep_name, storage)
    if not sweep_dir.has_live_driver():
        state = (
            sweep_dir.read(sweep_dir.status_file).get("status", "unknown")
            if sweep_dir.status_file.is_file()
            else "not begun"
        )
        if state == "running" and has_remote_driver(sweep_dir):
            print(
                f"{sweep_dir.sweep_id} runs on another machine, and is watched there. Type: toprung show "
                f"{sweep_dir.sweep_id}"
            )
            return
        status = "interrupted: its driver died" if state == "running" else state
        print(f"{sweep_dir.sweep_id} is not running ({status}). Type: toprung show {sweep_dir.sweep_id}")
        return
    with open_display(sys.stdout) as listener:
        outcome = watch_sweep(sweep_dir, listener=listener)
        listener.summarise(outcome)


@lifecycle_app.command()
def sync(sweep_name: SweepName, storage: Storage = "runs") -> None:
    """Deliver to MLflow what it has not got."""
    from toprung.sweep import maintenance

    sweep_dir = _find(sweep_name, storage)
    problems = maintenance.sync(sweep_dir)
    for problem in problems:
        echo_err(f"Not in MLflow: {problem}")
    if problems:
        print(f"{sweep_dir.sweep_id}: MLflow has everything else.")
        sys.exit(1)
    print(f"{sweep_dir.sweep_id}: MLflow has everything.")


@lifecycle_app.command("events")
def list_events(sweep_name: SweepName, as_json: Json = False, storage: Storage = "runs") -> None:
    """Print a sweep's ledger in order: what was asked, reported, decided, told, ended."""
    from toprung.analysis.events import list_events
    from toprung.records import ledger

    sweep_dir = _find(sweep_name, storage)
    spec = sweep_dir.spec()
    events = list_events(ledger.read_all(sweep_dir), metric=spec.metric, rungs=spec.rungs)
    if as_json:
        print(json.dumps([asdict(event) for event in events], indent=2))
        return
    for event in events:
        at = datetime.fromtimestamp(event.time_ms / 1000)
        who = "sweep" if event.number is None else f"trial {event.number}"
        print(f"{at:%H:%M:%S}.{at.microsecond // 1000:03d}  {who:<10} {event.what:<9} {event.text}".rstrip())


@lifecycle_app.command()
def rm(
    sweep_name: SweepName,
    keep_export: Annotated[bool, typer.Option("--keep-export", help="Keep the winner's folder.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    storage: Storage = "runs",
) -> None:
    """Remove a sweep's directory and those of its confirmations. What MLflow has of them stays."""
    from toprung.records.catalog import list_confirmations
    from toprung.sweep import maintenance

    sweep_dir = _find(sweep_name, storage)
    if sweep_dir.has_live_driver():
        raise UserError(f"{sweep_dir.sweep_id} is running. Type: toprung stop {sweep_dir.sweep_id}")
    what = "all but its export" if keep_export else "its export too"
    along = [sweep_dir.sweep_id for sweep_dir in list_confirmations(sweep_dir)]
    what += f"; with what confirms it: {', '.join(along)}" if along else ""
    if not yes and not typer.confirm(f"Remove {sweep_dir.path} ({what})?"):
        print("Nothing was removed.")
        sys.exit(1)
    maintenance.remove(sweep_dir, keep_export=keep_export)
    note = (
        f" Its export stays in {sweep_dir.export_folder}." if keep_export and sweep_dir.export_folder.is_dir() else ""
    )
    print(f"Removed {', '.join([sweep_dir.sweep_id, *along])}.{note}")


def _find(sweep_name: str, storage: str) -> SweepDirectory:
    from toprung.records import catalog

    return catalog.find_sweep(storage_root(storage), sweep_name)
