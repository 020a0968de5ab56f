"""The searcher without a Ray cluster: its proposals, and what it writes to the ledger."""

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
from toprung.records.sweep_dir import write_json
from toprung.records.trial_folder import FAILURE_FILE
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


class SearchHarness:
    """A searcher with its scheduler, recorder and ledger; progress and warnings are recorded."""

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
        find_dropped=None,
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
        self.listener = Mock(ProgressListener)
        self.progress = SweepProgress(self.sweep_dir.sweep_id, self.sweep, 2)
        self.recorder = TrialRecorder(
            study,
            storage=storage,
            sweep_dir=self.sweep_dir,
            progress=self.progress,
            listener=self.listener,
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
            find_dropped=find_dropped,
        )

    @property
    def warnings(self):
        return [call.args[1] for call in self.listener.warning.call_args_list]

    def again(self, **fields):
        """Return the same sweep with a new driver, as if this one had died."""
        return SearchHarness(None, sweep_dir=self.sweep_dir, **fields)

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


def test_a_configuration_is_in_the_ledger_before_its_training_starts(tmp_path):
    harness = SearchHarness(tmp_path)
    config = harness.searcher.suggest("aa")
    shown = [(trial.trial_id, trial.number, trial.config) for trial in harness.progress.trials.values()]
    assert shown == [("aa", 0, config)]
    record = harness.record(0)
    assert (record.trial_id, record.status, record.config) == ("aa", "running", config)
    assert (record.value, record.epoch, record.epochs, record.epochs_by_number) == (None, None, 0, {})
    assert abs(record.started_ms - time.time() * 1000) < 60_000


def test_the_default_configuration_is_the_first_trial_and_is_exempted(tmp_path):
    harness = SearchHarness(tmp_path)
    config = harness.searcher.suggest("aa")
    assert {**DEFAULTS, **config} == {**DEFAULTS, "num_epochs": 3}
    second = harness.searcher.suggest("bb")
    assert {**DEFAULTS, **second} != {**DEFAULTS, "num_epochs": 3}
    assert harness.scheduler._exempted == {"aa"}


def test_constants_are_in_the_configuration_but_not_among_the_parameters(tmp_path):
    harness = SearchHarness(tmp_path, constants={"optimizer": "sgd", "width": 8, "lr": 0.1})
    for trial_id in ("aa", "bb"):
        config = harness.searcher.suggest(trial_id)
        assert (config["optimizer"], config["width"], config["lr"]) == ("sgd", 8, 0.1)
    assert "sgd.momentum" in harness.frozen(1).params
    assert not {"optimizer", "width", "sgd.lr", "lr"} & set(harness.frozen(1).params)


def test_a_finished_trial_is_complete_in_optuna_with_its_best_value_and_every_epoch(tmp_path):
    harness = SearchHarness(tmp_path)
    harness.searcher.suggest("aa")
    harness.searcher.on_trial_result("aa", result(1, 0.5))
    harness.searcher.on_trial_result("aa", result(2, 0.9))
    harness.searcher.on_trial_complete("aa", result(3, 0.7))
    frozen = harness.frozen(0)
    assert (frozen.state, frozen.value) == (TrialState.COMPLETE, 0.9)
    assert frozen.intermediate_values == {1: 0.5, 2: 0.9, 3: 0.7}
    record = harness.record(0)
    assert (record.status, record.value, record.epoch, record.epochs) == ("finished", 0.9, 2, 3)
    assert record.epochs_by_number[3].metrics == {"val/accuracy": 0.7, "val/loss": pytest.approx(0.3)}
    assert record.epochs_by_number[3].time_ms == 1_000_003
    assert harness.recorder.trial_ends == {"aa": End("finished", time_ms=record.end.time_ms)}
    assert record.end.time_ms >= record.started_ms


def test_in_min_mode_the_best_value_is_the_smallest(tmp_path):
    harness = SearchHarness(tmp_path, metric="val/loss", mode="min")
    harness.searcher.suggest("aa")
    for epoch, value in ((1, 0.5), (2, 0.9)):
        harness.searcher.on_trial_result("aa", result(epoch, value))
    harness.searcher.on_trial_complete("aa", result(3, 0.7))
    assert harness.frozen(0).value == pytest.approx(0.1)
    assert (harness.record(0).value, harness.record(0).epoch) == (pytest.approx(0.1), 2)


def test_the_first_of_equally_good_epochs_is_the_best(tmp_path):
    harness = SearchHarness(tmp_path)
    harness.searcher.suggest("aa")
    harness.searcher.on_trial_result("aa", result(1, 0.5))
    harness.searcher.on_trial_result("aa", result(2, 0.8))
    harness.searcher.on_trial_complete("aa", result(3, 0.8))
    assert harness.record(0).epoch == 2


def test_a_stopped_trial_is_pruned_in_optuna_with_its_last_value(tmp_path):
    harness = SearchHarness(tmp_path)
    harness.searcher.suggest("aa")
    harness.searcher.on_trial_result("aa", result(1, 0.5))
    harness.scheduler.stops["aa"] = StopDecision(rung=2, value=0.25, needed=0.75)
    harness.searcher.on_trial_complete("aa", result(2, 0.25))
    frozen = harness.frozen(0)
    assert frozen.state is TrialState.PRUNED
    assert frozen.intermediate_values == {1: 0.5, 2: 0.25}
    record = harness.record(0)
    assert (record.status, record.rung, record.cause) == ("stopped", 2, "ASHA: 0.2500, needed 0.7500")
    assert (record.value, record.epoch) == (0.5, 1)


def test_a_failed_trial_is_fail_in_optuna_with_the_cause_it_wrote(tmp_path):
    harness = SearchHarness(tmp_path)
    harness.searcher.suggest("aa")
    harness.searcher.on_trial_result("aa", result(1, 0.5))
    folder = harness.sweep_dir.trial_folder("aa")
    folder.mkdir()
    write_json(folder / FAILURE_FILE, {"cause": "val/loss is NaN in epoch 2", "disk_full": False})
    harness.searcher.on_trial_complete("aa", error=True)
    assert harness.frozen(0).state is TrialState.FAIL
    record = harness.record(0)
    assert (record.status, record.cause, record.epochs) == ("failed", "val/loss is NaN in epoch 2", 1)
    assert harness.faults == []


def test_a_trial_that_could_not_save_on_a_full_disk_stays_open_and_ends_the_sweep(tmp_path):
    harness = SearchHarness(tmp_path)
    harness.searcher.suggest("aa")
    folder = harness.sweep_dir.trial_folder("aa")
    folder.mkdir()
    write_json(folder / FAILURE_FILE, {"cause": "DiskFull: no space left", "disk_full": True})
    harness.searcher.on_trial_complete("aa", error=True)
    assert harness.faults == ["the disk is full"]
    assert (harness.record(0).status, harness.record(0).cause) == ("interrupted", "the disk is full")
    assert harness.record(0).is_open
    assert harness.frozen(0).state is TrialState.RUNNING


@pytest.mark.parametrize("left", [None, "", '{"cau', "{}", "[1]"])
def test_without_a_recorded_cause_a_failed_trials_process_died(tmp_path, left):
    harness = SearchHarness(tmp_path)
    harness.searcher.suggest("aa")
    if left is not None:
        harness.sweep_dir.trial_folder("aa").mkdir()
        (harness.sweep_dir.trial_folder("aa") / FAILURE_FILE).write_text(left)
    harness.searcher.on_trial_complete("aa", error=True)
    assert (harness.record(0).status, harness.record(0).cause) == ("failed", "its process died")


@pytest.mark.parametrize("result", [None, {}, {"training_iteration": 1}])
def test_a_loop_that_reports_no_epoch_fails(tmp_path, result):
    harness = SearchHarness(tmp_path)
    harness.searcher.suggest("aa")
    harness.searcher.on_trial_complete("aa", result)
    assert harness.frozen(0).state is TrialState.FAIL
    assert harness.record(0).cause == "the loop ended without reporting an epoch"


def test_a_loop_that_ends_early_is_finished_and_its_last_epoch_counts_once(tmp_path):
    harness = SearchHarness(tmp_path)
    harness.searcher.suggest("aa")
    harness.searcher.on_trial_result("aa", result(1, 0.5))
    harness.searcher.on_trial_complete("aa", result(1, 0.5, done=True))  # Tune repeats the last result
    assert harness.frozen(0).state is TrialState.COMPLETE
    assert harness.frozen(0).intermediate_values == {1: 0.5}


def test_a_second_end_of_a_trial_is_ignored(tmp_path):
    harness = SearchHarness(tmp_path)
    harness.searcher.suggest("aa")
    harness.searcher.on_trial_complete("aa", result(1, 0.5))
    harness.searcher.on_trial_complete("aa", error=True)
    assert (harness.record(0).status, harness.frozen(0).state) == ("finished", TrialState.COMPLETE)


def test_a_run_id_that_arrives_after_the_trials_end_is_still_recorded(tmp_path):
    harness = SearchHarness(tmp_path)
    harness.searcher.suggest("aa")
    harness.searcher.on_trial_complete("aa", result(1, 0.5))
    ledger.write_run_id(harness.searcher.study, trial_id="aa", run_id="run")
    assert harness.record(0).mlflow_run_id == "run"


def test_an_incomplete_last_line_of_the_ledger_loses_only_that_line(tmp_path):
    harness = SearchHarness(tmp_path)
    harness.searcher.suggest("aa")
    harness.searcher.on_trial_complete("aa", result(1, 0.5))
    with harness.sweep_dir.ledger_file.open("a") as file:
        file.write('{"op_code": 8, "wor')
    assert (harness.record(0).status, harness.record(0).value) == ("finished", 0.5)


def test_copies_made_by_tune_use_the_same_ledger(tmp_path):
    harness = SearchHarness(tmp_path)
    assert copy.deepcopy(harness.searcher) is harness.searcher
    assert copy.deepcopy(harness.scheduler) is harness.scheduler
    harness.searcher.save(str(tmp_path / "state"))
    assert harness.sweep_dir.sweep_id in (tmp_path / "state").read_text()


def test_the_same_seed_proposes_the_same_configurations(tmp_path):
    def configs(root, seed):
        harness = SearchHarness(root, search=Search(seed=seed))
        return [harness.searcher.suggest(f"t{i}") for i in range(5)]

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
    sampler = build_sampler(Search(multivariate=False, constant_liar=False))  # then `group` has no meaning
    assert (sampler._multivariate, sampler._group, sampler._constant_liar) == (False, False, False)


def test_rays_searcher_still_has_the_private_fields_that_are_used(tmp_path):
    """LedgerSearch reads two private fields of OptunaSearch; this test fails if a new Ray renames them."""
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


def test_rays_searcher_uses_an_open_trial_stored_under_the_requested_id(tmp_path):
    """LedgerSearch puts a trial that has no configuration yet into OptunaSearch's private field."""
    study = optuna.create_study(direction="maximize")
    study.ask()
    stock = OptunaSearch(
        lambda trial: {"x": trial.suggest_float("x", 0, 1)}, metric="m", mode="max", storage=study._storage,
        study_name=study.study_name,
    )  # fmt: skip
    stock._ot_trials["aa"] = ledger.open_trial(stock._ot_study, 0)
    assert stock.suggest("aa") == study.get_trials()[0].params
    assert len(study.get_trials()) == 1


def test_optuna_still_opens_a_trial_by_its_private_id():
    study = optuna.create_study()
    trial = study.ask()
    frozen = study.get_trials(deepcopy=False)[trial.number]
    assert frozen._trial_id == trial._trial_id
    again = optuna.Trial(study, frozen._trial_id)
    again.set_user_attr("a", 1)
    again.report(0.5, 1)
    study.tell(again, 0.25)
    assert [(t.user_attrs, t.intermediate_values, t.value) for t in study.get_trials()] == [({"a": 1}, {1: 0.5}, 0.25)]
