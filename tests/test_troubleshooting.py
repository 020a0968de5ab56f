"""The page of error messages has each line that a `UserError` can say, and none that no code says any more."""

import ast
import re
from collections.abc import Iterator

import pytest

GAP = "…"


def template(node: ast.expr) -> str:
    """A message with a gap for what differs."""
    match node:
        case ast.Constant():
            return str(node.value)
        case ast.JoinedStr():
            return "".join(map(template, node.values))
        case ast.BinOp(op=ast.Add()):
            return template(node.left) + template(node.right)
    return GAP


def normal(message: str) -> str:
    """One space for any white space, one gap for several in a row."""
    return re.sub(rf"{GAP}(\s*{GAP})+", GAP, " ".join(message.split()))


def raised(source: str) -> Iterator[tuple[int, str]]:
    """Line and message of every UserError that a module makes; an expression where none of its words is there."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "UserError":
            message = normal(template(node.args[0]))
            yield node.lineno, message if re.search(r"\w", message) else ast.unparse(node.args[0])


def told(page: str) -> set[str]:
    """The messages of the page, and in comments the expressions that make those which it shows by an example."""
    entries = [line for line in page.splitlines() if line.startswith("- ")]
    messages = [result for line in entries for result in re.findall(r"^- (`+) ?(.+?) ?\1(?!`)", line)]
    return {normal(message) for _, message in messages} | set(re.findall(r"<!-- (.+?) -->", page))


@pytest.fixture
def page(project) -> str:
    whole = (project / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    return whole.partition("## When a trial fails")[0]


@pytest.fixture
def sites(project) -> list[tuple[str, str]]:
    root = project / "src" / "toprung"
    return [
        (f"{file.relative_to(root)}:{line}", message)
        for file in sorted(root.rglob("*.py"))
        for line, message in raised(file.read_text(encoding="utf-8"))
    ]


def test_each_error_message_has_its_entry(page, sites):
    assert len(sites) > 200
    entries = told(page)
    missing = [f"{where}: - `{message}`" for where, message in sites if message not in entries]
    assert not missing, "docs/troubleshooting.md has no entry for\n" + "\n".join(missing)


def test_no_entry_is_of_a_message_that_is_gone(page, sites):
    shown_by_example = {
        normal(line[3:].partition("`")[0]) for line in page.splitlines() if line.startswith("- `") and "<!--" in line
    }
    assert told(page) - {message for _, message in sites} - shown_by_example == set()


def test_every_way_of_writing_a_message_is_read():
    source = (
        'raise UserError(f"{a}{b} is no {c!r}." " Type: x")\nerrors.UserError("Plain " + f"{x}")\nUserError(say(x))\n'
    )
    assert list(raised(source)) == [(1, "… is no …. Type: x"), (2, "Plain …"), (3, "say(x)")]
    assert told("- `… is no …. Type: x`  \n  Why.\n- ``Plain `…` ``\n- `example` <!-- say(x) -->\n") == {
        "… is no …. Type: x", "Plain `…`", "example", "say(x)",
    }  # fmt: skip
