"""A release: notes from the changelog, a tag that matches pyproject.toml, a wheel that needs only its dependencies."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.environments import environment_beside

PROJECT = Path(__file__).parent.parent


def _copy(target: Path, *names: str) -> None:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *names]
    for file in subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stdout.split():
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PROJECT / file, target / file)


@pytest.fixture
def notes(tmp_path):
    """A function that writes a tag's release notes, using a copy of the source files."""
    _copy(tmp_path, ".github/scripts/release_notes.py", "pyproject.toml", "CHANGELOG.md")

    def run(tag):
        command = [sys.executable, ".github/scripts/release_notes.py", tag, "out/notes.md"]
        return subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)

    run.folder = tmp_path
    return run


def test_the_notes_are_the_changelogs_section_of_the_version(notes):
    project = notes.folder / "pyproject.toml"
    project.write_text(re.sub(r'^version = ".*"$', 'version = "9.8.7"', project.read_text(), flags=re.MULTILINE))
    changelog = notes.folder / "CHANGELOG.md"
    before, _, after = changelog.read_text().partition("## [Unreleased]\n")
    changelog.write_text(f"{before}## [Unreleased]\n\n## [9.8.7] - 2030-01-02\n{after}")
    ran = notes("v9.8.7")
    assert ran.returncode == 0, ran.stderr
    text = (notes.folder / "out/notes.md").read_text()
    assert text.startswith("### Added\n#### Running sweeps\n- `make sweep` runs a complete sweep")
    assert "9.8.7" not in text


def test_another_tag_or_a_version_without_a_section_is_refused(notes):
    wrong, missing = notes("v0.0.0"), notes("v0.1.0")
    assert 'The tag "v0.0.0" is not v' in wrong.stderr
    assert "CHANGELOG.md has no section [0.1.0]" in missing.stderr
    assert (wrong.returncode, missing.returncode) == (1, 1)
    assert not (notes.folder / "out").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_wheel_works_with_only_its_dependencies(tmp_path):
    _copy(tmp_path / "source", "src", "pyproject.toml", "README.md", "LICENSE")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", tmp_path / "source"]
    subprocess.run(build, check=True, capture_output=True)
    environment_beside(tmp_path / "env")
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    install = [tmp_path / "env" / "bin" / "python", "-m", "pip", "install", "-q", "--no-deps", wheel]
    subprocess.run(install, check=True, capture_output=True)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    check = [PROJECT / ".github" / "scripts" / "check-wheel", tmp_path / "env" / "bin"]
    ran = subprocess.run(check, env=env, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
