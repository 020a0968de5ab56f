"""What is made anew at each build of the site, so that it is never behind: the command line, the list of decisions."""

import subprocess
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

COMMAND_LINE, DECISIONS = "command-line.md", "decisions"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List every decision, in the order of their numbers; called by MkDocs."""
    pages = sorted(Path(config.docs_dir, DECISIONS).glob("*.md"))
    assert config.nav is not None
    config.nav.append({"Decisions": [f"{DECISIONS}/{page.name}" for page in pages]})
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add what Typer itself tells of the commands; called by MkDocs."""
    command = [sys.executable, "-m", "typer", "toprung.cli.app", "utils", "docs", "--name", "toprung"]
    told = subprocess.run(command, check=True, capture_output=True, encoding="utf-8", errors="replace").stdout
    files.append(File.generated(config, COMMAND_LINE, content=told.replace("# `toprung`", "# The command line", 1)))
    return files
