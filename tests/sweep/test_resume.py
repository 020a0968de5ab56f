"""One sweep that is stopped from another terminal, resumed, extended, used for a warm start, and removed."""

import json
import os
import shutil
import signal
import time

import optuna
import pytest

from search_spaces import convnet
from toprung.records import ledger
from toprung.records.study_storage import storage_for_reading
from toprung.records.sweep_dir import SweepDirectory
from toprung.search.sampler import build_sampler

pytestmark = pytest.mark.slow

RECIPE = """
from toprung.spec import Asha, Data, Search, Sweep


def sweep():
    return Sweep(
        name="slow_digits",
        trainer="trainers.slow",
        space="search_spaces.convnet",
        constants={"width": 4, "depth": 1},
        data=Data(name="digits", max_train=200),
        num_trials=8,
        asha=Asha(max_epochs=3),
        search=Search(num_startup_trials=4),
    )
"""


@pytest.fixture(scope="module")
def swept_bench(new_bench, tmp_path_factory):
    """A separate project, because these tests change its recipe, and a storage folder."""
    bench = new_bench()
    loop = (bench / "trainers" / "convnet.py").read_text()
    storage = tmp_path_factory.mktemp("storage")
    slow = f'        time.sleep(4 if os.path.exists("{storage}/slowly") else 0.2)\n        session.report('
    slow_loop = loop.replace("        session.report(", slow)
    (bench / "trainers" / "slow.py").write_text(
        slow_loop.replace("\nimport torch\n", "\nimport os\nimport time\n\nimport torch\n")
    )
    (bench / "tune" / "slow_digits.py").write_text(RECIPE)
    return bench, storage


@pytest.fixture(scope="module")
def stopped(swept_bench, start, toprung, sweep_of):
    """A sweep that was stopped by `toprung stop` once its first trial had ended."""
    bench, storage = swept_bench
    command = start("sweep", "tune.slow_digits", "--set", f"storage={storage}", "--name", "mine", folder=bench)
    command.read_until(lambda line: "finished" in line or "stopped at rung" in line)
    (storage / "slowly").touch()
    resuming = toprung("resume", "mine", "--storage", storage, folder=bench)
    stopping = toprung("stop", "mine", "--storage", storage, folder=bench)
    (storage / "slowly").unlink()
    return sweep_of(command.finish(), storage), resuming, stopping


def test_a_running_sweep_cannot_be_resumed(stopped):
    swept, resuming, _ = stopped
    assert resuming.code == 2
    assert resuming.stderr == f"{swept.shown['sweep_id']} is running. Type: toprung stop {swept.shown['sweep_id']}\n"


def test_stop_from_another_terminal_is_as_clean_as_ctrl_c(stopped):
    swept, _, stopping = stopped
    assert stopping.code == 0, stopping.stderr
    sweep_id = swept.shown["sweep_id"]
    assert stopping.stdout == f"{sweep_id}: stopped by the user. Resume it with: toprung resume {sweep_id}\n"
    assert swept.command.code == 130
    assert swept.shown["status"] == "stopped"
    assert {run.info.status for run in swept.children.values()} <= {"FINISHED", "KILLED"}
    assert swept.command.left_behind() == []


def test_a_sweep_that_is_not_running_cannot_be_stopped(stopped, swept_bench, toprung):
    bench, storage = swept_bench
    again = toprung("stop", "mine", "--storage", storage, folder=bench)
    assert again.code == 2
    assert again.stderr.endswith(" is not running (stopped).\n")


@pytest.fixture(scope="module")
def refused(stopped, swept_bench, toprung):
    """An attempt to resume after the recipe has changed."""
    bench, storage = swept_bench
    recipe = bench / "tune" / "slow_digits.py"
    recipe.write_text(RECIPE.replace("max_epochs=3", "max_epochs=9").replace("num_trials=8", "num_trials=10"))
    command = toprung("resume", "mine", "--storage", storage, folder=bench)
    recipe.write_text(RECIPE)
    return command


def test_a_changed_recipe_is_refused_with_the_differences(refused):
    assert refused.code == 2
    first, *differences, last = refused.stderr.splitlines()
    assert first.startswith("The recipe tune.slow_digits has changed since slow_digits-")
    assert differences == ["  num_trials: 8, now 10", "  asha.max_epochs: 3, now 9"]
    assert last.startswith("Restore it to resume, type toprung extend slow_digits-")


@pytest.fixture(scope="module")
def resumed(refused, swept_bench, toprung, sweep_of):
    bench, storage = swept_bench
    return sweep_of(toprung("resume", "mine", "--storage", storage, folder=bench), storage)


def _check_agreement(swept, *, num_trials):
    """Check that ledger, Optuna and MLflow have every trial exactly once, with the same outcome."""
    trials = [trial for trial in ledger.read(SweepDirectory(swept.folder)) if trial.trial_id]
    children = swept.children
    assert len(trials) == len({trial.trial_id for trial in trials}) == num_trials
    assert set(children) == {trial.trial_id for trial in trials}
    words = {"finished": ("COMPLETE", "FINISHED"), "stopped": ("PRUNED", "KILLED"), "failed": ("FAIL", "FAILED")}
    for trial in trials:
        assert (trial.optuna_state, children[trial.trial_id].info.status) == words[trial.status]
        history = swept.client.get_metric_history(children[trial.trial_id].info.run_id, "val/accuracy")
        assert [metric.step for metric in history] == sorted(trial.epochs_by_number)
        assert [metric.step for metric in history] == list(range(1, trial.epochs + 1))
    assert swept.parent.info.status == "FINISHED"


def test_a_resumed_sweep_finishes_with_all_trials(resumed, stopped):
    assert resumed.command.code == 0, resumed.command.stderr
    assert resumed.shown["status"] == "finished"
    _check_agreement(resumed, num_trials=8)
    killed = {trial["trial_id"] for trial in stopped[0].shown["trials"] if trial["status"] == "interrupted"}
    assert killed
    assert killed <= set(resumed.trials)


def test_a_resumed_trial_continues_from_its_last_epoch(resumed, stopped):
    before = {trial["trial_id"]: trial for trial in stopped[0].shown["trials"]}
    reached = {t["trial_id"]: t["epochs"] for t in before.values() if t["status"] == "interrupted" and t["epochs"]}
    known = ledger.read_all(SweepDirectory(resumed.folder))
    resumed_ms = known.driver_runs[1].time_ms
    for trial in known.trials:
        if trial.trial_id in reached:
            again = [number for number, epoch in trial.epochs_by_number.items() if epoch.time_ms > resumed_ms]
            # 2 if it had saved an epoch that the ledger did not have; this epoch is reported again, but not retrained.
            assert min(again, default=reached[trial.trial_id] + 1) - reached[trial.trial_id] in (1, 2)


def test_a_finished_sweep_can_be_extended_but_not_resumed(resumed, swept_bench, toprung):
    bench, storage = swept_bench
    again = toprung("resume", "mine", "--storage", storage, folder=bench)
    assert again.code == 2
    assert again.stderr.endswith(f"For more trials, type: toprung extend {resumed.shown['sweep_id']} --trials 4\n")


@pytest.mark.slow
def test_an_extension_that_mlflow_cannot_record_is_refused_and_changes_nothing(resumed, swept_bench, toprung):
    bench, storage = swept_bench
    (folder,) = [file.parent for file in storage.glob("*/sweep.json")]
    before = [(folder / name).read_bytes() for name in ("sweep.json", "status.json", "ledger.log")]
    where = {"folder": bench, "env": {"MLFLOW_TRACKING_URI": "./mlruns"}}
    command = toprung("extend", "mine", "--trials", "2", "--storage", storage, **where)
    assert command.code == 2
    assert len(command.stderr.splitlines()) == 1
    assert "`mlflow migrate-filestore`" in command.stderr
    assert [(folder / name).read_bytes() for name in ("sweep.json", "status.json", "ledger.log")] == before


@pytest.fixture(scope="module")
def extended(resumed, swept_bench, toprung, sweep_of):
    bench, storage = swept_bench
    flags = ("--trials", 2, "--max-epochs", 6, "--storage", storage)
    return sweep_of(toprung("extend", "mine", *flags, folder=bench), storage)


def test_an_extended_sweep_has_new_trials_and_continued_survivors(extended):
    assert extended.command.code == 0, extended.command.stderr
    continued = [trial for trial in extended.shown["trials"] if trial["continues"]]
    assert continued
    _check_agreement(extended, num_trials=8 + 2 + len(continued))
    for trial in continued:
        ancestor = extended.trials[trial["continues"]]
        assert ancestor["status"] == "finished"
        assert trial["epochs"] > ancestor["epochs"] == 3
        assert {k: v for k, v in trial["config"].items() if k != "num_epochs"} == {
            k: v for k, v in ancestor["config"].items() if k != "num_epochs"
        }
        run = extended.children[trial["trial_id"]]
        assert run.data.tags["toprung.continues"] == trial["continues"]


def test_new_trials_are_proposed_from_the_existing_study(extended):
    sweep_dir = SweepDirectory(extended.folder)
    study = optuna.load_study(study_name=sweep_dir.sweep_id, storage=storage_for_reading(sweep_dir))
    began = next(
        driver_run.time_ms for driver_run in ledger.read_all(sweep_dir).driver_runs if driver_run.command == "extend"
    )
    starts = [(t, t.user_attrs["start"]) for t in study.get_trials()]
    new = [trial for trial, start in starts if start["time_ms"] >= began and "continues" not in start]
    assert len(new) == 2
    ended_before = sum(
        trial.state.name in ("COMPLETE", "PRUNED") for trial, start in starts if start["time_ms"] < began
    )
    assert ended_before >= sweep_dir.spec().search.num_startup_trials
    # In its startup phase, the sampler would draw the same values for any study; those of the new trials differ.
    only_startup = sweep_dir.spec().search.model_copy(update={"num_startup_trials": 10_000})
    drawn = optuna.create_study(sampler=build_sampler(only_startup, num_asked=new[0].number)).ask()
    convnet.space(drawn)
    assert new[0].params != drawn.params
    assert len({json.dumps(trial.params, sort_keys=True) for trial, _ in starts if trial in new}) == 2
    earlier = [trial.params for trial, start in starts if start["time_ms"] < began]
    assert not any(trial.params in earlier for trial in new)


def test_events_are_listed_in_order(extended, swept_bench, toprung):
    bench, storage = swept_bench
    listing = toprung("events", "mine", "--json", "--storage", storage, folder=bench)
    assert listing.code == 0, listing.stderr
    events = json.loads(listing.stdout)
    assert [event["time_ms"] for event in events] == sorted(event["time_ms"] for event in events)
    assert [event["what"] for event in events if event["number"] is None] == ["sweep", "resume", "extend"]
    for number in {event["number"] for event in events} - {None}:
        trial_events = [event["what"] for event in events if event["number"] == number]
        assert trial_events[0] == "asked"
        assert trial_events[-2:] == ["ended", "told"]
        assert "reported" in trial_events
    lines = toprung("events", "mine", "--storage", storage, folder=bench).stdout.splitlines()
    assert len(lines) == len(events)


@pytest.fixture(scope="module")
def warm(extended, swept_bench, toprung, sweep_of):
    bench, storage = swept_bench
    flags = ("--set", f"storage={storage}", "--set", "num_trials=1", "--warm-start", "mine")
    return sweep_of(toprung("sweep", "tune.slow_digits", *flags, folder=bench), storage)


def test_a_warm_start_has_the_old_trials_but_does_not_count_them(warm, extended):
    assert warm.command.code == 0, warm.command.stderr
    assert len(warm.shown["trials"]) == 1
    assert len(warm.children) == 1
    sweep_dir = SweepDirectory(warm.folder)
    study = optuna.load_study(study_name=sweep_dir.sweep_id, storage=storage_for_reading(sweep_dir))
    imported = [trial for trial in study.get_trials() if ledger.IMPORTED in trial.user_attrs]
    assert len(imported) == len([t for t in extended.shown["trials"] if t["status"] in ("finished", "stopped")])


def test_a_warm_start_from_other_data_needs_a_flag(warm, swept_bench, toprung):
    bench, storage = swept_bench
    flags = ("--set", f"storage={storage}", "--set", "data.split_seed=1", "--warm-start", "mine")
    refused = toprung("sweep", "tune.slow_digits", *flags, folder=bench)
    assert refused.code == 2
    assert "was trained on other data" in refused.stderr
    assert "--accept-data-change" in refused.stderr
    assert len(list(storage.glob("slow_digits-*"))) == 2


def test_a_resume_with_changed_data_is_refused(warm, swept_bench, toprung):
    bench, storage = swept_bench
    sweep_dir = SweepDirectory(warm.folder)
    lineage, state = sweep_dir.read(sweep_dir.lineage_file), sweep_dir.read(sweep_dir.status_file)
    sweep_dir.write(sweep_dir.lineage_file, {**lineage, "data_fingerprint": "0" * 64})
    sweep_dir.write(sweep_dir.status_file, {**state, "status": "stopped"})
    refused = toprung("resume", sweep_dir.sweep_id, "--storage", storage, folder=bench)
    sweep_dir.write(sweep_dir.lineage_file, lineage)
    sweep_dir.write(sweep_dir.status_file, state)
    assert refused.code == 2
    assert refused.stderr.startswith("The dataset digits has changed since ")


def test_rm_asks_and_can_keep_the_export(warm, swept_bench, toprung):
    bench, storage = swept_bench
    unanswered = toprung("rm", "mine", "--storage", storage, folder=bench)  # stdin is empty
    assert unanswered.code != 0
    (mine,) = [path for path in storage.glob("slow_digits-*") if json.loads((path / "sweep.json").read_text())["name"]]
    removed = toprung("rm", "mine", "--keep-export", "--yes", "--storage", storage, folder=bench)
    assert removed.code == 0, removed.stderr
    assert [path.name for path in mine.iterdir()] == ["export"]
    assert (mine / "export" / "model.pth").is_file()
    removed = toprung("rm", warm.shown["sweep_id"], "--yes", "--storage", storage, folder=bench)
    assert removed.code == 0, removed.stderr
    assert not warm.folder.exists()
    assert [path.name for path in storage.iterdir() if path.name.startswith(".removed")] == []
    shutil.rmtree(mine)


def test_the_next_command_closes_the_runs_of_a_killed_driver(swept_bench, start, toprung, sweep_of):
    bench, storage = swept_bench
    command = start("sweep", "tune.slow_digits", "--set", f"storage={storage}", folder=bench)
    command.read_until(lambda line: "finished" in line or "stopped at rung" in line)
    (folder,) = storage.glob("slow_digits-*")
    while "mlflow_run_id" not in json.loads((folder / "status.json").read_text()):
        time.sleep(0.05)
    os.kill(command.process.pid, signal.SIGKILL)
    command.finish()
    listed = toprung("list", "--storage", storage, folder=bench)
    assert listed.code == 0
    assert f"{folder.name}: its driver died; its open runs in MLflow are closed." in listed.stderr
    assert "interrupted" in listed.stdout
    swept = sweep_of(command, storage)
    assert swept.shown["status"] == "interrupted"
    assert swept.parent.info.status == "KILLED"
    assert "RUNNING" not in {run.info.status for run in swept.children.values()}
    running = {trial["trial_id"] for trial in swept.shown["trials"] if trial["status"] == "running"}
    assert {swept.children[trial_id].data.tags["stop_reason"] for trial_id in running} <= {"the driver died"}
    assert toprung("list", "--storage", storage, folder=bench).stderr == ""
    assert command.left_behind() == []
