"""The commands of `toprung`, for tests of their help and of the documentation."""

import typer.main

from toprung.cli.app import app


def all_commands():
    """Return each command by its path, such as ("toprung", "data", "add")."""

    def subcommands(command, path):
        yield path, command
        if isinstance(command, typer.core.TyperGroup):
            for name in command.list_commands(None):
                yield from subcommands(command.get_command(None, name), (*path, name))

    return dict(subcommands(typer.main.get_command(app), ("toprung",)))
