"""Entry point of `python -m toprung`, the same as the `toprung` command."""

from toprung.cli import main

main()
