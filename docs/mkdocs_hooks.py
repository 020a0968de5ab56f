"""MkDocs hooks that generate the command line reference and the list of decisions at each build."""

import subprocess
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

COMMAND_LINE, DECISIONS = "command-line.md", "decisions"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add every decision to the navigation, in numerical order. Called by MkDocs."""
    pages = sorted(Path(config.docs_dir, DECISIONS).glob("*.md"))
    assert config.nav is not None
    config.nav.append({"Decisions": [f"{DECISIONS}/{page.name}" for page in pages]})
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the command line reference, as Typer generates it. Called by MkDocs."""
    command = [sys.executable, "-m", "typer", "toprung.cli.app", "utils", "docs", "--name", "toprung"]
    reference = subprocess.run(command, check=True, capture_output=True, encoding="utf-8", errors="replace").stdout
    reference = reference.replace("# `toprung`", "# The command line", 1)
    files.append(File.generated(config, COMMAND_LINE, content=reference))
    return files
