"""The house itself: what is installed, what the lock holds, what the commands and the README promise."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def _pins(lock: Path) -> dict[str, set[str]]:
    """The versions of each package in a lock; a package has several where they differ by Python's version."""
    pins: dict[str, set[str]] = {}
    for line in lock.read_text().splitlines():
        if line and not line.lstrip().startswith("#"):
            name, version = line.split(";")[0].strip().split("==")
            pins.setdefault(canonicalize_name(name), set()).add(version)
    return pins


def _tracked(project: Path) -> list[str]:
    listing = subprocess.run(["git", "ls-files"], cwd=project, check=True, capture_output=True, text=True)
    return listing.stdout.splitlines()


def test_importing_toprung_imports_no_heavy_library():
    code = "import sys, toprung; print(sorted({'mlflow', 'optuna', 'ray', 'torch'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "[]"


def test_only_the_engine_is_installed():
    top_level = importlib.metadata.distribution("toprung").read_text("top_level.txt")
    assert top_level is not None
    assert top_level.split() == ["toprung"]


def test_the_lock_holds_pins_and_nothing_of_the_machine_that_wrote_it(project):
    pin = re.compile(r"[a-z0-9][a-z0-9._-]*==[^\s;/:@]+( ; [^/:@]+)?")
    lines = (project / "requirements.lock").read_text().splitlines()
    assert [line for line in lines if not line.lstrip().startswith("#") and not pin.fullmatch(line)] == []
    assert [line for line in lines if line.lstrip().startswith("#") and ("://" in line or "@" in line)] == []


def test_the_lock_satisfies_what_pyproject_asks_for(project):
    asked = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    pins = _pins(project / "requirements.lock")
    for text in asked["dependencies"] + asked["optional-dependencies"]["dev"]:
        requirement = Requirement(text)
        versions = pins.get(canonicalize_name(requirement.name), set())
        assert versions, f"{text} is not in the lock: run make lock"
        assert all(requirement.specifier.contains(version) for version in versions), text


def test_make_alone_lists_every_target(project):
    listed = subprocess.run(["make"], cwd=project, check=True, capture_output=True, text=True).stdout
    targets = re.search(r"^\.PHONY: (.*)$", (project / "Makefile").read_text(), re.MULTILINE)
    assert targets is not None
    assert set(targets[1].split()) == set(re.findall(r"^  make ([a-z-]+) ", listed, re.MULTILINE))


def test_make_says_what_to_do_where_python_is_too_old(project, tmp_path):
    command = ["make", "install", "PYTHON=/no/such/python", f"VENV={tmp_path / 'venv'}"]
    ran = subprocess.run(command, cwd=project, check=False, capture_output=True, text=True)
    assert ran.returncode == 2
    assert "toprung needs Python 3.11 or newer" in ran.stderr
    assert "make PYTHON=/path/to/python3.11 install" in ran.stderr


def test_the_readmes_file_tree_names_everything_at_the_top(project):
    tree = (project / "README.md").read_text().rpartition("## Files")[2]
    top = {path.split("/")[0] for path in _tracked(project)}
    assert {name for name in top if not re.search(rf"^{re.escape(name)}(/|\s)", tree, re.MULTILINE)} == set()


def test_every_room_below_the_search_is_under_the_contract_against_ray(project):
    contracts = tomllib.loads((project / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    floors = next(contract["layers"] for contract in contracts if contract.get("containers") == ["toprung"])
    without_ray = next(contract for contract in contracts if contract["type"] == "forbidden")["source_modules"]
    engine = project / "src/toprung"
    below_search = floors[next(index for index, floor in enumerate(floors) if "(search)" in floor) + 1 :]
    low = [room for floor in below_search for room in re.findall(r"\w+", floor)]
    there = [room for room in low if (engine / room).is_dir() or (engine / f"{room}.py").is_file()]
    assert sorted(without_ray) == sorted(f"toprung.{room}" for room in there)
