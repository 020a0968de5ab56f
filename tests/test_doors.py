"""The locks on the doors, read from the code: nothing foreign is unpickled, run, or unpacked out of its folder.

Text is read and written in a named encoding, never in the machine's.
"""

import ast
import itertools
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from toprung import data
from toprung.errors import UserError
from toprung.records import catalog
from toprung.spec import Data, Sweep

ROOMS = ("src", "trainers", "search_spaces", "tune", "bench")

# Calls that run what a file or a text says, or can be made to; none of them is needed.
FORBIDDEN = {
    "eval", "exec", "os.popen", "os.system",
    "cloudpickle.load", "cloudpickle.loads", "dill.load", "dill.loads", "joblib.load", "marshal.loads",
    "pandas.read_pickle", "pickle.load", "pickle.loads", "shelve.open",
    "tempfile.mktemp",
    "yaml.full_load", "yaml.load", "yaml.load_all", "yaml.unsafe_load",
}  # fmt: skip
MODULES = {"np": "numpy", "pd": "pandas"}


def breaches(source: str) -> Iterator[tuple[int, str]]:
    """Line and call of everything in a module that opens a door."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and "pickle.Unpickler" in map(ast.unparse, node.bases):
            methods = [part.name for part in node.body if isinstance(part, ast.FunctionDef)]
            if "find_class" not in methods:
                yield node.lineno, "an Unpickler without find_class"
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        first, dot, rest = name.partition(".")
        name = MODULES.get(first, first) + dot + rest
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if name in FORBIDDEN or name == "pickle.Unpickler":
            yield node.lineno, name
        if name == "torch.load" and given.get("weights_only") != "True":
            yield node.lineno, "torch.load without weights_only=True"
        if name == "numpy.load" and given.get("allow_pickle", "False") != "False":
            yield node.lineno, "numpy.load with allow_pickle"
        if name.endswith((".extractall", ".extract")) and given.get("filter") != "'data'":
            yield node.lineno, f"{name} without filter='data'"
        if name in ("shutil.unpack_archive", "torch.hub.load", "torch.package.PackageImporter"):
            yield node.lineno, name
        if given.get("shell", "False") != "False":
            yield node.lineno, f"{name} with a shell"
        if "trust_remote_code" in given:
            yield node.lineno, f"{name} with trust_remote_code"
        # Ruff's PLW1514 finds `open`, but only such paths as it can infer.
        if name.endswith((".read_text", ".write_text")) and "encoding" not in given:
            yield node.lineno, f"{name} without an encoding"
        if given.get("text") == "True" and "encoding" not in given:
            yield node.lineno, f"{name} with text=True and no encoding"


def unsafe_paths(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and command of every Python process that has the current folder first on its path."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.List | ast.Tuple):
            words = [ast.unparse(word) for word in node.elts]
            for python, option in itertools.pairwise(words):
                if python in ("sys.executable", "'python'") and option in ("'-m'", "'-c'"):
                    yield node.lineno, " ".join(words[:4])


def test_no_python_process_imports_the_projects_modules_instead_of_pythons(project):
    at_home = project / "src/toprung/cluster/jobs"  # a job's engine travels in its working directory
    files = [file for file in (project / "src").rglob("*.py") if at_home not in file.parents]
    test_no_python_process_imports_the_projects_modules_instead_of_pythons = [
        f"{file.relative_to(project)}:{line}: {what}" for file in files for line, what in unsafe_paths(_text(file))
    ]
    assert test_no_python_process_imports_the_projects_modules_instead_of_pythons == []
    assert list(unsafe_paths("run([sys.executable, '-m', module])")) == [(1, "sys.executable '-m' module")]


def test_no_module_runs_unpickles_or_unpacks_what_came_from_outside(project):
    files = [file for room in ROOMS for file in (project / room).rglob("*.py")]
    assert len(files) > 100
    result = [f"{file.relative_to(project)}:{line}: {what}" for file in files for line, what in breaches(_text(file))]
    assert result == []


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "source",
    [
        "pickle.load(file)",
        "pickle.Unpickler(file).load()",
        "class Open(pickle.Unpickler):\n    pass",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "archive.extractall(folder)",
        "subprocess.run(text, shell=True)",
        "eval(text)",
        "(folder / name).read_text()",
        "file.write_text(text)",
        "subprocess.run(words, text=True)",
    ],
)
def test_each_open_door_is_found(source):
    assert [line for line, _ in breaches(source)] == [1]


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path)",
        "yaml.safe_load(text)",
        "archive.extractall(folder, filter='data')",
        "model.eval()",
        "subprocess.run(words)",
        "subprocess.run(words, encoding='utf-8')",
        "file.read_text(encoding='utf-8')",
    ],
)
def test_a_shut_door_is_let_be(source):
    assert list(breaches(source)) == []


OUTSIDE = ["..", "../outside", "/outside", "inside/../../outside", "a/b", "a\\b", "a\n", "~"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_name_that_is_given_leads_out_of_its_folder(tmp_path, name):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "sweep.json").write_text("{}")
    root = tmp_path / "runs"
    sweep_dir = catalog.create_sweep(root, _sweep("digits"), name=name, now=datetime(2026, 1, 1))  # a name is no path
    assert sweep_dir.path.parent == root
    assert catalog.find_sweep(root, name) == sweep_dir
    refused = {
        "name cannot be": lambda: Data().model_copy(update={"name": name}),
        "^name cannot be": lambda: _sweep("digits").model_copy(update={"name": name}),
        "There is no dataset": lambda: data.open_prepared(name, root=root),
        "cannot be called": lambda: data.add(name, tmp_path, project=tmp_path, settings=data.FolderSettings()),
        "No sweep": lambda: catalog.find_sweep(tmp_path / "none", name),
    }
    for line, attempt in refused.items():
        with pytest.raises(UserError, match=line):
            attempt()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "runs"]


@pytest.mark.parametrize("trial_id", ["..", "../../outside", "/outside", "a/b"])
def test_a_trial_that_a_shared_study_names_stays_in_its_sweeps_folder(tmp_path, trial_id):
    sweep_dir = catalog.create_sweep(tmp_path, _sweep("digits"), name=None, now=datetime(2026, 1, 1))
    with pytest.raises(UserError, match="not a valid folder name"):
        sweep_dir.trial_folder(trial_id)
    assert sweep_dir.trial_folder("0001_a").parent == sweep_dir.trials_folder


def _sweep(name: str) -> Sweep:
    return Sweep(name=name, trainer="trainers.convnet", space="search_spaces.convnet")
