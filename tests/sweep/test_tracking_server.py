"""A sweep that records to a real MLflow server: the requests, counted by a proxy, and the password, never shown."""

import json
from types import SimpleNamespace

import pytest

from tests.servers import FaultyProxy, TrackingServer
from toprung.tracking.server import ENVIRONMENT, artifact_location, tracking_uri

SECRET = "correct-horse-battery"


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    """A proxy in front of a real `mlflow server` that records every request."""
    with TrackingServer(tmp_path_factory.mktemp("server")) as server, FaultyProxy(server.url) as faulty_proxy:
        yield SimpleNamespace(server_url=server.url, proxy=faulty_proxy)


@pytest.fixture(scope="module")
def recorded(proxy, new_bench, toprung, sweep_of, tmp_path_factory):
    storage = tmp_path_factory.mktemp("recorded")
    settings = [f"storage={storage}", "metric=val/loss", "mode=min", "num_trials=4", "max_train=200"]
    flags = [word for setting in settings for word in ("--set", setting)]
    uri = proxy.proxy.url.replace("://", f"://someone:{SECRET}@")
    command = toprung("sweep", "tune.smoke", *flags, folder=new_bench(), env={ENVIRONMENT: uri})
    assert command.code == 0, command.stdout + command.stderr
    requests = proxy.proxy.requests
    return sweep_of(command, storage, uri=proxy.server_url), requests


def test_the_server_in_the_environment_has_the_runs_and_none_are_local(recorded):
    swept, requests = recorded
    assert len(swept.children) == 4
    assert swept.parent.info.status == "FINISHED"
    assert {run.info.status for run in swept.children.values()} <= {"FINISHED", "KILLED"}
    assert [path.name for path in swept.storage.iterdir()] == [swept.shown["sweep_id"]]
    assert all(request.authorization and request.authorization.startswith("Basic ") for request in requests)


def test_each_report_is_one_request(recorded):
    swept, requests = recorded
    batches = [request.json for request in requests if request.path.endswith("/runs/log-batch")]
    of_children = {run.info.run_id: trial_id for trial_id, run in swept.children.items()}
    reports = [batch for batch in batches if batch["run_id"] in of_children and batch.get("metrics")]
    assert len(reports) == sum(trial["epochs"] for trial in swept.shown["trials"])
    for batch in reports:
        assert {metric["key"] for metric in batch["metrics"]} == {
            "train/loss", "val/loss", "val/accuracy", "time/epoch_seconds"
        }  # fmt: skip
    one_by_one = ("/log-metric", "/log-parameter", "/set-tag")
    assert not [request for request in requests if request.path.endswith(one_by_one)]


def test_parameters_are_sent_once_per_trial(recorded):
    _, requests = recorded
    batches = [request.json for request in requests if request.path.endswith("/runs/log-batch")]
    assert len([batch for batch in batches if batch.get("params")]) == 4


def test_the_server_has_the_weights_of_every_child_run(recorded):
    swept, _ = recorded
    for run in swept.children.values():
        assert {"model.pth", "config.json"} <= {file.path for file in swept.client.list_artifacts(run.info.run_id)}


def test_in_mode_min_the_smallest_value_wins(recorded):
    swept, _ = recorded
    assert swept.shown["metric"] == "val/loss"
    assert swept.shown["best"]["value"] == min(trial["value"] for trial in swept.shown["trials"])
    metrics = json.loads((swept.folder / "export" / "metrics.json").read_text())
    assert metrics["verified"]["val/loss"] == swept.shown["best"]["value"]


def test_the_password_is_only_in_the_environment(recorded, toprung):
    swept, requests = recorded
    assert SECRET not in swept.command.stdout + swept.command.stderr + json.dumps(swept.shown)
    assert swept.shown["tracking_uri"].startswith("http://***@127.0.0.1:")
    shown = toprung("show", swept.shown["sweep_id"], "--storage", swept.storage, folder=swept.command.folder)
    assert SECRET not in shown.stdout
    files = [file for file in swept.storage.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]
    assert files == []
    assert not [request for request in requests if SECRET.encode() in request.body + request.path.encode()]


def test_runs_are_kept_in_a_local_file_unless_the_environment_names_a_server(tmp_path, monkeypatch):
    local = f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking_uri(tmp_path) == local
    assert artifact_location(tmp_path, local) == f"file://{tmp_path}/mlartifacts"
    monkeypatch.setenv(ENVIRONMENT, "http://host")
    assert tracking_uri(tmp_path) == "http://host"
    assert artifact_location(tmp_path, "http://host") is None
