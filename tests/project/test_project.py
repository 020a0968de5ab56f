"""The project: how it is found, what its dotted names refer to, and the messages about mistakes in it."""

import subprocess
import sys
from types import ModuleType

import pytest

from toprung.errors import UserError
from toprung.project import modules as w
from toprung.project.files import snapshot


@pytest.fixture
def active(user_project, unloaded_user_packages):
    """The project, which is activated during the test."""
    w.activate(user_project)
    return user_project


def test_the_project_is_found_from_any_folder_inside_it(user_project):
    inside = user_project / "trainers" / "deeper"
    inside.mkdir()
    assert w.find_project(user_project) == user_project
    assert w.find_project(inside) == user_project


def test_outside_a_project_the_message_says_what_a_project_is(tmp_path):
    (tmp_path / "tune").mkdir()
    with pytest.raises(UserError, match="not inside a toprung project, a folder with tune, trainers and search_spaces"):
        w.find_project(tmp_path)


def test_another_tune_package_that_was_loaded_first_is_refused(user_project, monkeypatch):
    foreign = ModuleType("tune")
    foreign.__path__ = ["/somewhere/site-packages/tune"]
    monkeypatch.setitem(sys.modules, "tune", foreign)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(
        UserError, match=r'^"tune" is loaded from .*/somewhere/site-packages/tune.*, not from .*tune\.$'
    ):
        w.activate(user_project)


def test_the_project_takes_precedence_over_another_tune_package_on_the_path(user_project, tmp_path):
    (tmp_path / "site" / "tune").mkdir(parents=True)
    (tmp_path / "site" / "tune" / "__init__.py").write_text("raise ImportError('the wrong tune')")
    code = (
        "import sys; from pathlib import Path; from toprung.project import modules as user_project; "
        f"sys.path.insert(0, {str(tmp_path / 'site')!r}); user_project.activate(Path({str(user_project)!r})); "
        "import tune; print(tune.__file__)"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == str(user_project / "tune" / "__init__.py")


def test_recipes_are_the_files_in_tune(user_project):
    assert w.list_recipes(user_project) == ["controlled", "digits", "fashion_mnist", "photos", "smoke", "two_workers"]


def test_a_recipe_is_called_by_its_dotted_name_also_as_one_of_several_in_a_file(active):
    (active / "tune" / "several.py").write_text(
        "from tune import smoke\n\ndef sweep():\n    return smoke.sweep()\n\n"
        "def long():\n    return sweep().model_copy(update={'num_trials': 99})\n"
    )
    assert w.load_recipe(active, "tune.several").num_trials == 6
    assert w.load_recipe(active, "tune.several:long").num_trials == 99


HEAD = "from toprung.spec import Asha, Sweep\n\n\ndef sweep():\n"


@pytest.mark.parametrize(
    ("name", "source", "line"),
    [
        ("tune.digit", None, 'No recipe "tune.digit". Did you mean tune.digits? '),
        ("digits", None, 'No recipe "digits". Did you mean tune.digits? '),
        ("tune/digits.py", None, 'No recipe "tune/digits.py".'),
        ("tune.digits:other", None, "tune/digits.py has no function other() that returns a Sweep."),
        ("tune.wrong", HEAD + "    return undefined\n", "name 'undefined' is not defined (tune/wrong.py line 5)"),
        ("tune.wrong", "x = 1\ny = x / 0\n", "ZeroDivisionError: division by zero (tune/wrong.py line 2)"),
        ("tune.wrong", "def sweep(:\n", "The recipe tune.wrong fails: SyntaxError: "),
        ("tune.wrong", "import no_such_module\n", "No module named 'no_such_module' (tune/wrong.py line 1)"),
        ("tune.wrong", HEAD + "    return 3\n", "The recipe tune.wrong returns int; it must return a toprung"),
        ("tune.wrong", HEAD + "    return Sweep(name='a')\n", 'recipe tune.wrong is invalid: Sweep needs "trainer".'),
        (
            "tune.wrong",
            HEAD + "    return Sweep(name='a', trainer='t.a', space='s.b', num_trails=3)\n",
            'The recipe tune.wrong is invalid: sweep has no field "num_trails"; it has name, ',
        ),
        (
            "tune.wrong",
            HEAD + "    return Sweep(name='a', trainer='t.a', space='s.b', asha=Asha(reduction_factor=1))\n",
            "The recipe tune.wrong is invalid: reduction_factor cannot be 1: ",
        ),
        (
            "tune.wrong",
            "from tune import digits\n\n\ndef sweep():\n    return digits.sweep().model_copy(update={'sedes': 1})\n",
            'sweep has no field "sedes"',
        ),
    ],
)  # fmt: skip
def test_an_invalid_recipe_is_reported_in_one_line_with_the_location(active, name, source, line):
    if source is not None:
        (active / "tune" / "wrong.py").write_text(source)
    with pytest.raises(UserError) as caught:
        w.load_recipe(active, name)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("dotted", "source", "line"),
    [
        ("trainers.convnett", None, 'No trainer "trainers.convnett". Did you mean trainers.convnet? In trainers/: '),
        ("nowhere.convnet", None, 'No trainer "nowhere.convnet". In nowhere/: nothing.'),
        ("trainers.convnet:other", None, "The trainer trainers.convnet:other has no function other()."),
        ("trainers.mine", "import torch_\n", "ModuleNotFoundError: No module named 'torch_' (trainers/mine.py line 1)"),
        ("trainers.mine", "x = 1\n", "The trainer trainers.mine has no function loop()."),
    ],
)  # fmt: skip
def test_an_unknown_dotted_name_is_reported_in_one_line(active, dotted, source, line):
    if source is not None:
        (active / "trainers" / "mine.py").write_text(source)
    with pytest.raises(UserError) as caught:
        w.import_dotted(active, dotted, default="loop", kind="trainer")
    assert line in str(caught.value)


def test_a_trainer_may_be_a_package(active):
    (active / "trainers" / "big").mkdir()
    (active / "trainers" / "big" / "__init__.py").write_text("DEFAULTS = {'lr': 1}\ndef loop(config): ...\n")
    assert w.trainer_defaults(active, "trainers.big") == {"lr": 1}
    assert callable(w.import_dotted(active, "trainers.big", default="loop", kind="trainer"))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1\n", r"^trainers/mine\.py needs DEFAULTS = \{\.\.\.\}: .*reads\.$"),
        ("DEFAULTS = dict(lr=1)\n", r"written as literal values\.$"),
        ("lr = 1\nDEFAULTS = {'lr': lr}\n", r"written as literal values\.$"),
        ("DEFAULTS = [1]\n", r"^trainers/mine\.py needs DEFAULTS"),
        ("DEFAULTS: dict\n", r"^trainers/mine\.py needs DEFAULTS"),
        ("DEFAULTS = {\n", r"^The trainer trainers\.mine cannot be read: .* \(line 1\)$"),
        ("DEFAULTS = {[]: 1}\n", r"written as literal values\.$"),
        (
            "DEFAULTS = {'lr@head': 1}\n",
            r"trainers/mine\.py cannot be recorded: MLflow rejects the '@' in \"lr@head\"\. ",
        ),
        ("DEFAULTS = {1: 1}\n", r"trainers/mine\.py cannot be recorded: 1 is not text\. Rename it in DEFAULTS\.$"),
    ],
)
def test_defaults_that_are_not_literals_are_reported_in_one_line(user_project, source, words):
    (user_project / "trainers" / "mine.py").write_text(source)
    with pytest.raises(UserError, match=words) as caught:
        w.trainer_defaults(user_project, "trainers.mine")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [b"\xef\xbb\xbfDEFAULTS = {'lr': 1}\n", b"# coding: latin-1\n# Gr\xf6\xdfe\nDEFAULTS = {'lr': 1}\n"],
    ids=["byte order mark", "coding cookie"],
)
def test_a_trainer_in_any_encoding_that_python_reads_is_read(user_project, source):
    (user_project / "trainers" / "mine.py").write_bytes(source)
    assert w.trainer_defaults(user_project, "trainers.mine") == {"lr": 1}


@pytest.mark.parametrize("source", [b"# Gr\xf6\xdfe\n", b"\n\n\n# Gr\xf6\xdfe\n", b"# coding: none\n"])
def test_a_trainer_that_cannot_be_decoded_is_reported_in_one_line(user_project, source):
    (user_project / "trainers" / "mine.py").write_bytes(source)
    with pytest.raises(
        UserError, match=r"^The trainer trainers\.mine cannot be decoded: .* Save it as UTF-8"
    ) as caught:
        w.trainer_defaults(user_project, "trainers.mine")
    assert "\n" not in str(caught.value)


def test_annotated_defaults_are_read_too(user_project):
    (user_project / "trainers" / "mine.py").write_text("DEFAULTS: dict[str, float] = {'lr': 1e-3}\n")
    assert w.trainer_defaults(user_project, "trainers.mine") == {"lr": 1e-3}


def test_the_snapshot_has_tracked_and_new_files_but_no_ignored_ones(user_project, tmp_path):
    (user_project / "trainers" / "new.py").write_text("# not tracked yet\n")
    (user_project / "trainers" / "convnet.py").write_text("# changed\n")
    (user_project / "search_spaces" / "gone.py").write_text("")
    (user_project / "trainers" / "ignored.py").write_text("# secret\n")
    (user_project / "trainers" / "weights.bin").write_text("no code")
    (user_project / "README.md").write_text("outside the three packages")
    with (user_project / ".gitignore").open("a") as file:
        file.write("trainers/ignored.py\n")
    subprocess.run(["git", "add", "search_spaces/gone.py"], cwd=user_project, check=True)
    (user_project / "search_spaces" / "gone.py").unlink()
    snapshot(user_project, tmp_path / "code")
    copied = {str(file.relative_to(tmp_path / "code")) for file in (tmp_path / "code").rglob("*") if file.is_file()}
    assert copied == {
        *(f"search_spaces/{name}.py" for name in ("__init__", "convnet", "finetune", "linear_probe")),
        *(f"trainers/{name}.py" for name in ("__init__", "convnet", "finetune", "linear_probe", "new")),
        *(f"tune/{name}.py" for name in ("__init__", "controlled", "digits", "fashion_mnist", "photos", "smoke")),
        "tune/two_workers.py",
    }
    assert (tmp_path / "code" / "trainers" / "convnet.py").read_text() == "# changed\n"


def test_the_snapshot_works_without_git(user_project, tmp_path):
    (user_project / ".git").rename(tmp_path / "git")
    compiled = user_project / "trainers" / "__pycache__" / "convnet.cpython-311.pyc"
    compiled.parent.mkdir()
    compiled.write_bytes(b"")
    snapshot(user_project, tmp_path / "code")
    assert (tmp_path / "code" / "trainers" / "convnet.py").is_file()
    assert not list((tmp_path / "code").rglob("*.pyc"))
