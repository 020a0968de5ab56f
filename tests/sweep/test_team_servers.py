"""A team's servers: MLflow with basic auth, and the study, both on PostgreSQL; no password is left anywhere."""

import json
from types import SimpleNamespace

import optuna
import pytest

from tests.servers import free_port
from toprung.records import ledger
from toprung.records.study_storage import ENVIRONMENT
from toprung.records.sweep_dir import SweepDirectory

TINY = ("constants.width=4", "constants.depth=1", "max_train=200", "num_trials=3")


def _flags(storage, *settings):
    return [word for setting in (f"storage={storage}", *TINY, *settings) for word in ("--set", setting)]


@pytest.fixture(scope="module")
def swept(team, bench, toprung, tmp_path_factory):
    """A sweep, and the output of `show --json`."""
    storage = tmp_path_factory.mktemp("swept")
    command = toprung("sweep", "tune.smoke", *_flags(storage), "--name", "ours", folder=bench, env=team.environment)
    assert command.code == 0, command.stdout + command.stderr
    shown = toprung("show", "ours", "--json", "--storage", storage, folder=bench, env=team.environment)
    assert shown.code == 0, shown.stderr
    return SimpleNamespace(command=command, storage=storage, shown=json.loads(shown.stdout))


@pytest.fixture
def runs(team, swept, monkeypatch):
    """MLflow's runs by trial ID; the key of the sweep's own run is None."""
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    result = MlflowClient(tracking_uri=team.server.uri).search_runs([swept.shown["mlflow_experiment_id"]])
    by_id = {run.data.tags.get("toprung.trial_id"): run for run in result}
    assert len(by_id) == len(result)
    return by_id


def test_study_and_mlflow_agree_with_what_is_shown(team, swept, runs):
    study = optuna.load_study(study_name=swept.shown["optuna_study"], storage=team.study_uri)
    words = {"finished": ("COMPLETE", "FINISHED"), "stopped": ("PRUNED", "KILLED")}
    trials = {trial["trial_id"]: trial for trial in swept.shown["trials"]}
    assert set(runs) == {None, *trials}
    assert len(trials) == 3
    for frozen in study.get_trials():
        trial = trials[frozen.user_attrs["start"]["trial_id"]]
        run = runs[trial["trial_id"]]
        assert (frozen.state.name, run.info.status) == words[trial["status"]]
        assert run.info.run_id == trial["mlflow_run_id"]
        assert sorted(frozen.intermediate_values) == list(range(1, trial["epochs"] + 1))
        assert max(frozen.intermediate_values.values()) == trial["value"]
    assert runs[None].info.status == "FINISHED"


def test_the_study_is_only_in_the_database_and_its_address_is_shown_without_the_password(team, swept):
    sweep_dir = SweepDirectory(swept.storage / swept.shown["sweep_id"])
    assert not sweep_dir.ledger_file.exists()
    assert swept.shown["optuna_storage"] == team.study_uri.replace(team.postgres.password, "***")


def test_without_the_databases_address_the_message_says_where_the_study_is(team, swept, bench, toprung):
    for name in ("show", "events", "resume"):
        command = toprung(name, "ours", "--storage", swept.storage, folder=bench)
        if name != "resume":  # it first reports that the sweep is finished
            assert command.stderr.startswith(f"The study of {swept.shown['sweep_id']} is in a database (postgresql")
        assert command.code == 2
        assert len(command.stderr.splitlines()) == 1


def test_events_are_read_from_the_database(team, swept, bench, toprung):
    command = toprung("events", "ours", "--json", "--storage", swept.storage, folder=bench, env=team.environment)
    events = json.loads(command.stdout)
    assert [event["time_ms"] for event in events] == sorted(event["time_ms"] for event in events)
    assert sum(event["what"] == "asked" for event in events) == 3


def test_no_password_is_in_a_file_on_the_screen_or_in_mlflow(team, swept, runs, bench, toprung, start):
    passwords = (team.server.password, team.postgres.password)
    output = swept.command.stdout + swept.command.stderr + json.dumps(swept.shown)
    for words in (["list"], ["show", "ours"], ["events", "ours"], ["sync", "ours"]):
        command = toprung(*words, "--storage", swept.storage, folder=bench, env=team.environment)
        assert command.code == 0, command.stderr
        output += command.stdout + command.stderr
    command = start("ui", "--study-port", free_port(), "--storage", swept.storage, folder=bench, env=team.environment)
    command.read_until(lambda line: "Optuna:" in line)
    output += " ".join(word for process in command.processes() for word in process.cmdline())
    command.interrupt().finish()
    assert command.code == 0, command.stderr
    output += command.stdout + command.stderr
    output += "".join(str(run.to_dictionary()) for run in runs.values())
    assert [password for password in passwords if password in output] == []
    holding = [
        file
        for file in swept.storage.rglob("*")
        if file.is_file() and any(password.encode() in file.read_bytes() for password in passwords)
    ]
    assert holding == []


def test_a_wrong_mlflow_password_prints_one_line_and_leaves_nothing(team, bench, toprung, tmp_path):
    wrong = team.environment | {"MLFLOW_TRACKING_URI": team.server.uri.replace(team.server.password, "canary")}
    flags = _flags(tmp_path / "storage", "num_trials=500")  # the command fails before they have run
    command = toprung("sweep", "tune.smoke", *flags, folder=bench, env=wrong)
    assert command.code == 2, command.stdout
    assert len(command.stderr.splitlines()) == 1
    assert command.stderr.startswith(f"MLflow at {team.server.url.replace('://', '://***@')} cannot be used (")
    assert "canary" not in command.stdout + command.stderr
    assert list((tmp_path / "storage").glob("*")) == []
    assert command.left_behind() == []


@pytest.mark.slow
def test_a_wrong_study_password_prints_one_line_and_leaves_nothing(team, bench, toprung, tmp_path):
    wrong = team.environment | {ENVIRONMENT: team.postgres.uri("studies", password="canary")}
    flags = _flags(tmp_path / "storage", "num_trials=500")  # the command fails before they have run
    command = toprung("sweep", "tune.smoke", *flags, folder=bench, env=wrong)
    assert command.code == 2, command.stdout
    assert len(command.stderr.splitlines()) == 1
    assert command.stderr.startswith(f"The study's database ({ENVIRONMENT}) cannot be used: ")
    assert "canary" not in command.stdout + command.stderr
    assert list((tmp_path / "storage").glob("*")) == []
    assert command.left_behind() == []


def test_the_ledger_reads_the_database_as_it_reads_a_file(team, swept, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, team.study_uri)
    records = ledger.read(SweepDirectory(swept.storage / swept.shown["sweep_id"]))
    assert [(r.trial_id, r.status, r.epochs, r.value) for r in records] == [
        (t["trial_id"], t["status"], t["epochs"], t["value"]) for t in swept.shown["trials"]
    ]
