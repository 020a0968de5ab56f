"""A sweep's directory: ids, names, and the messages about damaged files."""

import json
from datetime import datetime
from importlib import metadata

import filelock
import pytest

from toprung.analysis.summary import brief, sweep_summary
from toprung.errors import UserError
from toprung.records import catalog, ledger
from toprung.records.lineage import read_lineage
from toprung.records.sweep_dir import SweepDirectory, write_json
from toprung.records.trial_folder import FAILURE_FILE, Failure
from toprung.spec import Sweep
from toprung.sweep.maintenance import orphaned_sweeps

NOW = datetime(2026, 11, 23, 14, 12, 7)
SWEEP = Sweep(name="digits", trainer="trainers.convnet", space="search_spaces.convnet")


def _create(root, *, name=None, now=NOW):
    return catalog.create_sweep(root, SWEEP, name=name, now=now)


def test_ids_made_in_one_second_are_unique_and_the_newest_is_listed_first(tmp_path):
    ids = [_create(tmp_path).sweep_id for _ in range(12)]
    assert ids[:2] == ["digits-20261123-141207", "digits-20261123-141207-2"]
    assert len(set(ids)) == 12
    assert [sweep_dir.sweep_id for sweep_dir in catalog.list_sweeps(tmp_path)] == ids[::-1]


def test_ids_of_one_recipe_sort_by_time(tmp_path):
    times = [NOW, NOW.replace(second=9), NOW.replace(minute=13), NOW.replace(hour=20), NOW.replace(year=2027)]
    ids = [_create(tmp_path, now=time).sweep_id for time in times]
    assert sorted(ids) == ids


def test_the_spec_is_read_as_it_was_written(tmp_path):
    sweep = SWEEP.model_copy(update={"num_trials": 3, "constants": {"lr": 0.5}})
    sweep_dir = catalog.create_sweep(tmp_path, sweep, name="first", now=NOW)
    again = SweepDirectory(sweep_dir.path)
    assert again.spec() == sweep
    assert catalog.read_name(again) == "first"


def test_the_error_for_a_sweep_of_an_older_format_is_one_line(tmp_path):
    sweep_dir = _create(tmp_path)
    content = sweep_dir.read(sweep_dir.spec_file)
    sweep_dir.write(sweep_dir.spec_file, {name: content[name] for name in ("name", "recipe", "settings", "spec")})
    sweep_dir.write(sweep_dir.status_file, {"status": "running"})
    with pytest.raises(UserError) as caught:
        sweep_dir.spec()
    version = metadata.version("toprung")
    assert str(caught.value) == (
        f"{sweep_dir.sweep_id} was created by toprung 0.1.0 in format 1; this version, {version}, reads format "
        f"{content['format']}. "
        "Use the version that created it, or start a new sweep: toprung sweep RECIPE"
    )
    assert brief(sweep_dir)["reason"] == str(caught.value)
    assert not [*orphaned_sweeps(tmp_path)]  # its old keys are not read as current ones
    sweep_dir.write(
        sweep_dir.spec_file, {**content, "format": content["format"] + 1, "toprung": "9.0.0", "recipe": "tune.mine"}
    )
    with pytest.raises(UserError, match=r"was created by toprung 9\.0\.0 in format .*: toprung sweep tune\.mine$"):
        sweep_dir.spec()


def test_a_sweep_is_found_by_its_id_and_by_its_name(tmp_path):
    first, second = _create(tmp_path, name="first"), _create(tmp_path)
    assert catalog.find_sweep(tmp_path, first.sweep_id) == first
    assert catalog.find_sweep(tmp_path, "first") == first
    assert catalog.find_sweep(tmp_path, second.sweep_id) == second


def test_a_name_that_is_taken_is_refused_and_nothing_is_created(tmp_path):
    first = _create(tmp_path, name="first")
    before = sorted(tmp_path.iterdir())
    for taken in ("first", first.sweep_id):
        with pytest.raises(UserError, match=rf'^A sweep named "{taken}" already exists \({first.sweep_id}\)\.'):
            _create(tmp_path, name=taken)
    assert sorted(tmp_path.iterdir()) == before


def test_the_error_for_a_missing_sweep_names_the_newest_ones(tmp_path):
    with pytest.raises(UserError, match=r"Newest sweeps: none yet\. Type: toprung list"):
        catalog.find_sweep(tmp_path / "nowhere", "some")
    sweep_dir = _create(tmp_path)
    with pytest.raises(UserError, match=rf'^No sweep "some" in .*Newest sweeps: {sweep_dir.sweep_id}\.'):
        catalog.find_sweep(tmp_path, "some")


def test_a_root_that_cannot_be_written_is_named_and_not_changed(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"^The storage folder .* cannot be written \(.*--set storage=FOLDER$"):
            _create(root)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "not a folder"


def test_writing_json_leaves_no_other_file(tmp_path):
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
def test_the_error_for_an_incomplete_spec_is_one_line_that_names_the_file(tmp_path, content):
    sweep_dir = _create(tmp_path)
    sweep_dir.spec_file.write_text(content, errors="surrogateescape")
    with pytest.raises(UserError) as caught:
        sweep_dir.spec()
    assert str(sweep_dir.spec_file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_error_for_an_invalid_spec_names_the_file_and_the_field(tmp_path):
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


def test_a_damaged_sweep_does_not_hide_other_sweeps(tmp_path):
    damaged, whole = _create(tmp_path), _create(tmp_path, name="whole")
    damaged.spec_file.write_text('{"name": "bro')
    assert catalog.find_sweep(tmp_path, "whole") == whole
    assert catalog.find_sweep(tmp_path, whole.sweep_id) == whole
    assert catalog.find_sweep(tmp_path, damaged.sweep_id) == damaged
    assert _create(tmp_path, name="another").path.is_dir()
    by_id = {line["sweep_id"]: line for line in map(brief, catalog.list_sweeps(tmp_path))}
    assert by_id[damaged.sweep_id]["status"] == "unreadable"
    assert str(damaged.spec_file) in by_id[damaged.sweep_id]["reason"]
    assert by_id[whole.sweep_id]["status"] == "unknown"


@pytest.mark.parametrize("content", ["{}", '{"state": "?"}'])
def test_a_status_file_without_a_status_reads_as_unknown(tmp_path, content):
    sweep_dir = _create(tmp_path)
    sweep_dir.status_file.write_text(content)
    assert sweep_summary(sweep_dir)["status"] == "unknown"


def test_the_error_for_an_incomplete_status_file_names_it(tmp_path):
    sweep_dir = _create(tmp_path)
    sweep_dir.status_file.write_text('{"status": "run')
    with pytest.raises(UserError, match=r"status\.json cannot be read"):
        sweep_summary(sweep_dir)


def test_a_sweep_without_a_ledger_or_with_an_empty_one_has_no_trials(tmp_path):
    sweep_dir = _create(tmp_path)
    assert ledger.read(sweep_dir) == []
    sweep_dir.ledger_file.write_text("")
    assert ledger.read(sweep_dir) == []


def test_the_error_for_a_foreign_ledger_names_it(tmp_path):
    sweep_dir = _create(tmp_path)
    sweep_dir.ledger_file.write_text("something else\nand more\n")
    with pytest.raises(UserError, match=r"^The ledger .*ledger\.log cannot be read: "):
        ledger.read(sweep_dir)


@pytest.mark.parametrize(
    ("content", "failure"),
    [
        ('{"cause": "NaN", "disk_full": false, "pid": 1}', Failure("NaN", disk_full=False)),
        ('{"cause": "full", "disk_full": true}', Failure("full", disk_full=True)),
        ('{"cause": "from an older toprung"}', None),
        ('{"cau', None),
        ("[1]", None),
        ("", None),
    ],
)
def test_a_failure_is_read_if_its_record_is_complete(tmp_path, content, failure):
    sweep_dir = _create(tmp_path)
    sweep_dir.trial_folder("aa").mkdir()
    assert sweep_dir.read_failure("aa") is None
    (sweep_dir.trial_folder("aa") / FAILURE_FILE).write_text(content)
    assert sweep_dir.read_failure("aa") == failure


def test_a_sweep_has_a_live_driver_only_while_its_lock_is_held(tmp_path):
    sweep_dir = _create(tmp_path)
    sweep_dir.write(sweep_dir.status_file, {"status": "running"})
    assert not sweep_dir.has_live_driver()
    assert sweep_summary(sweep_dir)["status"] == "interrupted"
    with sweep_dir.lock():
        assert sweep_dir.has_live_driver()
        assert sweep_summary(sweep_dir)["status"] == "running"
        with pytest.raises(filelock.Timeout):
            sweep_dir.lock().acquire()
    assert not sweep_dir.has_live_driver()


def test_a_lock_file_that_only_others_may_write_is_read(tmp_path):
    sweep_dir = _create(tmp_path)
    with sweep_dir.lock():
        pass
    sweep_dir.lock_file.chmod(0o444)
    with pytest.MonkeyPatch.context() as no_writing:
        no_writing.setattr(filelock.FileLock, "acquire", None)  # root may write any file
        assert not sweep_dir.has_live_driver()


def test_the_spec_names_its_recipe_and_the_settings_changed_on_the_command_line(tmp_path):
    sweep_dir = catalog.create_sweep(
        tmp_path, SWEEP, name=None, now=NOW, recipe="tune.digits", settings=["num_trials=3"]
    )
    content = sweep_dir.read(sweep_dir.spec_file)
    assert (content["recipe"], content["settings"]) == ("tune.digits", ["num_trials=3"])


def test_a_sweep_that_is_being_removed_is_not_listed(tmp_path):
    sweep_dir = _create(tmp_path)
    sweep_dir.path.rename(tmp_path / f".removed-{sweep_dir.sweep_id}")
    assert list(catalog.list_sweeps(tmp_path)) == []


def test_a_damaged_lineage_is_named_with_its_fields(tmp_path):
    sweep_dir = _create(tmp_path)
    with pytest.raises(UserError, match=r"lineage.json cannot be read"):
        read_lineage(sweep_dir)
    sweep_dir.write(sweep_dir.lineage_file, {"commit": None, "seed": "zero"})
    with pytest.raises(UserError, match=r"lineage.json is damaged: .*data_name.*seed.*Restore it from a backup."):
        read_lineage(sweep_dir)


def test_only_folders_with_a_spec_are_sweeps(tmp_path):
    sweep_dir = _create(tmp_path)
    (tmp_path / "mlartifacts").mkdir()
    (tmp_path / "mlflow.db").write_text("")
    assert list(catalog.list_sweeps(tmp_path)) == [sweep_dir]
