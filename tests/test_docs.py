"""The pages: built without a broken link or anything of another host, and what they ask to be run has run."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer.main

from tests.documented import blocks, script
from toprung.cli.app import app

PROJECT = Path(__file__).parent.parent
PAGES = sorted([PROJECT / "README.md", *(PROJECT / "docs").rglob("*.md")])
RUN = [page for page in PAGES if script(page)]
SLOW = {"index.md", "recipes.md", "your-own-images.md", "your-own-model.md"}


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=PROJECT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


class _Loaded(HTMLParser):
    """Addresses that a page loads by itself: all that its elements name, but for links that a person follows."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag != "a":
            self.addresses += [given[name] for name in ("src", "href", "srcset", "data", "poster") if given.get(name)]


def test_no_page_loads_anything_from_another_host(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        read = _Loaded()
        read.feed(page.read_text(encoding="utf-8"))
        assert [address for address in read.addresses if re.match(r"(\w+:)?//", address)] == [], page.name
    sheets = [sheet.read_text(encoding="utf-8") for sheet in site.rglob("*.css")]
    assert [result for sheet in sheets for result in re.findall(r"url\(['\"]?(?:\w+:)?//[^)]+", sheet)] == []


def test_the_command_lines_page_tells_of_every_verb_and_option(site):
    told = (site / "command-line.html").read_text(encoding="utf-8")

    def verbs(command, path):
        yield path, command
        for name, inner in getattr(command, "commands", {}).items():
            yield from verbs(inner, f"{path} {name}")

    every = list(verbs(typer.main.get_command(app), "toprung"))[1:]
    assert len(every) > 25
    for path, command in every:
        section = told.partition(f"<code>{path}</code>")[2].partition("<h2")[0].partition("<h3")[0]
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
def test_what_a_page_asks_to_be_run_runs(page, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["HOME"] = str(tmp_path / "home")
    (tmp_path / "home").mkdir()
    (tmp_path / "page").mkdir()
    ran = subprocess.run(
        ["bash", "-s"], input=script(page), cwd=tmp_path / "page", env=environment, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-3000:]


def test_pages_that_are_to_be_run_are_found():
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
