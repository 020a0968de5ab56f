"""docs/troubleshooting.md has an entry for the message of every `UserError`, and no others."""

import ast
import re
from collections.abc import Iterator

import pytest

GAP = "…"


def template(node: ast.expr) -> str:
    """Return a message with a gap for each part that varies."""
    match node:
        case ast.Constant():
            return str(node.value)
        case ast.JoinedStr():
            return "".join(map(template, node.values))
        case ast.BinOp(op=ast.Add()):
            return template(node.left) + template(node.right)
    return GAP


def normalise(message: str) -> str:
    """Collapse any whitespace into a single space, and consecutive gaps into one."""
    return re.sub(rf"{GAP}(\s*{GAP})+", GAP, " ".join(message.split()))


def raised(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and message of every UserError in a module; an expression if the message has no literal word."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "UserError":
            message = normalise(template(node.args[0]))
            yield node.lineno, message if re.search(r"\w", message) else ast.unparse(node.args[0])


def documented(page: str) -> set[str]:
    """Return the messages on the page, and the expressions in comments after messages that are given as examples."""
    entries = [line for line in page.splitlines() if line.startswith("- ")]
    messages = [result for line in entries for result in re.findall(r"^- (`+) ?(.+?) ?\1(?!`)", line)]
    return {normalise(message) for _, message in messages} | set(re.findall(r"<!-- (.+?) -->", page))


@pytest.fixture
def page(project) -> str:
    content = (project / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    return content.partition("## When a trial fails")[0]


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
    entries = documented(page)
    missing = [f"{site}: - `{message}`" for site, message in sites if message not in entries]
    assert not missing, "docs/troubleshooting.md has no entry for\n" + "\n".join(missing)


def test_every_entry_has_its_error_message(page, sites):
    shown_by_example = {
        normalise(line[3:].partition("`")[0]) for line in page.splitlines() if line.startswith("- `") and "<!--" in line
    }
    assert documented(page) - {message for _, message in sites} - shown_by_example == set()


def test_every_form_of_a_message_is_parsed():
    source = (
        'raise UserError(f"{a}{b} is no {c!r}." " Type: x")\nerrors.UserError("Plain " + f"{x}")\nUserError(say(x))\n'
    )
    assert list(raised(source)) == [(1, "… is no …. Type: x"), (2, "Plain …"), (3, "say(x)")]
    assert documented("- `… is no …. Type: x`  \n  Why.\n- ``Plain `…` ``\n- `example` <!-- say(x) -->\n") == {
        "… is no …. Type: x", "Plain `…`", "example", "say(x)",
    }  # fmt: skip
