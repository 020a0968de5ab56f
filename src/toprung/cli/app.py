"""The `toprung` command: its subcommands, each loaded from its module when it is used, and the exit codes."""

from __future__ import annotations

import atexit
import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from toprung.cli.console import check_arguments, prepare_streams
from toprung.errors import UserError

# The module in this package that defines each command, in the order of `toprung --help`.
MODULES = {
    "sweep": "sweep",
    "train": "sweep",
    "list": "listing",
    "show": "listing",
    "data": "data",
    "weights": "weights",
    "init": "init",
    "check": "check",
    "resume": "lifecycle",
    "extend": "lifecycle",
    "stop": "lifecycle",
    "watch": "lifecycle",
    "sync": "lifecycle",
    "events": "lifecycle",
    "rm": "lifecycle",
    "report": "report",
    "compare": "report",
    "confirm": "confirm",
    "export": "export",
    "predict": "predict",
    "register": "register",
    "serve": "serve",
    "verify": "verify",
    "submit": "submit",
    "ci-base": "ci",
    "ci-report": "ci",
    "ui": "ui",
    "doctor": "doctor",
}


class LazyGroup(TyperGroup):
    """A group that imports the module of a command only when the command is used or described."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        return list(MODULES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command; None if there is none of this name."""
        if cmd_name not in self.commands:
            # Load all modules for an unknown name: Typer suggests similar names among the loaded commands.
            for module in {MODULES[cmd_name]} if cmd_name in MODULES else dict.fromkeys(MODULES.values()):
                loaded = typer.main.get_group(importlib.import_module(f"toprung.cli.{module}").app)
                self.commands.update({loaded.name: loaded} if loaded.name else loaded.commands)
        return super().get_command(ctx, cmd_name)


app = typer.Typer(
    name="toprung",
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Hyperparameter search for PyTorch image classifiers.",
    epilog="Create a project with: toprung init DIR. In a project, start a search with: toprung sweep RECIPE",
)


@app.callback()
def group() -> None:
    """Make the app a group, although its commands are loaded later."""


def main() -> None:
    """Run the command line and exit with 0 on success, 1 on failure, 2 on a user error, 130 on Ctrl-C."""
    prepare_streams()
    _ensure_home()
    try:
        check_arguments(sys.argv[1:])
        app()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        sys.exit(130)


def _ensure_home() -> None:
    """Set HOME if there is no home folder: for a user id without an account, `import ray` would fail.

    It is a new folder, because others could put settings of git, DVC or Ray into a shared one.
    """
    try:
        Path.home()
    except RuntimeError:
        home = os.environ["HOME"] = tempfile.mkdtemp(prefix="toprung-home-")
        atexit.register(shutil.rmtree, home, ignore_errors=True)
