"""The command line: parses arguments, calls the packages below, prints their results."""

from toprung.cli.app import main

__all__ = ["main"]
