"""The repository itself: the installed package, the lock file, the Makefile, the README and the import contracts."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def _pins(lock: Path) -> dict[str, set[str]]:
    """Return the locked versions of each package; there are several if they depend on the version of Python."""
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


def test_only_the_toprung_package_is_installed():
    top_level = importlib.metadata.distribution("toprung").read_text("top_level.txt")
    assert top_level is not None
    assert top_level.split() == ["toprung"]


def test_the_lock_has_only_pins_and_nothing_of_the_machine_that_wrote_it(project):
    pin = re.compile(r"[a-z0-9][a-z0-9._-]*==[^\s;/:@]+( ; [^/:@]+)?")
    lines = (project / "requirements.lock").read_text().splitlines()
    assert [line for line in lines if not line.lstrip().startswith("#") and not pin.fullmatch(line)] == []
    assert [line for line in lines if line.lstrip().startswith("#") and ("://" in line or "@" in line)] == []


def test_the_lock_satisfies_the_requirements_in_pyproject(project):
    metadata = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    pins = _pins(project / "requirements.lock")
    for text in metadata["dependencies"] + metadata["optional-dependencies"]["dev"]:
        requirement = Requirement(text)
        versions = pins.get(canonicalize_name(requirement.name), set())
        assert versions, f"{text} is not in the lock: run make lock"
        assert all(requirement.specifier.contains(version) for version in versions), text


def test_make_alone_lists_every_target(project):
    listed = subprocess.run(["make"], cwd=project, check=True, capture_output=True, text=True).stdout
    targets = re.search(r"^\.PHONY: (.*)$", (project / "Makefile").read_text(), re.MULTILINE)
    assert targets is not None
    assert set(targets[1].split()) == set(re.findall(r"^  make ([a-z-]+) ", listed, re.MULTILINE))


def test_make_prints_what_to_do_if_python_is_too_old(project, tmp_path):
    command = ["make", "install", "PYTHON=/no/such/python", f"VENV={tmp_path / 'venv'}"]
    ran = subprocess.run(command, cwd=project, check=False, capture_output=True, text=True)
    assert ran.returncode == 2
    assert "toprung needs Python 3.11 or newer" in ran.stderr
    assert "make PYTHON=/path/to/python3.11 install" in ran.stderr


def _installations(project: Path, environment: Path, *options: str) -> dict[str, tuple[str, list[str]]]:
    """Return what `make install` installs with each tool: its arguments and its requirements.

    The tools are "torch" (pip), "others" (uv) and "toprung" (pip).
    """
    folder, calls = environment / "bin", environment / "calls"
    calls.mkdir(parents=True)
    folder.mkdir()
    version = re.search(r"^UV_VERSION = (.*)$", (project / "Makefile").read_text(), re.MULTILINE)
    assert version is not None
    record = f'exec > "{calls}/$(date +%s%N)-$$"; echo "$*"; cat "$last" 2>/dev/null'
    tools = {
        "python": f'case "$*" in "-m pip "*) {record};; esac',
        "uv": f'case "$*" in --version) echo "uv {version[1]} (of today)";; *) {record};; esac',
    }
    for name, commands in tools.items():
        (folder / name).write_text(f"#!/bin/sh\nfor last; do true; done\n{commands}\nexit 0\n")
        (folder / name).chmod(0o755)
    command = ["make", "install", f"VENV={environment}", "LOCK=requirements.lock", *options]
    subprocess.run(command, cwd=project, check=True, capture_output=True)
    installed = {}
    for call in calls.iterdir():
        arguments, *pins = call.read_text().splitlines()
        kind = "others" if arguments.startswith("pip ") else "toprung" if "--editable" in arguments else "torch"
        installed[kind] = (arguments, [line for line in pins if re.match("[a-z]", line)])
    assert len(installed) == len([*calls.iterdir()]) == 3
    return installed


def _pins_by_kind(project: Path) -> tuple[list[str], list[str], list[str]]:
    """Return the lock's pins of torch and torchvision, of CUDA's libraries and of all other packages."""
    pins = [line for line in (project / "requirements.lock").read_text().splitlines() if re.match("[a-z]", line)]
    builds = [pin for pin in pins if re.match("torch(vision)?==", pin)]
    cuda = [pin for pin in pins if re.match("(cuda|nvidia)-|triton==", pin)]
    return builds, cuda, [pin for pin in pins if pin not in builds + cuda]


def test_make_install_installs_all_locked_packages(project, tmp_path):
    installed = _installations(project, tmp_path / "venv", "TORCH=")
    builds, cuda, rest = _pins_by_kind(project)
    assert "--no-deps" in installed["torch"][0]
    assert "--index-url" not in installed["torch"][0]
    assert sorted(installed["torch"][1]) == sorted(builds + cuda)
    assert "--no-deps" in installed["others"][0]
    assert "--compile-bytecode" in installed["others"][0]
    assert installed["others"][1] == rest
    assert installed["toprung"][0].endswith("--editable .")


def test_make_install_replaces_the_mark_of_another_lock(project, tmp_path):
    environment = tmp_path / "venv"
    environment.mkdir()
    (environment / ".locked-of-another-lock").touch()
    _installations(project, environment, "TORCH=")
    assert len([*environment.glob(".locked-*")]) == 1
    assert not (environment / ".locked-of-another-lock").exists()


def test_make_install_without_cuda_takes_torch_from_pytorchs_index_and_the_rest_from_the_lock(project, tmp_path):
    installed = _installations(project, tmp_path / "venv", "TORCH=cpu")
    builds, _, rest = _pins_by_kind(project)
    assert "--index-url https://download.pytorch.org/whl/cpu " in installed["torch"][0]
    assert [pin.removesuffix("+cpu") for pin in installed["torch"][1]] == builds
    assert installed["others"][1] == rest


def test_make_install_fails_if_one_of_the_two_installations_does(project, tmp_path):
    for failing in ("pip", "uv"):
        environment = tmp_path / failing
        (environment / "bin").mkdir(parents=True)
        is_pip, is_uv = (f"exit {int(failing == name)}" for name in ("pip", "uv"))
        (environment / "bin" / "python").write_text(f'#!/bin/sh\ncase "$*" in "-m pip "*) {is_pip};; esac\n')
        (environment / "bin" / "uv").write_text(f'#!/bin/sh\ncase "$1" in pip) {is_uv};; esac\n')
        for name in ("python", "uv"):
            (environment / "bin" / name).chmod(0o755)
        command = ["make", "install", f"VENV={environment}", "LOCK=requirements.lock", "TORCH="]
        assert subprocess.run(command, cwd=project, check=False, capture_output=True).returncode == 2
        assert [*environment.glob(".locked-*")] == []


def test_no_dependency_is_missing_from_the_lock():
    ran = subprocess.run([sys.executable, "-m", "pip", "check"], check=False, capture_output=True, text=True)
    assert ran.returncode == 0, f"{ran.stdout}Type: make lock"


def test_make_refuses_an_unknown_build_of_torch(project):
    ran = subprocess.run(["make", "install", "TORCH=gpu"], cwd=project, check=False, capture_output=True, text=True)
    assert ran.returncode == 2
    assert "TORCH=gpu is unknown" in ran.stderr


def test_the_readmes_file_tree_names_everything_at_the_top(project):
    tree = (project / "README.md").read_text().rpartition("## Files")[2]
    top = {path.split("/")[0] for path in _tracked(project)}
    assert {name for name in top if not re.search(rf"^{re.escape(name)}(/|\s)", tree, re.MULTILINE)} == set()


def test_every_package_below_search_is_under_the_contract_against_ray(project):
    contracts = tomllib.loads((project / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract.get("containers") == ["toprung"])
    without_ray = next(contract for contract in contracts if contract["type"] == "forbidden")["source_modules"]
    source = project / "src/toprung"
    below_search = layers[next(index for index, layer in enumerate(layers) if "(search)" in layer) + 1 :]
    names = [name for layer in below_search for name in re.findall(r"\w+", layer)]
    existing = [name for name in names if (source / name).is_dir() or (source / f"{name}.py").is_file()]
    assert sorted(without_ray) == sorted(f"toprung.{name}" for name in existing)
