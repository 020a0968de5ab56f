"""Static security checks of the code: no untrusted input is unpickled, executed or unpacked outside its folder.

In addition, text is always read and written in an explicit encoding, never the machine's default.
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

FOLDERS = ("src", "trainers", "search_spaces", "tune", "bench")

# Calls that execute the content of a file or a text, or can be made to do so. The project needs none of them.
FORBIDDEN = {
    "eval", "exec", "os.popen", "os.system",
    "cloudpickle.load", "cloudpickle.loads", "dill.load", "dill.loads", "joblib.load", "marshal.loads",
    "pandas.read_pickle", "pickle.load", "pickle.loads", "shelve.open",
    "tempfile.mktemp",
    "yaml.full_load", "yaml.load", "yaml.load_all", "yaml.unsafe_load",
}  # fmt: skip
MODULES = {"np": "numpy", "pd": "pandas"}


def unsafe_calls(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and a description of every unsafe call in a module."""
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
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name in FORBIDDEN or name == "pickle.Unpickler":
            yield node.lineno, name
        if name == "torch.load" and keywords.get("weights_only") != "True":
            yield node.lineno, "torch.load without weights_only=True"
        if name == "numpy.load" and keywords.get("allow_pickle", "False") != "False":
            yield node.lineno, "numpy.load with allow_pickle"
        if name.endswith((".extractall", ".extract")) and keywords.get("filter") != "'data'":
            yield node.lineno, f"{name} without filter='data'"
        if name in ("shutil.unpack_archive", "torch.hub.load", "torch.package.PackageImporter"):
            yield node.lineno, name
        if keywords.get("shell", "False") != "False":
            yield node.lineno, f"{name} with a shell"
        if "trust_remote_code" in keywords:
            yield node.lineno, f"{name} with trust_remote_code"
        # Ruff's PLW1514 finds `open`, but methods of paths only if it can infer their type.
        # `atomic_write` always writes UTF-8.
        is_path_method = name.endswith((".read_text", ".write_text")) and not name.startswith("atomic_write.")
        if is_path_method and "encoding" not in keywords:
            yield node.lineno, f"{name} without an encoding"
        if keywords.get("text") == "True" and "encoding" not in keywords:
            yield node.lineno, f"{name} with text=True and no encoding"


def unsafe_paths(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and command of every Python process whose path starts with the current folder."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.List | ast.Tuple):
            words = [ast.unparse(word) for word in node.elts]
            for python, option in itertools.pairwise(words):
                if python in ("sys.executable", "'python'") and option in ("'-m'", "'-c'"):
                    yield node.lineno, " ".join(words[:4])


def test_no_python_process_imports_the_projects_modules_instead_of_pythons(project):
    jobs = project / "src/toprung/cluster/jobs"  # a job's toprung is in its working directory
    files = [file for file in (project / "src").rglob("*.py") if jobs not in file.parents]
    problems = [
        f"{file.relative_to(project)}:{line}: {what}" for file in files for line, what in unsafe_paths(_text(file))
    ]
    assert problems == []
    assert list(unsafe_paths("run([sys.executable, '-m', module])")) == [(1, "sys.executable '-m' module")]


def test_no_module_runs_unpickles_or_unpacks_untrusted_input(project):
    files = [file for folder in FOLDERS for file in (project / folder).rglob("*.py")]
    assert len(files) > 100
    problems = [
        f"{file.relative_to(project)}:{line}: {what}" for file in files for line, what in unsafe_calls(_text(file))
    ]
    assert problems == []


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
def test_each_unsafe_call_is_found(source):
    assert [line for line, _ in unsafe_calls(source)] == [1]


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
def test_a_safe_call_is_accepted(source):
    assert list(unsafe_calls(source)) == []


OUTSIDE = ["..", "../outside", "/outside", "inside/../../outside", "a/b", "a\\b", "a\n", "~"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_name_leads_out_of_its_folder(tmp_path, name):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "sweep.json").write_text("{}")
    root = tmp_path / "runs"
    sweep_dir = catalog.create_sweep(root, _sweep("digits"), name=name, now=datetime(2026, 1, 1))  # not used as a path
    assert sweep_dir.path.parent == root
    assert catalog.find_sweep(root, name) == sweep_dir
    attempts = {
        "name cannot be": lambda: Data().model_copy(update={"name": name}),
        "^name cannot be": lambda: _sweep("digits").model_copy(update={"name": name}),
        "There is no dataset": lambda: data.open_prepared(name, root=root),
        "cannot be called": lambda: data.add(name, tmp_path, project=tmp_path, settings=data.FolderSettings()),
        "No sweep": lambda: catalog.find_sweep(tmp_path / "none", name),
    }
    for message, attempt in attempts.items():
        with pytest.raises(UserError, match=message):
            attempt()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside", "runs"]


@pytest.mark.parametrize("trial_id", ["..", "../../outside", "/outside", "a/b"])
def test_a_trial_id_from_a_shared_study_stays_in_its_sweeps_folder(tmp_path, trial_id):
    sweep_dir = catalog.create_sweep(tmp_path, _sweep("digits"), name=None, now=datetime(2026, 1, 1))
    with pytest.raises(UserError, match="not a valid folder name"):
        sweep_dir.trial_folder(trial_id)
    assert sweep_dir.trial_folder("0001_a").parent == sweep_dir.trials_folder


def _sweep(name: str) -> Sweep:
    return Sweep(name=name, trainer="trainers.convnet", space="search_spaces.convnet")
