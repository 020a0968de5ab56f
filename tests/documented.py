"""The runnable blocks of a Markdown page, combined into one shell script.

A block of `sh` or `python` runs if the line before it is `<!-- runnable -->`. A block with a title
(`python title="tune/mine.py"`) is written to the file of that name.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

RUNNABLE = "<!-- runnable -->"
TITLE = re.compile(r'title="([\w./-]+)"')


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    line: int
    language: str
    text: str
    runs: bool
    file: str | None

    @property
    def script(self) -> str:
        """The shell commands that run the block or write its file."""
        if self.file is not None:
            folder = shlex.quote(str(Path(self.file).parent))
            return f"mkdir -p {folder}\ncat > {shlex.quote(self.file)} <<'END_OF_BLOCK'\n{self.text}END_OF_BLOCK\n"
        if not self.runs:
            return ""
        if self.language == "python":
            return f"python - <<'END_OF_BLOCK'\n{self.text}END_OF_BLOCK\n"
        return self.text


def blocks(page: Path) -> list[Block]:
    """Return all fenced blocks of a page, in order."""
    blocks, before = [], ""
    for token in MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8")):
        if token.type == "fence":
            language = token.info.partition(" ")[0]
            title = TITLE.search(token.info)
            line = (token.map or [0])[0] + 1
            blocks.append(Block(line, language, token.content, before == RUNNABLE, title and title[1]))
        before = token.content.strip() if token.type == "html_block" else ""
    return blocks


def script(page: Path) -> str:
    """Return a script that runs the page and stops at the first failure; "" if the page has no runnable block."""
    page_blocks = [block for block in blocks(page) if block.script]
    if not any(block.runs for block in page_blocks):
        return ""
    return "set -euo pipefail\n" + "".join(
        f"echo '=== {page.name}, line {block.line}' >&2\n{block.script}" for block in page_blocks
    )
