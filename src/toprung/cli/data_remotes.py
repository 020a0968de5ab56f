"""The commands of `toprung data` that move data: status, pull, push, remote add, remote check."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from toprung.cli.options import Json, current_project, print_json
from toprung.errors import UserError

transfer_app = typer.Typer()
remote_app = typer.Typer(
    no_args_is_help=True, help="Manage the remotes that store datasets: folders, gs://, gdrive://, s3://, ssh://."
)

Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Names of datasets. By default, all.")]
RemoteName = Annotated[str | None, typer.Option(help="Name of a remote, if not the default remote.")]
NO_DATA = "DVC tracks no data here yet: toprung data add NAME FOLDER, or toprung data prepare NAME"
PreparedOnly = Annotated[bool, typer.Option("--prepared-only", help="Skip the raw files.")]


@transfer_app.command()
def status(remote: RemoteName = None, as_json: Json = False) -> None:
    """Compare the datasets here with dvc.lock, and DVC's cache with the remote."""
    from toprung.data.remotes.transfer import local_status
    from toprung.data.remotes.transfer import status as remote_status
    from toprung.data.versioning.config import read_remotes

    project = current_project()
    local_states = local_status(project=project)
    compared, remote_states = None, dict[str, str]()
    if remote or any(remote.is_default for remote in read_remotes(project)):
        with _waiting("Comparing with the remote"):
            compared, remote_states = remote_status(project=project, remote=remote)
    if as_json:
        print_json({"here": local_states, "remote": compared and compared.name, "remote_differs": remote_states})
        return
    for path, state in sorted(local_states.items()):
        print(describe_local(path, state))
    if not local_states:
        print("Here: everything matches dvc.lock and the .dvc files.")
    if compared is None:
        print("No remote yet: toprung data remote add NAME URL")
    for line in describe_remote(remote_states):
        print(line)
    if compared and not remote_states:
        print(f"{compared}: has everything that is here.")


@transfer_app.command()
def pull(names: Names = None, remote: RemoteName = None, prepared_only: PreparedOnly = False) -> None:
    """Download datasets from a remote, except files that are already here."""
    from toprung.data.remotes.transfer import pull as pull_data

    project = current_project()
    with _waiting("Pulling"):
        transfer = pull_data(names or (), project=project, remote=remote, prepared_only=prepared_only)
    if not transfer.targets:
        print(NO_DATA)
    elif transfer.remote:
        print(f"{transfer.remote}: {transfer.num_files} files fetched.")
    else:
        print("Everything is here.")
    note_hidden_data(transfer.hidden, project=project)


@transfer_app.command()
def push(names: Names = None, remote: RemoteName = None, prepared_only: PreparedOnly = False) -> None:
    """Upload datasets to a remote, except files that it already has."""
    from toprung.data.remotes.transfer import push as push_data

    project = current_project()
    with _waiting("Pushing"):
        transfer = push_data(names or (), project=project, remote=remote, prepared_only=prepared_only)
    if not transfer.targets:
        print(NO_DATA)
    elif transfer.num_files:
        print(f"{transfer.remote}: {transfer.num_files} files sent.")
    else:
        print(f"{transfer.remote}: has everything.")
    note_hidden_data(transfer.hidden, project=project)


@remote_app.command("add")
def add_remote(
    name: Annotated[str, typer.Argument(help="Name of the new remote.")],
    url: Annotated[
        str, typer.Argument(help="Address: a folder, gs://bucket/folder, s3://..., ssh://user@host/... or gdrive://ID.")
    ],
    key: Annotated[Path | None, typer.Option(help="File with a JSON key (Google) or a private key (SSH).")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="OPTION=VALUE", help="Set a DVC option of the remote, not a secret. Can be repeated."
        ),
    ] = None,
    default: Annotated[
        bool | None,
        typer.Option(
            "--default/--no-default", help="Whether it becomes the default remote. By default, only the first one does."
        ),
    ] = None,
) -> None:
    """Add a remote; the path of its key goes into .dvc/config.local, which git ignores."""
    from toprung.data.remotes.add import add_remote as add

    options: dict[str, str] = {}
    for setting in settings or []:
        option, result, value = setting.partition("=")
        if not (option and result and value):
            raise UserError(f'--set "{setting}" is not OPTION=VALUE, such as --set region=eu-central-1.')
        options[option] = value
    added = add(name, url, project=current_project(), key=key, options=options, default=default)
    print(
        f"{added}{' is the default remote' if added.is_default else ' is added'}. Check it: toprung data remote check"
    )


@remote_app.command("list")
def list_remotes(as_json: Json = False) -> None:
    """List the remotes."""
    from toprung.data.versioning.config import read_remotes
    from toprung.secrets import mask_text

    remotes = read_remotes(current_project())
    if as_json:
        print_json(
            [{"name": remote.name, "url": mask_text(remote.url), "default": remote.is_default} for remote in remotes]
        )
        return
    for remote in remotes:
        print(f"{remote.name}  {mask_text(remote.url)}{'  (default)' if remote.is_default else ''}")
    if not remotes:
        print("No remote yet: toprung data remote add NAME URL")


@remote_app.command("check")
def check_remote(
    name: Annotated[str | None, typer.Argument(help="Name of a remote, if not the default remote.")] = None,
) -> None:
    """List, write, read and delete a small file on a remote, and report missing permissions."""
    from toprung.data.remotes.check import check_remote as check
    from toprung.data.remotes.check import first_problem

    with _waiting("Checking the remote"):
        remote, steps = check(name, project=current_project())
    print(remote)
    for step in steps:
        outcome = "refused" if step.problem else "ok" if step.was_tried else "not tried"
        print(f"  {step.step:<7} {outcome:<9} ({step.permission})")
    if problem := first_problem(remote, steps):
        raise UserError(problem)


def describe_local(path: str, state: str) -> str:
    """Return a line about a path that differs from dvc.lock or its .dvc file: how, and what to type."""
    name = dataset_of(path)
    if name is None:
        return f"{path}: {state}"
    meaning = {
        "not prepared": f"not prepared yet: toprung data prepare {name}",
        "outdated": f"prepared from other images or settings: toprung data prepare {name}",
        "deleted": f"not here: toprung data pull {name}",
        "not in cache": f"not in DVC's cache: toprung data prepare {name}",
        "modified": f"modified: toprung data prepare {name}   (or undo it: dvc checkout {path})",
    }
    return f"{path}: {meaning.get(state, state)}"


def describe_remote(differing: Mapping[str, str]) -> list[str]:
    """Return a line about each dataset's folder that differs from the remote: how many files, how, what to type.

    Args:
        differing: for each file and folder `new`, `deleted` or `missing`, as `toprung.data.remotes.transfer.status`
            returns it.
    """
    num_files: Counter[tuple[str, str]] = Counter()
    for path, state in differing.items():
        name = dataset_of(path)
        folder = path if name is None else "/".join(path.split("/")[:3])
        num_files[folder, state] += path != folder
    lines = []
    for (folder, state), count in sorted(num_files.items()):
        meaning = {
            "new": f"not pushed yet: toprung data push {dataset_of(folder) or ''}",
            "deleted": f"only on the remote: toprung data pull {dataset_of(folder) or ''}",
            "missing": "neither in DVC's cache here nor on the remote. Push it from the machine that has it",
        }.get(state, state)
        files = f"{count:,} {'file' if count == 1 else 'files'} " if count else ""
        lines.append(f"{folder}: {files}{meaning}".rstrip())
    return lines


def dataset_of(path: str) -> str | None:
    """Return the dataset whose raw or prepared files are at a path, if any."""
    match path.split("/"):
        case ["data", "raw" | "prepared", name, *_]:
            return name
    return None


def note_hidden_data(hidden: Sequence[str], *, project: Path) -> None:
    """Print a warning on stderr if DVC overlooks .dvc files: its plain commands would lose their data."""
    from toprung.data.versioning.targets import hidden_note

    if hidden:
        print(hidden_note(hidden, project=project), file=sys.stderr)


@contextmanager
def _waiting(description: str) -> Iterator[None]:
    """Show the elapsed time on stderr while the block runs, if stderr is a terminal."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(file=sys.stderr)
    columns = (SpinnerColumn("line"), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        bar.add_task(description, total=None)
        yield
