"""The command line: arguments in, lines out; everything else lives on the floors below."""

from toprung.cli.app import main

__all__ = ["main"]
