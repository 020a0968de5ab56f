"""A mirrored sweep in MLflow's SQLite store: the tags of its runs, and their order."""

import getpass
from datetime import datetime

import pytest
from mlflow import MlflowClient

from tests.tracking.recorded import LINEAGE, Recorded, parent_of, runs_of
from toprung.records import catalog, ledger
from toprung.records.ledger import End
from toprung.records.ranking import rank_trials
from toprung.tracking import lineage_tags, server
from toprung.tracking.artifacts import record_run
from toprung.tracking.open_sweep import source_of

SWEEP_ONLY = ("toprung.version.", "toprung.data", "toprung.dvc", "toprung.commit", "toprung.dirty", "toprung.lock_hash")
SOURCE = {
    "mlflow.source.name": "tune.mine",
    "mlflow.source.type": "LOCAL",
    "mlflow.source.git.commit": LINEAGE.commit,
}


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    monkeypatch.delenv(server.ENVIRONMENT, raising=False)
    recorded = Recorded(tmp_path)
    spec_file = recorded.sweep_dir.spec_file
    recorded.sweep_dir.write(spec_file, {**recorded.sweep_dir.read(spec_file), "recipe": "tune.mine"})
    yield recorded
    recorded.close()


def _uri(recorded):
    return server.tracking_uri(recorded.sweep_dir.path.parent)


def test_the_lineage_is_on_the_sweeps_run_alone(recorded):
    recorded.whole("aa", num_epochs=1)
    recorded.close()
    parent, trial = (
        parent_of(_uri(recorded), recorded.sweep_dir.sweep_id).data.tags,
        runs_of(_uri(recorded), recorded.sweep_dir.sweep_id)["aa"].data.tags,
    )
    assert lineage_tags.lineage_tags(LINEAGE).items() <= parent.items()
    assert not [name for name in trial if name.startswith(SWEEP_ONLY)]
    assert {name for name in trial if name.startswith("toprung.")} == {
        "toprung.sweep_id", "toprung.kind", "toprung.status", "toprung.trial_id", "toprung.trial_number",
        "toprung.rung",
    }  # fmt: skip


def test_every_run_has_the_source_the_version_and_the_user_of_its_sweep(recorded):
    recorded.whole("aa", num_epochs=1)
    recorded.close()
    parent = parent_of(_uri(recorded), recorded.sweep_dir.sweep_id)
    recorded.sweep_dir.write(recorded.sweep_dir.status_file, {"mlflow_run_id": parent.info.run_id})
    refit_id = record_run(recorded.sweep_dir, name="refit", params={}, history={}, files=[])
    runs = [parent, runs_of(_uri(recorded), recorded.sweep_dir.sweep_id)["aa"]]
    for run in [*runs, MlflowClient(tracking_uri=_uri(recorded)).get_run(refit_id)]:
        assert {**SOURCE, "mlflow.user": getpass.getuser()}.items() <= run.data.tags.items()


def test_without_a_commit_or_a_user_name_the_tags_say_so(monkeypatch):
    def without_name(self):
        raise KeyError("getpwuid(): uid not found: 1000")

    monkeypatch.setattr(lineage_tags.DefaultRunContext, "tags", without_name)
    tags = lineage_tags.source_tags(LINEAGE.model_copy(update={"commit": None}), source="toprung sweep")
    assert tags["mlflow.user"] == "unknown"
    assert "mlflow.source.git.commit" not in tags


def test_the_source_of_a_confirmation_is_its_command(recorded, tmp_path):
    confirmation = catalog.create_sweep(
        tmp_path, recorded.sweep, name=None, now=datetime.now(), confirms=recorded.sweep_dir.sweep_id
    )
    assert source_of(confirmation) == f"toprung confirm {recorded.sweep_dir.sweep_id}"
    assert source_of(recorded.sweep_dir) == "tune.mine"


CURVES = {  # sorting by the last value would differ; cc and dd tie on the largest value, aa and cc on the smallest
    "aa": ((0.5, 0.9, 0.3), End("finished")),
    "bb": ((0.4, 0.6, 0.7), End("finished")),
    "cc": ((0.3, 0.8, 0.75), End("finished")),
    "dd": ((0.8,), End("stopped", rung=1, cause="ASHA: 0.8000, needed 0.8500")),
    "ee": ((0.2,), End("stopped", rung=1, cause="ASHA: 0.2000, needed 0.5000")),
}


@pytest.mark.parametrize(("mode", "order"), [("max", "DESC"), ("min", "ASC")])
def test_sorting_by_the_best_value_in_mlflow_gives_the_ranking_of_the_ledger(tmp_path, monkeypatch, mode, order):
    monkeypatch.delenv(server.ENVIRONMENT, raising=False)
    recorded = Recorded(tmp_path, mode=mode)
    for trial_id, (values, end) in CURVES.items():
        recorded.start(trial_id)
        for epoch, value in enumerate(values, start=1):
            recorded.epoch(trial_id, epoch, accuracy=value)
        recorded.end(trial_id, end)
    recorded.close()
    client = MlflowClient(tracking_uri=_uri(recorded))
    runs = client.search_runs(
        [parent_of(_uri(recorded), recorded.sweep_dir.sweep_id).info.experiment_id],
        "tags.`toprung.kind` = 'trial'",
        order_by=[f"metrics.`best/val/accuracy` {order}", "metrics.`best/epoch` ASC"],
    )
    ranking = [trial.trial_id for trial in rank_trials(ledger.read(recorded.sweep_dir), mode=mode)]
    assert [run.data.tags["toprung.trial_id"] for run in runs] == ranking
    assert ranking == {"max": ["aa", "dd", "cc", "bb", "ee"], "min": ["ee", "cc", "aa", "bb", "dd"]}[mode]
