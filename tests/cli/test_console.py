"""The command line prints its complete output in any encoding, at any width and to a pipe."""

import io
import os
import subprocess
import sys

import pytest
from rich.console import Console
from rich.table import Table

from toprung.cli.console import PLAIN, open_console, print_table

LOCALES = {
    "ASCII": {"PYTHONIOENCODING": "ascii"},
    "Latin-1": {"PYTHONIOENCODING": "latin-1"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}
CONFIGURATION = "adamw  lr 1.0e-3  [red]  cosine  batch 128"
# Prints symbols and a file name with a raw byte, and starts a child process that prints a symbol.
SCRIPT = """
import subprocess, sys
from toprung.cli.console import open_console, prepare_streams
prepare_streams()
open_console().print("0.93 \\u00b1 0.01 \\u2026 caf\\udce9.png \\u4e2d")
print("stderr: \\u2026", file=sys.stderr)
child = subprocess.run([sys.executable, "-c", "print('\\\\u2192')"], capture_output=True)
print(ascii(child.stdout.decode().strip()))
"""


@pytest.mark.parametrize("locale", LOCALES)
def test_a_line_is_printed_in_every_terminal_encoding(locale):
    printed = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={**os.environ, **LOCALES[locale]}, check=True, capture_output=True
    )
    plus_minus = b"\xb1" if locale == "Latin-1" else b"~"
    line, child = printed.stdout.splitlines()
    assert line == b"0.93 " + plus_minus + b" 0.01 . caf\xe9.png ?"
    assert child == rb"'\u2192'"
    assert printed.stderr == b"stderr: .\n"


@pytest.mark.parametrize("locale", ["ASCII", "Latin-1"])
def test_a_command_prints_a_name_that_the_terminal_cannot_encode(tmp_path, locale):
    command = [sys.executable, "-m", "toprung", "init", "→"]
    completed = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **LOCALES[locale]}, check=True, capture_output=True
    )
    assert b" files in ?. README.md" in completed.stdout
    assert (tmp_path / "→" / "tune").is_dir()


def test_no_substitute_is_wider_than_its_symbol():
    assert all(len(substitute) <= len(symbol) for symbol, substitute in PLAIN.items())


def test_an_argument_that_is_not_text_is_refused_in_one_line(tmp_path):
    command = [sys.executable, "-m", "toprung", "init", b"caf\xe9"]
    refused = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True)
    assert refused.returncode == 2
    assert refused.stderr.startswith(rb"The argument 'caf\udce9' is not text")
    assert os.listdir(tmp_path) == []


@pytest.fixture
def table():
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("sweep", "status"):
        table.add_column(column, no_wrap=True)
    table.add_column("configuration", overflow="fold")
    table.add_column("started", no_wrap=True)
    table.add_row(
        "digits-20261123-1412", "interrupted", "adamw  lr 1.0e-3  [red]  cosine  batch 128", "2026-11-23 14:12"
    )
    table.add_row("digits-20261123-1500", "finished", "", "2026-11-23 15:00")
    return table


def printed(table, *, width, num_optional=0):
    stream = io.StringIO()
    print_table(Console(file=stream, width=width, markup=False), table, num_optional=num_optional)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_in_a_pipe_a_row_is_one_line_and_markup_is_text(table):
    stream = io.StringIO()
    print_table(open_console(stream), table)
    rows = stream.getvalue().splitlines()
    assert rows[1].rstrip() == f"digits-20261123-1412  interrupted  {CONFIGURATION}  2026-11-23 14:12"
    assert len(rows) == 3


@pytest.mark.parametrize("width", [36, 40, 50, 60, 70, 77, 78, 79, 80, 100, 120])
def test_no_width_of_a_terminal_cuts_a_cell(table, width):
    lines = printed(table, width=width)
    text = " ".join(lines)
    assert max(map(len, lines)) <= width
    assert "…" not in text
    for cell in ("digits-20261123-1412", "interrupted", "2026-11-23 14:12", "digits-20261123-1500", "finished"):
        assert cell in text
    assert all(word in text for word in CONFIGURATION.split())


def test_a_terminal_too_narrow_for_a_row_gets_one_line_per_column(table):
    assert printed(table, width=40) == [
        "sweep          digits-20261123-1412",
        "status         interrupted",
        "configuration  adamw  lr 1.0e-3  [red]",
        "               cosine  batch 128",
        "started        2026-11-23 14:12",
        "",
        "sweep          digits-20261123-1500",
        "status         finished",
        "started        2026-11-23 15:00",
    ]


def test_the_last_columns_may_be_optional(table):
    header = printed(table, width=70, num_optional=1)[0].split()
    assert header == ["sweep", "status", "configuration"]
