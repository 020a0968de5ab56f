"""`python -m toprung` is `toprung`."""

from toprung.cli import main

main()
