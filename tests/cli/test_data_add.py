"""`toprung data add` writes the dataset's recipe if requested, and prints the next command."""

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from toprung.cli import data as commands
from toprung.cli.data import app
from toprung.errors import UserError
from toprung.project.modules import activate, load_recipe
from toprung.scaffold import scaffold
from toprung.scaffold.recipe import check_recipe, recipe_name, write_recipe
from toprung.sweep.preflight import sources


@pytest.fixture
def bench(tmp_path, monkeypatch, unloaded_user_packages):
    """A new project, next to a folder of images in two classes."""
    for number in range(8):
        file = tmp_path / "pictures" / ("cat", "dog")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 20 * number).save(file)
    scaffold(tmp_path / "bench")
    monkeypatch.chdir(tmp_path / "bench")
    return tmp_path / "bench"


def added(*arguments):
    result = CliRunner().invoke(app, ["add", *arguments, "../pictures"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("flowers", "flowers"),
        ("my-cats_2", "my_cats_2"),
        ("2cats", "data_2cats"),
        ("class", "data_class"),
        ("9", "data_9"),
    ],
)
def test_the_recipe_of_any_dataset_can_be_loaded_and_swept(bench, dataset, name):
    assert recipe_name(dataset) == name
    path = write_recipe(dataset, project=bench)
    assert str(path) == f"tune/{name}.py"
    activate(bench)
    sweep = load_recipe(bench, f"tune.{name}")
    assert (sweep.name, sweep.data.name) == (dataset, dataset)
    assert len(sources(bench, sweep)) == 2
    assert "mine" not in (bench / path).read_text()


def test_a_recipe_overwrites_nothing_and_needs_its_trainer(bench):
    before = (bench / "tune/mine.py").read_bytes()
    with pytest.raises(UserError, match=r"tune/mine\.py already exists"):
        write_recipe("mine", project=bench)
    assert (bench / "tune/mine.py").read_bytes() == before
    (bench / "trainers/convnet.py").unlink()
    with pytest.raises(UserError, match=r"trainers/convnet\.py, which does not exist"):
        check_recipe("flowers", project=bench)


def test_the_recipe_is_written_if_asked_for(bench):
    output = added("flowers", "--recipe")
    assert "git add data/raw/flowers.dvc dvc.yaml tune/flowers.py\n" in output
    assert output.endswith("Prepare:  toprung data prepare flowers\nSweep:    toprung sweep tune.flowers\n")
    assert (bench / "tune/flowers.py").is_file()
    with pytest.raises(UserError, match="already exists"):
        added("flowers", "--recipe")


@pytest.mark.parametrize("option", [(), ("--no-recipe",)])
def test_without_a_terminal_no_recipe_is_written(bench, option):
    output = added("flowers", *option)
    assert output.endswith("Sweep:    toprung sweep tune.mine --set name=flowers --set data.name=flowers\n")
    assert not (bench / "tune/flowers.py").exists()


def test_a_terminal_is_asked_unless_there_is_a_recipe(bench, monkeypatch):
    questions = []
    monkeypatch.setattr(typer, "confirm", lambda question, default: questions.append(question) or True)
    monkeypatch.setattr(commands.sys, "stdin", Terminal())
    monkeypatch.setattr(commands.sys, "stdout", Terminal())
    assert commands._wants_recipe("flowers", project=bench)
    assert questions == ["Write tune/flowers.py, a recipe that sweeps flowers?"]
    assert not commands._wants_recipe("mine", project=bench)
    assert len(questions) == 1


class Terminal:
    def isatty(self):
        return True
