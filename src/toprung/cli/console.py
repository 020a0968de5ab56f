"""What the command line prints on: streams that take any text, and tables that keep every word."""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Iterator, Sequence
from typing import IO

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from toprung.errors import locale_error

# How toprung's own symbols look in a terminal that is not UTF-8; any other character becomes a question mark. None gets
# longer: a line that fills the terminal would be wrapped, and the live block could not be redrawn in place.
PLAIN = {"·": "-", "×": "x", "–": "-", "’": "'", "…": ".", "±": "~", **dict.fromkeys("▁▂▃▄▅▆▇█", "")}
SUBSTITUTE = "toprung.substitute"
UNLIMITED_WIDTH = 10_000
MIN_FOLDED_WIDTH, GAP = 24, 2


def prepare_streams() -> None:
    """Let stdout and stderr take what their encoding cannot express; a file's name may even be no text at all.

    The output of processes that this one starts goes into log files and pipes, which are UTF-8.
    """
    codecs.register_error(SUBSTITUTE, _substitute)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=SUBSTITUTE)
    os.environ["PYTHONIOENCODING"] = "utf-8:replace"


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse bytes that are no text in the locale's encoding: no record, which is UTF-8, could hold them.

    Raises:
        UserError: naming the first such argument.
    """
    for argument in arguments:
        if any(0xDC80 <= ord(character) <= 0xDCFF for character in argument):
            raise locale_error(f"The argument {argument!a}")


def open_console(file: IO[str] | None = None) -> Console:
    """Return a console that changes nothing in a text; where no terminal reads it, lines have no end.

    Args:
        file: where it prints; stdout if None.
    """
    # Lines are wrapped by the terminal, so that a command or a path can be copied in one piece.
    console = Console(file=file, highlight=False, markup=False, emoji=False, soft_wrap=True)
    if not console.file.isatty():  # `is_terminal` may be forced for colors alone
        console.width = UNLIMITED_WIDTH
    return console


def print_table(console: Console, table: Table, *, num_optional: int = 0) -> None:
    """Print a table; where the terminal is too narrow, each row as a block with a line for each column.

    Args:
        console: where it is printed.
        table: its cells are strings; columns without `no_wrap` are folded, down to their `min_width`.
        num_optional: so many of the last columns are left out if the rest fits then.
    """
    for column in table.columns:
        width = max(cell_len(str(text)) for text in (column.header, *column.cells))
        column.min_width = width if column.no_wrap else min(width, column.min_width or MIN_FOLDED_WIDTH)
    for num_columns in range(len(table.columns), len(table.columns) - num_optional - 1, -1):
        columns = table.columns[:num_columns]
        if sum((column.min_width or 0) + GAP for column in columns) <= console.width:
            table.columns = columns
            console.print(table, soft_wrap=False)
            return
    _print_blocks(console, table)


def _print_blocks(console: Console, table: Table) -> None:
    header_width = max(cell_len(str(column.header).strip()) for column in table.columns)
    for index, row in enumerate(zip(*(column.cells for column in table.columns), strict=True)):
        block = Table.grid(padding=(0, GAP, 0, 0))
        block.add_column(style="dim", no_wrap=True, min_width=header_width)
        block.add_column(overflow="fold")
        for column, cell in zip(table.columns, row, strict=True):
            if cell:
                block.add_row(str(column.header).strip(), cell)
        if index:
            console.print()
        console.print(block, soft_wrap=False)
    if table.caption:
        console.print(table.caption, style="dim", soft_wrap=False)


def _substitute(error: UnicodeError) -> tuple[bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return b"".join(_substitutes(error.object[error.start : error.end])), error.end


def _substitutes(text: str) -> Iterator[bytes]:
    for character in text:
        if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte of a file's name that is no text: as it is
            yield bytes([ord(character) - 0xDC00])
        else:
            yield PLAIN.get(character, "?").encode()
