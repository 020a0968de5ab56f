"""Output streams that accept any text, and tables that are never cut off."""

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
from rich.text import Text

from toprung.errors import locale_error

# Substitutes for toprung's own symbols in a terminal that is not UTF-8; any other character becomes a question mark.
# None is longer than its symbol: a line that fills the terminal would wrap, and the live block could not be redrawn.
PLAIN = {"·": "-", "×": "x", "–": "-", "’": "'", "…": ".", "±": "~", **dict.fromkeys("▁▂▃▄▅▆▇█", "")}
SUBSTITUTE = "toprung.substitute"
UNLIMITED_WIDTH = 10_000
MIN_FOLDED_WIDTH, GAP = 24, 2


def prepare_streams() -> None:
    """Make stdout and stderr substitute characters that their encoding lacks, and raw bytes in file names.

    Child processes write to log files and pipes, which are UTF-8.
    """
    codecs.register_error(SUBSTITUTE, _substitute)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=SUBSTITUTE)
    os.environ["PYTHONIOENCODING"] = "utf-8:replace"


def check_arguments(arguments: Sequence[str]) -> None:
    """Check that all arguments are text in the locale's encoding; records are UTF-8 and could not hold anything else.

    Raises:
        UserError: an argument has bytes that are not text.
    """
    for argument in arguments:
        if any(0xDC80 <= ord(character) <= 0xDCFF for character in argument):
            raise locale_error(f"The argument {argument!a}")


STATE_STYLES = {  # of a check's result
    "ok": "dim", "warning": "yellow", "error": "bold red", "drifted": "yellow", "unchecked": "yellow",
    "changed": "bold red",
}  # fmt: skip


def open_console(file: IO[str] | None = None) -> Console:
    """Return a console that prints text unchanged, without a line length if the output is not a terminal.

    Args:
        file: the output stream; stdout if None.
    """
    # The terminal wraps long lines, so that a command or a path can be copied in one piece.
    console = Console(file=file, highlight=False, markup=False, emoji=False, soft_wrap=True)
    if not console.file.isatty():  # `is_terminal` may be forced for colors alone
        console.width = UNLIMITED_WIDTH
    return console


def print_table(console: Console, table: Table, *, num_optional: int = 0) -> None:
    """Print a table; if the terminal is too narrow, print each row as a block with one line per column.

    Args:
        console: the console to print on.
        table: a table of strings; columns without `no_wrap` are folded, down to their `min_width`.
        num_optional: how many of the last columns may be left out to make the table fit.
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
        if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte of a file name that is not text: print it unchanged
            yield bytes([ord(character) - 0xDC00])
        else:
            yield PLAIN.get(character, "?").encode()


def print_check(
    console: Console, name: str, state: str, observed: str, remedy: str, *, state_width: int, name_width: int
) -> None:
    """Print the result of a check as a line, and what to do about it, if anything, as another one."""
    text_style = "dim" if state == "ok" else ""
    console.print(
        Text.assemble(
            (f"  {state:<{state_width}} ", STATE_STYLES[state]), f"{name:<{name_width}}  ", (observed, text_style)
        )
    )
    if remedy:
        console.print(Text(f"{'':{state_width + name_width + 5}}{remedy}", style=text_style or "cyan"))
