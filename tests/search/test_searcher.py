"""The searcher without Ray's cluster: asked, told, and what stands in the ledger afterwards."""

import copy
import time
from datetime import datetime
from unittest.mock import Mock

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray.tune.search.optuna import OptunaSearch

from search_spaces import convnet
from toprung.records import catalog, ledger
from toprung.records.study_storage import storage_for_reading, storage_for_writing
from toprung.records.sweep_dir import FAILURE_FILE, write_json
from toprung.records.trial_record import End
from toprung.search.rehearsal import default_point
from toprung.search.sampler import build_sampler
from toprung.search.scheduler import RungScheduler, StopDecision
from toprung.search.searcher import LedgerSearch, open_study
from toprung.search.space import with_constants
from toprung.spec import Asha, Search, Sweep
from toprung.sweep.progress import ProgressListener, SweepProgress
from toprung.sweep.recorder import TrialRecorder
from trainers.convnet import DEFAULTS


@pytest.fixture(autouse=True)
def quiet():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


class Asked:
    """A searcher, and what it told whoever listens."""

    def __init__(
        self,
        root,
        *,
        space=convnet.space,
        first_points=None,
        sweep_dir=None,
        max_concurrent=1000,
        prepare=None,
        plan=None,
        **fields,
    ):
        self.sweep = Sweep(
            name="some",
            trainer="trainers.convnet",
            space="search_spaces.convnet",
            **{"asha": Asha(max_epochs=3), **fields},
        )
        self.sweep_dir = sweep_dir or catalog.create_sweep(root, self.sweep, name=None, now=datetime.now())
        self.scheduler = RungScheduler(self.sweep)
        self.faults = []
        held = with_constants(space, self.sweep.constants)
        if first_points is None:
            first_points = [default_point(held, {**DEFAULTS, **self.sweep.constants}, space_name="it")]
        storage = storage_for_writing(self.sweep_dir)
        study = open_study(storage, sweep_dir=self.sweep_dir, sweep=self.sweep)
        if prepare is not None:
            prepare(study)
        self.watcher = Mock(ProgressListener)
        self.progress = SweepProgress(self.sweep_dir.sweep_id, self.sweep, 2)
        self.recorder = TrialRecorder(
            study,
            storage=storage,
            sweep_dir=self.sweep_dir,
            progress=self.progress,
            listener=self.watcher,
        )
        self.searcher = LedgerSearch(
            self.sweep,
            sweep_dir=self.sweep_dir,
            storage=storage,
            space=held,
            first_points=first_points,
            scheduler=self.scheduler,
            recorder=self.recorder,
            read_failure=self.sweep_dir.read_failure,
            on_fault=self.faults.append,
            max_concurrent=lambda: max_concurrent,
            plan=plan,
        )

    @property
    def warnings(self):
        return [call.args[1] for call in self.watcher.warning.call_args_list]

    def again(self, **fields):
        """The same sweep under another driver, after this one died."""
        return Asked(None, sweep_dir=self.sweep_dir, **fields)

    @property
    def study(self):
        return optuna.load_study(study_name=self.sweep_dir.sweep_id, storage=storage_for_reading(self.sweep_dir))

    def frozen(self, number):
        return self.study.get_trials()[number]

    def record(self, number):
        return ledger.read(self.sweep_dir)[number]


def result(epoch, value, **more):
    result = {"epoch": epoch, "val/accuracy": value, "val/loss": 1 - value, "time_ms": 1_000_000 + epoch}
    return {**result, "training_iteration": epoch, **more}


def test_a_configuration_is_in_the_ledger_before_anyone_trains_it(tmp_path):
    asked = Asked(tmp_path)
    config = asked.searcher.suggest("aa")
    shown = [(trial.trial_id, trial.number, trial.config) for trial in asked.progress.trials.values()]
    assert shown == [("aa", 0, config)]
    record = asked.record(0)
    assert (record.trial_id, record.status, record.config) == ("aa", "running", config)
    assert (record.value, record.epoch, record.epochs, record.epochs_by_number) == (None, None, 0, {})
    assert abs(record.started_ms - time.time() * 1000) < 60_000


def test_the_authors_default_is_the_first_trial_and_is_spared(tmp_path):
    asked = Asked(tmp_path)
    config = asked.searcher.suggest("aa")
    assert {**DEFAULTS, **config} == {**DEFAULTS, "num_epochs": 3}
    second = asked.searcher.suggest("bb")
    assert {**DEFAULTS, **second} != {**DEFAULTS, "num_epochs": 3}
    assert asked.scheduler._exempted == {"aa"}


def test_constants_are_in_the_configuration_but_are_no_parameters(tmp_path):
    asked = Asked(tmp_path, constants={"optimizer": "sgd", "width": 8, "lr": 0.1})
    for trial_id in ("aa", "bb"):
        config = asked.searcher.suggest(trial_id)
        assert (config["optimizer"], config["width"], config["lr"]) == ("sgd", 8, 0.1)
    assert "sgd.momentum" in asked.frozen(1).params
    assert not {"optimizer", "width", "sgd.lr", "lr"} & set(asked.frozen(1).params)


def test_a_finished_trial_is_told_complete_with_its_best_value_and_every_epoch(tmp_path):
    asked = Asked(tmp_path)
    asked.searcher.suggest("aa")
    asked.searcher.on_trial_result("aa", result(1, 0.5))
    asked.searcher.on_trial_result("aa", result(2, 0.9))
    asked.searcher.on_trial_complete("aa", result(3, 0.7))
    frozen = asked.frozen(0)
    assert (frozen.state, frozen.value) == (TrialState.COMPLETE, 0.9)
    assert frozen.intermediate_values == {1: 0.5, 2: 0.9, 3: 0.7}
    record = asked.record(0)
    assert (record.status, record.value, record.epoch, record.epochs) == ("finished", 0.9, 2, 3)
    assert record.epochs_by_number[3].metrics == {"val/accuracy": 0.7, "val/loss": pytest.approx(0.3)}
    assert record.epochs_by_number[3].time_ms == 1_000_003
    assert asked.recorder.trial_ends == {"aa": End("finished", time_ms=record.end.time_ms)}
    assert record.end.time_ms >= record.started_ms


def test_where_less_is_better_the_best_value_is_the_least(tmp_path):
    asked = Asked(tmp_path, metric="val/loss", mode="min")
    asked.searcher.suggest("aa")
    for epoch, value in ((1, 0.5), (2, 0.9)):
        asked.searcher.on_trial_result("aa", result(epoch, value))
    asked.searcher.on_trial_complete("aa", result(3, 0.7))
    assert asked.frozen(0).value == pytest.approx(0.1)
    assert (asked.record(0).value, asked.record(0).epoch) == (pytest.approx(0.1), 2)


def test_the_first_of_equally_good_epochs_is_the_best(tmp_path):
    asked = Asked(tmp_path)
    asked.searcher.suggest("aa")
    asked.searcher.on_trial_result("aa", result(1, 0.5))
    asked.searcher.on_trial_result("aa", result(2, 0.8))
    asked.searcher.on_trial_complete("aa", result(3, 0.8))
    assert asked.record(0).epoch == 2


def test_a_stopped_trial_is_told_pruned_with_its_last_value_too(tmp_path):
    asked = Asked(tmp_path)
    asked.searcher.suggest("aa")
    asked.searcher.on_trial_result("aa", result(1, 0.5))
    asked.scheduler.stops["aa"] = StopDecision(rung=2, value=0.25, needed=0.75)
    asked.searcher.on_trial_complete("aa", result(2, 0.25))
    frozen = asked.frozen(0)
    assert frozen.state is TrialState.PRUNED
    assert frozen.intermediate_values == {1: 0.5, 2: 0.25}
    record = asked.record(0)
    assert (record.status, record.rung, record.cause) == ("stopped", 2, "ASHA: 0.2500, needed 0.7500")
    assert (record.value, record.epoch) == (0.5, 1)


def test_a_failed_trial_is_told_fail_with_the_cause_it_left(tmp_path):
    asked = Asked(tmp_path)
    asked.searcher.suggest("aa")
    asked.searcher.on_trial_result("aa", result(1, 0.5))
    folder = asked.sweep_dir.trial_folder("aa")
    folder.mkdir()
    write_json(folder / FAILURE_FILE, {"cause": "val/loss is NaN in epoch 2", "disk_full": False})
    asked.searcher.on_trial_complete("aa", error=True)
    assert asked.frozen(0).state is TrialState.FAIL
    record = asked.record(0)
    assert (record.status, record.cause, record.epochs) == ("failed", "val/loss is NaN in epoch 2", 1)
    assert asked.faults == []


def test_a_trial_that_could_not_save_for_want_of_space_is_open_and_the_sweep_is_told(tmp_path):
    asked = Asked(tmp_path)
    asked.searcher.suggest("aa")
    folder = asked.sweep_dir.trial_folder("aa")
    folder.mkdir()
    write_json(folder / FAILURE_FILE, {"cause": "DiskFull: no space left", "disk_full": True})
    asked.searcher.on_trial_complete("aa", error=True)
    assert asked.faults == ["the disk is full"]
    assert (asked.record(0).status, asked.record(0).cause) == ("interrupted", "the disk is full")
    assert asked.record(0).is_open
    assert asked.frozen(0).state is TrialState.RUNNING


@pytest.mark.parametrize("left", [None, "", '{"cau', "{}", "[1]"])
def test_a_trial_that_left_no_cause_died(tmp_path, left):
    asked = Asked(tmp_path)
    asked.searcher.suggest("aa")
    if left is not None:
        asked.sweep_dir.trial_folder("aa").mkdir()
        (asked.sweep_dir.trial_folder("aa") / FAILURE_FILE).write_text(left)
    asked.searcher.on_trial_complete("aa", error=True)
    assert (asked.record(0).status, asked.record(0).cause) == ("failed", "its process died")


@pytest.mark.parametrize("result", [None, {}, {"training_iteration": 1}])
def test_a_loop_that_reported_no_epoch_failed(tmp_path, result):
    asked = Asked(tmp_path)
    asked.searcher.suggest("aa")
    asked.searcher.on_trial_complete("aa", result)
    assert asked.frozen(0).state is TrialState.FAIL
    assert asked.record(0).cause == "the loop ended without reporting an epoch"


def test_a_loop_that_ended_early_is_finished_and_its_last_epoch_counts_once(tmp_path):
    asked = Asked(tmp_path)
    asked.searcher.suggest("aa")
    asked.searcher.on_trial_result("aa", result(1, 0.5))
    asked.searcher.on_trial_complete("aa", result(1, 0.5, done=True))  # Tune repeats the last result
    assert asked.frozen(0).state is TrialState.COMPLETE
    assert asked.frozen(0).intermediate_values == {1: 0.5}


def test_a_second_end_changes_nothing(tmp_path):
    asked = Asked(tmp_path)
    asked.searcher.suggest("aa")
    asked.searcher.on_trial_complete("aa", result(1, 0.5))
    asked.searcher.on_trial_complete("aa", error=True)
    assert (asked.record(0).status, asked.frozen(0).state) == ("finished", TrialState.COMPLETE)


def test_a_run_id_that_is_known_after_the_end_is_still_written(tmp_path):
    asked = Asked(tmp_path)
    asked.searcher.suggest("aa")
    asked.searcher.on_trial_complete("aa", result(1, 0.5))
    ledger.write_run_id(asked.searcher.study, trial_id="aa", run_id="run")
    assert asked.record(0).mlflow_run_id == "run"


def test_a_torn_last_line_of_the_ledger_costs_only_that_line(tmp_path):
    asked = Asked(tmp_path)
    asked.searcher.suggest("aa")
    asked.searcher.on_trial_complete("aa", result(1, 0.5))
    with asked.sweep_dir.ledger_file.open("a") as file:
        file.write('{"op_code": 8, "wor')
    assert (asked.record(0).status, asked.record(0).value) == ("finished", 0.5)


def test_copies_that_tune_makes_write_into_the_same_ledger(tmp_path):
    asked = Asked(tmp_path)
    assert copy.deepcopy(asked.searcher) is asked.searcher
    assert copy.deepcopy(asked.scheduler) is asked.scheduler
    asked.searcher.save(str(tmp_path / "state"))
    assert asked.sweep_dir.sweep_id in (tmp_path / "state").read_text()


def test_the_same_seed_asks_the_same_configurations(tmp_path):
    def configs(root, seed):
        asked = Asked(root, search=Search(seed=seed))
        return [asked.searcher.suggest(f"t{i}") for i in range(5)]

    first = configs(tmp_path / "a", 1)
    assert configs(tmp_path / "b", 1) == first
    assert configs(tmp_path / "c", 2) != first


def test_the_sampler_has_every_setting_from_the_spec():
    sampler = build_sampler(Search(num_startup_trials=7, multivariate=True, group=True, constant_liar=True))
    assert (sampler._n_startup_trials, sampler._multivariate, sampler._group, sampler._constant_liar) == (
        7,
        True,
        True,
        True,
    )
    sampler = build_sampler(Search(multivariate=False, group=False, constant_liar=False))
    assert (sampler._multivariate, sampler._group, sampler._constant_liar) == (False, False, False)


def test_the_private_fields_of_rays_searcher_are_still_there(tmp_path):
    """LedgerSearch reads two private fields of OptunaSearch; where a new Ray renames them, this says so."""
    stock = OptunaSearch(
        lambda trial: {"x": trial.suggest_float("x", 0, 1)},
        metric="m",
        mode="max",
        storage=JournalStorage(JournalFileBackend(str(tmp_path / "l"))),
        study_name="s",
    )
    assert isinstance(stock._ot_study, optuna.Study)
    stock.suggest("aa")
    assert isinstance(stock._ot_trials["aa"], optuna.Trial)


def test_rays_searcher_takes_a_trial_that_stands_under_the_id_it_is_asked_for(tmp_path):
    """A trial whose driver died before it had a configuration is put into OptunaSearch's private field."""
    study = optuna.create_study(direction="maximize")
    study.ask()
    stock = OptunaSearch(
        lambda trial: {"x": trial.suggest_float("x", 0, 1)}, metric="m", mode="max", storage=study._storage,
        study_name=study.study_name,
    )  # fmt: skip
    stock._ot_trials["aa"] = ledger.open_trial(stock._ot_study, 0)
    assert stock.suggest("aa") == study.get_trials()[0].params
    assert len(study.get_trials()) == 1


def test_optuna_still_opens_a_trial_by_the_private_id_of_its_record():
    study = optuna.create_study()
    asked = study.ask()
    frozen = study.get_trials(deepcopy=False)[asked.number]
    assert frozen._trial_id == asked._trial_id
    again = optuna.Trial(study, frozen._trial_id)
    again.set_user_attr("a", 1)
    again.report(0.5, 1)
    study.tell(again, 0.25)
    assert [(t.user_attrs, t.intermediate_values, t.value) for t in study.get_trials()] == [({"a": 1}, {1: 0.5}, 0.25)]
