"""The documentation: it builds without broken links, loads nothing from other hosts, and its examples run."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.commandline import all_commands
from tests.documented import blocks, script

PROJECT = Path(__file__).parent.parent
PAGES = sorted([PROJECT / "README.md", *(PROJECT / "docs").rglob("*.md")])
RUN = [page for page in PAGES if script(page)]
SLOW = {"fine-tuning.md", "index.md", "recipes.md", "using-the-model.md", "your-own-images.md", "your-own-model.md"}


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=PROJECT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


class _LoadedUrls(HTMLParser):
    """Collects the URLs that a page loads: those of all its elements except links."""

    def __init__(self):
        super().__init__()
        self.urls = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag != "a":
            self.urls += [values[name] for name in ("src", "href", "srcset", "data", "poster") if values.get(name)]


def test_no_page_loads_anything_from_another_host(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        parser = _LoadedUrls()
        parser.feed(page.read_text(encoding="utf-8"))
        assert [url for url in parser.urls if re.match(r"(\w+:)?//", url)] == [], page.name
    sheets = [sheet.read_text(encoding="utf-8") for sheet in site.rglob("*.css")]
    assert [result for sheet in sheets for result in re.findall(r"url\(['\"]?(?:\w+:)?//[^)]+", sheet)] == []


def test_the_command_line_page_has_every_command_and_option(site):
    page = (site / "command-line.html").read_text(encoding="utf-8")

    commands = [(" ".join(path), command) for path, command in all_commands().items() if len(path) > 1]
    assert len(commands) > 25
    for path, command in commands:
        section = page.partition(f"<code>{path}</code>")[2].partition("<h2")[0].partition("<h3")[0]
        assert section, path
        for option in (o for p in command.params for o in p.opts if o.startswith("--")):
            assert option in section, f"{path} {option}"


def test_every_page_can_be_reached_from_the_navigation(site):
    start = (site / "index.html").read_text(encoding="utf-8")
    pages = {str(page.relative_to(PROJECT / "docs")).removesuffix(".md") for page in PAGES if "docs" in page.parts}
    assert {page for page in pages if f'href="{page}.html"' not in start} == set()


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "page", [pytest.param(page, id=page.name, marks=[pytest.mark.slow] if page.name in SLOW else []) for page in RUN]
)
def test_the_runnable_blocks_of_a_page_run(page, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["HOME"] = str(tmp_path / "home")
    (tmp_path / "home").mkdir()
    (tmp_path / "page").mkdir()
    ran = subprocess.run(
        ["bash", "-s"], input=script(page), cwd=tmp_path / "page", env=environment, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-3000:]


def test_pages_with_runnable_blocks_are_found():
    assert {"index.md", "your-own-model.md", "your-own-images.md", "recipes.md"} <= {page.name for page in RUN}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_python_block_is_python(page):
    for block in blocks(page):
        if block.language == "python":
            compile(block.text, f"{page.name}:{block.line}", "exec")


def test_a_block_with_a_title_becomes_that_file(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        '```python title="a/b.py"\nprint("of the file")\n```\n\n<!-- runnable -->\n```sh\n. /dev/null\n'
        "cd a && python b.py\n```\n\n```sh\nexit 1\n```\n"
    )
    ran = subprocess.run(["bash", "-s"], input=script(page), cwd=tmp_path, check=True, capture_output=True, text=True)
    assert ran.stdout == "of the file\n"
