"""A sweep's directory: ids, names, and what a person is told where a file is broken."""

import json
from datetime import datetime
from importlib import metadata

import pytest

from toprung.analysis.summary import brief, sweep_summary
from toprung.errors import UserError
from toprung.records import catalog, ledger
from toprung.records.sweep_dir import FAILURE_FILE, Failure, SweepDirectory, write_json
from toprung.spec import Sweep
from toprung.sweep.maintenance import orphaned_sweeps

NOW = datetime(2026, 11, 23, 14, 12, 7)
SWEEP = Sweep(name="digits", trainer="trainers.convnet", space="search_spaces.convnet")


def _create(root, *, name=None, now=NOW):
    return catalog.create_sweep(root, SWEEP, name=name, now=now)


def test_ids_made_in_one_second_are_unique_and_the_newest_is_listed_first(tmp_path):
    sweep_dir = [_create(tmp_path) for _ in range(12)]
    ids = [sweep_dir.sweep_id for sweep_dir in sweep_dir]
    assert ids[:2] == ["digits-20261123-141207", "digits-20261123-141207-2"]
    assert len(set(ids)) == 12
    assert [sweep_dir.sweep_id for sweep_dir in catalog.list_sweeps(tmp_path)] == ids[::-1]


def test_ids_of_one_recipe_sort_by_time(tmp_path):
    moments = [NOW, NOW.replace(second=9), NOW.replace(minute=13), NOW.replace(hour=20), NOW.replace(year=2027)]
    ids = [_create(tmp_path, now=moment).sweep_id for moment in moments]
    assert sorted(ids) == ids


def test_the_spec_is_read_back_as_it_was_given(tmp_path):
    sweep = SWEEP.model_copy(update={"num_trials": 3, "constants": {"lr": 0.5}})
    sweep_dir = catalog.create_sweep(tmp_path, sweep, name="first", now=NOW)
    again = SweepDirectory(sweep_dir.path)
    assert again.spec() == sweep
    assert catalog.read_name(again) == "first"


def test_a_sweep_of_an_older_format_is_met_with_one_line(tmp_path):
    sweep_dir = _create(tmp_path)
    content = sweep_dir.read(sweep_dir.spec_file)
    sweep_dir.write(sweep_dir.spec_file, {name: content[name] for name in ("name", "recipe", "settings", "spec")})
    sweep_dir.write(sweep_dir.status_file, {"status": "running"})
    with pytest.raises(UserError) as caught:
        sweep_dir.spec()
    version = metadata.version("toprung")
    assert str(caught.value) == (
        f"{sweep_dir.sweep_id} was made by toprung 0.1.0 in format 1; this version, {version}, reads format "
        f"{content['format']}. "
        "Use the version that made it, or start a new sweep: toprung sweep RECIPE"
    )
    assert brief(sweep_dir)["reason"] == str(caught.value)
    assert not [*orphaned_sweeps(tmp_path)]  # its keys are not read as today's
    sweep_dir.write(
        sweep_dir.spec_file, {**content, "format": content["format"] + 1, "toprung": "9.0.0", "recipe": "tune.mine"}
    )
    with pytest.raises(UserError, match=r"was made by toprung 9\.0\.0 in format .*: toprung sweep tune\.mine$"):
        sweep_dir.spec()


def test_a_sweep_is_found_by_its_id_and_by_its_name(tmp_path):
    first, second = _create(tmp_path, name="first"), _create(tmp_path)
    assert catalog.find_sweep(tmp_path, first.sweep_id) == first
    assert catalog.find_sweep(tmp_path, "first") == first
    assert catalog.find_sweep(tmp_path, second.sweep_id) == second


def test_a_name_that_is_taken_is_refused_and_nothing_is_made(tmp_path):
    first = _create(tmp_path, name="first")
    before = sorted(tmp_path.iterdir())
    for taken in ("first", first.sweep_id):
        with pytest.raises(UserError, match=rf'^A sweep named "{taken}" is there already \({first.sweep_id}\)\.'):
            _create(tmp_path, name=taken)
    assert sorted(tmp_path.iterdir()) == before


def test_a_sweep_that_is_not_there_names_the_newest_ones(tmp_path):
    with pytest.raises(UserError, match=r"Newest here: none yet\. Type: toprung list"):
        catalog.find_sweep(tmp_path / "nowhere", "some")
    sweep_dir = _create(tmp_path)
    with pytest.raises(UserError, match=rf'^No sweep "some" in .*Newest here: {sweep_dir.sweep_id}\.'):
        catalog.find_sweep(tmp_path, "some")


def test_a_root_that_cannot_be_written_is_named_and_left_alone(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"^The storage folder .* cannot be written \(.*--set storage=FOLDER$"):
            _create(root)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "not a folder"


def test_json_is_written_whole_and_nothing_lies_beside_it(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1})
    write_json(tmp_path / "a.json", {"b": 2})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"b": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("content", ["", '{"name": null, "sp', "[1, 2]", "\udcff"])
def test_a_half_written_spec_gets_one_line_that_names_the_file(tmp_path, content):
    sweep_dir = _create(tmp_path)
    sweep_dir.spec_file.write_text(content, errors="surrogateescape")
    with pytest.raises(UserError) as caught:
        sweep_dir.spec()
    assert str(sweep_dir.spec_file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_spec_changed_by_hand_gets_one_line_that_names_file_and_field(tmp_path):
    sweep_dir = _create(tmp_path)
    content = json.loads(sweep_dir.spec_file.read_text())
    content["spec"]["num_trials"] = 0
    sweep_dir.spec_file.write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        sweep_dir.spec()
    assert str(caught.value) == (
        f"{sweep_dir.spec_file} is not a sweep's spec: num_trials cannot be 0: Input should be greater than "
        "or equal to 1."
    )


def test_a_broken_sweep_hides_no_other_one(tmp_path):
    broken, whole = _create(tmp_path), _create(tmp_path, name="whole")
    broken.spec_file.write_text('{"name": "bro')
    assert catalog.find_sweep(tmp_path, "whole") == whole
    assert catalog.find_sweep(tmp_path, whole.sweep_id) == whole
    assert catalog.find_sweep(tmp_path, broken.sweep_id) == broken
    assert _create(tmp_path, name="another").path.is_dir()
    by_id = {line["sweep_id"]: line for line in map(brief, catalog.list_sweeps(tmp_path))}
    assert by_id[broken.sweep_id]["status"] == "unreadable"
    assert str(broken.spec_file) in by_id[broken.sweep_id]["reason"]
    assert by_id[whole.sweep_id]["status"] == "unknown"


@pytest.mark.parametrize("content", ["{}", '{"state": "?"}'])
def test_a_status_file_without_a_status_reads_as_unknown(tmp_path, content):
    sweep_dir = _create(tmp_path)
    sweep_dir.status_file.write_text(content)
    assert sweep_summary(sweep_dir)["status"] == "unknown"


def test_a_half_written_status_file_gets_a_line_that_names_it(tmp_path):
    sweep_dir = _create(tmp_path)
    sweep_dir.status_file.write_text('{"status": "run')
    with pytest.raises(UserError, match=r"status\.json cannot be read"):
        sweep_summary(sweep_dir)


def test_a_sweep_that_never_asked_for_a_trial_has_none(tmp_path):
    sweep_dir = _create(tmp_path)
    assert ledger.read(sweep_dir) == []
    sweep_dir.ledger_file.write_text("")
    assert ledger.read(sweep_dir) == []


def test_a_foreign_ledger_gets_a_line_that_names_it(tmp_path):
    sweep_dir = _create(tmp_path)
    sweep_dir.ledger_file.write_text("something else\nand more\n")
    with pytest.raises(UserError, match=r"^The ledger .*ledger\.log cannot be read: "):
        ledger.read(sweep_dir)


@pytest.mark.parametrize(
    ("left", "failure"),
    [
        ('{"cause": "NaN", "disk_full": false, "pid": 1}', Failure("NaN", disk_full=False)),
        ('{"cause": "full", "disk_full": true}', Failure("full", disk_full=True)),
        ('{"cause": "of an older toprung"}', None),
        ('{"cau', None),
        ("[1]", None),
        ("", None),
    ],
)
def test_a_failure_is_read_back_where_it_is_whole(tmp_path, left, failure):
    sweep_dir = _create(tmp_path)
    sweep_dir.trial_folder("aa").mkdir()
    assert sweep_dir.read_failure("aa") is None
    (sweep_dir.trial_folder("aa") / FAILURE_FILE).write_text(left)
    assert sweep_dir.read_failure("aa") == failure


def test_a_sweep_is_driven_while_its_lock_is_held_whatever_its_files_say(tmp_path):
    sweep_dir = _create(tmp_path)
    sweep_dir.write(sweep_dir.status_file, {"status": "running"})
    assert not sweep_dir.has_live_driver()
    assert sweep_summary(sweep_dir)["status"] == "interrupted"
    with sweep_dir.lock():
        assert sweep_dir.has_live_driver()
        assert sweep_summary(sweep_dir)["status"] == "running"
    assert not sweep_dir.has_live_driver()


def test_the_spec_names_the_recipe_it_was_made_from_and_what_was_changed_in_it(tmp_path):
    sweep_dir = catalog.create_sweep(
        tmp_path, SWEEP, name=None, now=NOW, recipe="tune.digits", settings=["num_trials=3"]
    )
    asked = sweep_dir.read(sweep_dir.spec_file)
    assert (asked["recipe"], asked["settings"]) == ("tune.digits", ["num_trials=3"])


def test_only_folders_with_a_spec_are_sweeps(tmp_path):
    sweep_dir = _create(tmp_path)
    (tmp_path / "mlartifacts").mkdir()
    (tmp_path / "mlflow.db").write_text("")
    assert list(catalog.list_sweeps(tmp_path)) == [sweep_dir]
