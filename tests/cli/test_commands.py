"""Commands that do not need Ray: their help, and the output of `toprung list` and the end screen."""

import io
import json
from datetime import datetime

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tests.commandline import all_commands
from toprung.analysis.summary import sweep_summary
from toprung.cli.app import MODULES, app
from toprung.cli.confirm import confirm
from toprung.cli.summary import print_end, print_summary
from toprung.errors import UserError
from toprung.records import catalog
from toprung.records.ledger import TrialRecord
from toprung.scaffold import scaffold
from toprung.sweep.driver import Outcome
from toprung.sweep.progress import SweepProgress
from tune import smoke

COMMANDS = all_commands()


@pytest.fixture
def run(monkeypatch):
    def run_in(folder, *arguments):
        monkeypatch.chdir(folder)
        result = CliRunner().invoke(app, [*arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    return run_in


@pytest.fixture
def sweep_dir(tmp_path):
    return catalog.create_sweep(tmp_path / "runs", smoke.sweep(), name=None, now=datetime.now(), recipe="tune.smoke")


def test_the_table_of_modules_lists_every_command():
    group = COMMANDS["toprung",]
    assert {*group.commands} == {*MODULES}
    assert all(group.commands[name].name == name for name in MODULES)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_each_command_and_each_option_has_a_help_text(path):
    command = COMMANDS[path]
    assert command.help
    assert [parameter.name for parameter in command.params if not getattr(parameter, "help", None)] == []


def test_an_empty_list_names_a_recipe_of_the_project(run, user_project):
    assert run(user_project, "list") == "No sweeps yet. Type: toprung sweep tune.digits\n"
    (user_project / "tune" / "digits.py").unlink()
    assert run(user_project, "list") == "No sweeps yet. Type: toprung sweep tune.controlled\n"


def test_an_empty_list_names_a_recipe_of_a_new_project(run, tmp_path):
    scaffold(tmp_path / "new")
    assert run(tmp_path / "new", "list") == "No sweeps yet. Type: toprung sweep tune.mine\n"


def test_outside_a_project_an_empty_list_names_no_recipe(run, tmp_path):
    assert run(tmp_path, "list", "--storage", str(tmp_path)) == "No sweeps yet. Type: toprung sweep RECIPE\n"


def test_a_sweep_of_another_format_is_listed_with_its_format_and_with_what_to_do(run, sweep_dir):
    content = json.loads(sweep_dir.spec_file.read_text()) | {"format": 1, "toprung": "0.1.0"}
    sweep_dir.spec_file.write_text(json.dumps(content))
    printed = run(sweep_dir.path.parent, "list", "--storage", str(sweep_dir.path.parent))
    header, row, empty, reason = printed.splitlines()
    assert header.split() == ["sweep", "name", "status", "trials", "best", "started"]
    assert row.split() == [sweep_dir.sweep_id, "unreadable", "(format", "1)"]
    assert empty == ""
    assert reason.startswith(f"{sweep_dir.sweep_id} was created by toprung 0.1.0 in format 1; ")
    assert reason.endswith("toprung sweep tune.smoke")


def test_many_unreadable_sweeps_are_explained_by_the_first_three(run, tmp_path):
    for day in range(1, 6):
        sweep = catalog.create_sweep(tmp_path, smoke.sweep(), name=None, now=datetime(2026, 1, day))
        sweep.spec_file.write_text('{"na')
    lines = run(tmp_path, "list", "--storage", str(tmp_path)).splitlines()
    assert [line.split()[1] for line in lines[1:6]] == ["unreadable"] * 5
    assert [line.partition(" (")[0].rpartition("/")[2] for line in lines[7:10]] == ["sweep.json cannot be read"] * 3
    assert lines[10:] == ["2 more sweeps cannot be read: toprung list --json"]


def _printed(print_content, content):
    stream = io.StringIO()
    print_content(Console(file=stream, width=200), content)
    return stream.getvalue().splitlines()[0]


def test_the_end_screen_and_show_print_the_same_seconds(sweep_dir):
    sweep_dir.write(sweep_dir.status_file, {"status": "finished", "seconds": 94.4})
    progress = SweepProgress(sweep_dir.sweep_id, smoke.sweep(), 1)
    outcome = Outcome("finished", None, sweep_dir, progress, [])
    assert _printed(print_end, outcome).startswith(f"{sweep_dir.sweep_id} finished in 1 min 34 s: ")
    assert _printed(print_summary, sweep_summary(sweep_dir)).startswith(
        f"{sweep_dir.sweep_id}: finished in 1 min 34 s, "
    )


def test_one_trial_of_one_epoch_is_singular(sweep_dir):
    progress = SweepProgress(sweep_dir.sweep_id, smoke.sweep(), 1)
    progress.add(TrialRecord(0, "a", "running", {"optimizer": "sgd", "lr": 0.1}, {}, None, None))
    progress.report("a", 0.5, epoch=1)
    assert ": 1 trial, 1 epoch, " in _printed(print_end, Outcome("finished", None, sweep_dir, progress, []))


def test_show_prints_the_trials_best_first_and_those_without_a_rank_last(sweep_dir):
    def trial(number, rank):
        result = {"number": number, "rank": rank, "value": rank and 1 - rank / 10, "epoch": rank and 1, "epochs": 1}
        return {
            **result,
            "status": "failed" if rank is None else "finished",
            "rung": None,
            "audited": None,
            "cause": "",
            "config": {},
        }

    trials = [trial(number, rank) for number, rank in enumerate([3, None, 1, 2])]
    stream = io.StringIO()
    print_summary(Console(file=stream, width=200), {**sweep_summary(sweep_dir), "trials": trials})
    rows = stream.getvalue().splitlines()[3:7]
    assert [row.split()[0] for row in rows] == ["2", "3", "0", "1"]


@pytest.mark.parametrize(("num_images", "advice"), [(1088, " --folds 5"), (50_000, ""), (None, "")])
def test_the_end_screen_recommends_folds_for_a_small_dataset(sweep_dir, num_images, advice):
    sweep_dir.export_folder.mkdir()
    sweep_dir.write(sweep_dir.lineage_file, {} if num_images is None else {"num_images": num_images})
    progress = SweepProgress(sweep_dir.sweep_id, smoke.sweep(), 1)
    for number in range(2):
        progress.add(TrialRecord(number, str(number), "running", {}, {}, None, None))
    stream = io.StringIO()
    print_end(Console(file=stream, width=200), Outcome("finished", None, sweep_dir, progress, []))
    (line,) = [line for line in stream.getvalue().splitlines() if "partly luck" in line]
    assert line.endswith(f": toprung confirm {sweep_dir.sweep_id}{advice}")
    assert ("1088 images are few" in line) == bool(advice)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 5, "seeds": 3}, "--seeds and --folds are mutually exclusive"),
        ({"repeats": 2}, "Give its folds too, such as --folds 5"),
    ],
)
def test_options_of_a_confirmation_that_exclude_each_other_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        confirm("some", **options)


def test_a_single_fold_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["confirm", "some", "--folds", "1"])
    assert result.exit_code == 2
    assert "greater than or equal to 2" in result.output
