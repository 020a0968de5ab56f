"""Commands for an existing sweep: resume, extend, stop, watch, sync, events and rm."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer

from toprung.cli.options import Address, Json, Storage, SweepName, current_project, echo_err, exit_code, find_sweep

app = typer.Typer()


@app.command()
def resume(sweep_name: SweepName, address: Address = None, storage: Storage = "runs") -> None:
    """Resume a sweep that was stopped or interrupted."""
    from toprung.cli.display import open_display
    from toprung.sweep.resume import resume as resume_sweep

    project, sweep_dir = current_project(), find_sweep(sweep_name, storage)
    with open_display(sys.stdout) as listener:
        outcome = resume_sweep(project, sweep_dir, listener=listener, address=address)
        listener.summarise(outcome)
    sys.exit(exit_code(outcome.status))


@app.command(epilog="Example: toprung extend digits-20261123-141200 --trials 24 --max-epochs 27")
def extend(
    sweep_name: SweepName,
    trials: Annotated[int, typer.Option(min=0, help="Number of trials to add.")] = 0,
    max_epochs: Annotated[
        int | None,
        typer.Option(min=1, help="New, larger budget in epochs; the best finished trials continue towards it."),
    ] = None,
    address: Address = None,
    storage: Storage = "runs",
) -> None:
    """Add trials to a sweep that has ended, or raise its epoch budget.

    If a stop rule ended the sweep, the extension runs without stop rules.
    """
    from toprung.cli.display import open_display
    from toprung.sweep.extend import extend as extend_sweep

    project, sweep_dir = current_project(), find_sweep(sweep_name, storage)
    with open_display(sys.stdout) as listener:
        outcome = extend_sweep(
            project, sweep_dir, num_new_trials=trials, max_epochs=max_epochs, listener=listener, address=address
        )
        listener.summarise(outcome)
    sys.exit(exit_code(outcome.status))


@app.command()
def stop(
    sweep_name: SweepName,
    wait: Annotated[float, typer.Option(min=0, help="How many seconds to wait for the sweep to stop.")] = 120,
    storage: Storage = "runs",
) -> None:
    """Stop a running sweep from another terminal, just like Ctrl-C."""
    from toprung.sweep import maintenance

    sweep_dir = find_sweep(sweep_name, storage)
    state = maintenance.stop(sweep_dir, timeout_seconds=wait)
    print(
        f"{sweep_dir.sweep_id}: {state.get('reason') or state['status']}. Resume it with: toprung resume "
        f"{sweep_dir.sweep_id}"
    )


@app.command()
def watch(sweep_name: SweepName, storage: Storage = "runs") -> None:
    """Follow a sweep that is running in another terminal until it ends. Ctrl-C stops watching, not the sweep."""
    from toprung.cli.display import open_display
    from toprung.remote_storage import has_remote_driver
    from toprung.sweep.watch import watch_sweep

    sweep_dir = find_sweep(sweep_name, storage)
    if not sweep_dir.has_live_driver():
        state = (
            sweep_dir.read(sweep_dir.status_file).get("status", "unknown")
            if sweep_dir.status_file.is_file()
            else "not started"
        )
        if state == "running" and has_remote_driver(sweep_dir):
            print(
                f"{sweep_dir.sweep_id} runs on another machine; watch it there. Its progress so far: toprung show "
                f"{sweep_dir.sweep_id}"
            )
            return
        status = "interrupted: its driver died" if state == "running" else state
        print(f"{sweep_dir.sweep_id} is not running ({status}). Type: toprung show {sweep_dir.sweep_id}")
        return
    with open_display(sys.stdout) as listener:
        outcome = watch_sweep(sweep_dir, listener=listener)
        listener.summarise(outcome)


@app.command()
def sync(sweep_name: SweepName, storage: Storage = "runs") -> None:
    """Send missing records to MLflow and, if the sweep uses it, to object storage."""
    from toprung.sweep import maintenance

    sweep_dir = find_sweep(sweep_name, storage)
    problems = maintenance.sync(sweep_dir)
    for problem in problems:
        echo_err(f"Not in MLflow: {problem}")
    if problems:
        print(f"{sweep_dir.sweep_id}: MLflow has everything else.")
        sys.exit(1)
    print(f"{sweep_dir.sweep_id}: MLflow has everything.")


@app.command("events")
def list_events(sweep_name: SweepName, as_json: Json = False, storage: Storage = "runs") -> None:
    """Print the events of a sweep's ledger in the order in which they happened."""
    from toprung.analysis.events import list_events
    from toprung.records import ledger

    sweep_dir = find_sweep(sweep_name, storage)
    spec = sweep_dir.spec()
    events = list_events(ledger.read_all(sweep_dir), metric=spec.metric, rungs=spec.rungs)
    if as_json:
        print(json.dumps([asdict(event) for event in events], indent=2))
        return
    for event in events:
        time = datetime.fromtimestamp(event.time_ms / 1000)
        subject = "sweep" if event.number is None else f"trial {event.number}"
        print(f"{time:%H:%M:%S}.{time.microsecond // 1000:03d}  {subject:<10} {event.what:<9} {event.text}".rstrip())


@app.command()
def rm(
    sweep_name: SweepName,
    keep_export: Annotated[bool, typer.Option("--keep-export", help="Keep the exported model.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    storage: Storage = "runs",
) -> None:
    """Delete a sweep and its confirmations. Their MLflow runs are kept."""
    from toprung.records.catalog import list_confirmations
    from toprung.sweep import maintenance

    sweep_dir = find_sweep(sweep_name, storage)
    if sweep_dir.has_live_driver():
        raise sweep_dir.running_error()
    confirmations = [confirming_dir.sweep_id for confirming_dir in list_confirmations(sweep_dir)]
    extent = "except its exported model" if keep_export else "with its exported model"
    extent += f", and its confirmations {', '.join(confirmations)}" if confirmations else ""
    if not yes and not typer.confirm(f"Delete {sweep_dir.path} {extent}?"):
        print("Nothing was deleted.")
        sys.exit(1)
    maintenance.remove(sweep_dir, keep_export=keep_export)
    note = f" The exported model is kept in {sweep_dir.export_folder}." if sweep_dir.export_folder.is_dir() else ""
    print(f"Deleted {', '.join([sweep_dir.sweep_id, *confirmations])}.{note}")
