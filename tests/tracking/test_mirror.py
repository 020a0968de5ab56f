"""The writer and its mirror with a real MLflow server and its faults, after which MLflow agrees with the ledger."""

import json
import os
import sqlite3
import threading
from pathlib import Path

import pytest
from mlflow import MlflowClient
from sqlalchemy.exc import OperationalError

from tests.servers import wait_until
from tests.tracking.recorded import LINEAGE, METRICS, Recorded, all_runs, assert_agrees, parent_of, runs_of
from toprung.errors import UserError
from toprung.records import ledger
from toprung.records.trial_record import End
from toprung.sweep import maintenance
from toprung.tracking import writer as writers
from toprung.tracking.artifacts import log_files, record_run
from toprung.tracking.batches import REJECTED


@pytest.fixture(autouse=True)
def client_settings(monkeypatch):
    """Restore the environment variables with which the writer configures MLflow's client."""
    for name, value in (
        ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0"),
        ("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true"),
        ("MLFLOW_HTTP_REQUEST_TIMEOUT", "20"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(writers, "MIN_BACKOFF_SECONDS", 0.05)
    monkeypatch.setattr(writers, "MAX_BACKOFF_SECONDS", 0.2)


@pytest.fixture
def url(proxy, tracking_server, monkeypatch):
    """Return the server's own URL, for the test's queries; the writer goes through the proxy."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
    return tracking_server.url


@pytest.fixture
def recorded(url, tmp_path):
    sweep = Recorded(tmp_path)
    yield sweep
    sweep.close()


def _is_metrics(request):
    return request.path.endswith("/runs/log-batch") and bool(request.json.get("metrics"))


def test_a_sweep_is_mirrored_with_its_lineage(recorded, url):
    recorded.whole("aa")
    recorded.start("bb", lr=0.5)
    recorded.epoch("bb", 1)
    recorded.end("bb", End("stopped", rung=1, cause="ASHA: 0.1000, needed 0.3000"))
    recorded.start("cc")
    recorded.epoch("cc", 1)
    recorded.end("cc", End("failed", cause="its process died"))
    recorded.close()
    assert_agrees(url, recorded.sweep_dir)
    assert (recorded.writer.problems, recorded.writer.tracking_error, recorded.refusals) == ([], None, [])
    assert recorded.kept == ["aa", "bb", "cc"]
    runs, parent = runs_of(url, recorded.sweep_dir.sweep_id), parent_of(url, recorded.sweep_dir.sweep_id)
    assert [run.run_id for run in recorded.opened] == [parent.info.run_id]
    tags = parent.data.tags
    assert (tags["toprung.commit"], tags["toprung.dirty"], tags["toprung.seed"]) == (LINEAGE.commit, "false", "3")
    assert (tags["toprung.lock_hash"], tags["toprung.version.torch"]) == (LINEAGE.lock_hash, "2.0")
    assert tags["toprung.data_fingerprint"] == LINEAGE.data_fingerprint
    in_dvc = (tags["toprung.dvc_raw_md5"], tags["toprung.dvc_prepared_md5"], tags["toprung.dvc_remote"])
    assert in_dvc == (LINEAGE.dvc_raw_md5, LINEAGE.dvc_prepared_md5, "store")
    for run in [parent, *runs.values()]:
        (read,) = run.inputs.dataset_inputs
        assert json.loads(read.dataset.source)["dvc_prepared_md5"] == LINEAGE.dvc_prepared_md5
        assert (read.dataset.name, read.dataset.source_type) == ("digits", "toprung")
        assert LINEAGE.data_fingerprint.startswith(read.dataset.digest)
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert runs["bb"].data.tags["stop_reason"] == "ASHA: 0.1000, needed 0.3000"
    assert (runs["bb"].data.tags["toprung.rung"], "toprung.rung" in runs["cc"].data.tags) == ("1", False)
    assert runs["aa"].data.tags["toprung.rung"] == str(recorded.sweep.rungs[-1])
    assert runs["cc"].data.tags["error"] == "its process died"
    assert (parent.info.status, parent.data.tags["toprung.best_trial_id"]) == ("FINISHED", "aa")
    assert parent.data.metrics["toprung/trials"] == 3


def test_an_epoch_is_at_most_one_request_with_any_number_of_metrics(recorded, proxy, url):
    recorded.start("aa")
    recorded.epoch("aa", 1)
    wait_until(lambda: recorded.delivered(url), "the first epoch")
    before = len(proxy.requests)
    for epoch in range(2, 12):
        recorded.epoch("aa", epoch, more=[f"more/{number}" for number in range(epoch * 5)])
    wait_until(lambda: recorded.delivered(url), "all epochs")
    sent = proxy.requests[before:]
    assert 1 <= len(sent) <= 10
    assert all(map(_is_metrics, sent))
    recorded.end("aa")
    recorded.close()
    assert_agrees(url, recorded.sweep_dir)


@pytest.mark.parametrize("status", [500, 429])
def test_a_server_that_answers_with_errors_for_a_while_receives_everything_in_the_end(recorded, proxy, url, status):
    recorded.start("aa")
    recorded.epoch("aa", 1)
    wait_until(lambda: recorded.delivered(url), "the first epoch")
    proxy.answer(status)
    before = len(proxy.requests)
    recorded.epoch("aa", 2)
    recorded.epoch("aa", 3)
    recorded.end("aa")
    recorded.whole("bb")
    wait_until(lambda: len(proxy.requests) > before + 3, "some attempts")
    assert set(runs_of(url, recorded.sweep_dir.sweep_id)) == {"aa"}
    proxy.pass_on()
    recorded.close()
    assert_agrees(url, recorded.sweep_dir)
    assert recorded.writer.tracking_error is None


def test_a_server_that_is_unavailable_at_the_start_receives_everything_in_the_end(recorded, proxy, url):
    proxy.refuse()
    recorded.whole("aa")
    recorded.start("bb")
    proxy.pass_on()
    recorded.epoch("bb", 1)
    recorded.end("bb")
    recorded.close()
    assert_agrees(url, recorded.sweep_dir)
    assert parent_of(url, recorded.sweep_dir.sweep_id).info.status == "FINISHED"


@pytest.mark.parametrize(
    ("path", "times"),
    [
        ("/runs/create", 2),
        ("/runs/log-batch", 3),
        ("/runs/log-inputs", 1),
        ("/runs/update", 2),
        ("/experiments/create", 1),
    ],
)
def test_lost_answers_neither_lose_nor_duplicate_data(recorded, proxy, url, path, times):
    proxy.drop_answers(path=path, times=times)
    recorded.whole("aa")
    recorded.close()
    assert proxy.count(path) >= times
    assert_agrees(url, recorded.sweep_dir)
    assert parent_of(url, recorded.sweep_dir.sweep_id).info.status == "FINISHED"


def test_a_run_created_without_an_answer_is_used_and_receives_its_parameters(recorded, proxy, url):
    recorded.start("aa")
    recorded.epoch("aa", 1)
    wait_until(lambda: recorded.delivered(url), "the first trial")
    proxy.drop_answers(path="/runs/create", times=1)
    recorded.start("bb")
    recorded.epoch("bb", 1)
    wait_until(lambda: recorded.delivered(url), "the second trial")
    assert proxy.count("/runs/create") == 3  # the sweep's, and one per trial
    recorded.end("aa")
    recorded.end("bb")
    recorded.close()
    assert_agrees(url, recorded.sweep_dir)


@pytest.mark.parametrize("path", ["/runs/log-batch", "/runs/create", "/runs/update"])
def test_training_does_not_wait_for_a_server_that_hangs(recorded, proxy, url, path, monkeypatch):
    recorded.start("aa")
    recorded.epoch("aa", 1)
    wait_until(lambda: recorded.delivered(url), "the first epoch")
    proxy.hang(path=path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    recorded.epoch("aa", 2)  # returns, although nothing is answered before `pass_on`
    recorded.end("aa")
    recorded.whole("bb")
    attempts = proxy.count(path)
    wait_until(lambda: proxy.count(path) > attempts, "another attempt")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    assert not recorded.delivered(url)
    proxy.pass_on()  # the requests that hung arrive late
    wait_until(lambda: recorded.delivered(url), "everything")
    recorded.close()
    assert_agrees(url, recorded.sweep_dir)


def test_trials_that_ended_before_the_server_answered_take_few_requests(url, proxy, tmp_path):
    gate = threading.Event()
    recorded = Recorded(tmp_path, on_open=lambda sweep: gate.wait())
    for number in range(3):
        recorded.whole(f"t{number}", num_epochs=5)
    gate.set()
    wait_until(lambda: recorded.delivered(url), "everything")
    assert len([request for request in proxy.requests if _is_metrics(request)]) == 3  # one per trial
    recorded.whole("late")
    recorded.close()
    assert_agrees(url, recorded.sweep_dir)


def test_a_trials_run_logs_its_best_value_and_epoch_as_they_improve(url, tmp_path):
    recorded = Recorded(tmp_path)
    recorded.start("aa")
    for epoch, value in enumerate((0.5, 0.8, 0.7), start=1):
        recorded.epoch("aa", epoch, accuracy=value)
    recorded.end("aa")
    recorded.close()
    run = runs_of(url, recorded.sweep_dir.sweep_id)["aa"]
    assert (run.data.metrics["best/val/accuracy"], run.data.metrics["best/epoch"]) == (0.8, 2)
    assert run.data.metrics["val/accuracy"] == 0.7
    history = MlflowClient(tracking_uri=url).get_metric_history(run.info.run_id, "best/val/accuracy")
    assert [(entry.step, entry.value) for entry in history] == [(1, 0.5), (2, 0.8)]


def test_closing_gives_up_after_a_timeout_and_sync_delivers_later(url, proxy, tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "CLOSE_TIMEOUT_SECONDS", 0.3)
    recorded = Recorded(tmp_path)
    recorded.start("aa")
    recorded.epoch("aa", 1)
    wait_until(lambda: recorded.delivered(url), "the first epoch")
    proxy.answer(500)
    recorded.epoch("aa", 2)
    recorded.end("aa")
    recorded.whole("bb")
    recorded.close()
    assert recorded.writer.tracking_error.startswith("too many 500 error responses: API request to ")
    assert runs_of(url, recorded.sweep_dir.sweep_id)["aa"].info.status == "RUNNING"
    with pytest.raises(ValueError, match=rf"does not respond .*toprung sync {recorded.sweep_dir.sweep_id}$"):
        maintenance.sync(recorded.sweep_dir)
    proxy.pass_on()
    assert maintenance.sync(recorded.sweep_dir) == []
    assert_agrees(url, recorded.sweep_dir)
    assert parent_of(url, recorded.sweep_dir.sweep_id).info.status == "FINISHED"
    before = len(proxy.requests)
    assert maintenance.sync(recorded.sweep_dir) == []  # nothing left to send
    children = {run.info.run_id for run in runs_of(url, recorded.sweep_dir.sweep_id).values()}
    assert not [
        request for request in proxy.requests[before:] if _is_metrics(request) and request.json["run_id"] in children
    ]
    assert_agrees(url, recorded.sweep_dir)


def test_sync_creates_the_runs_of_a_sweep_that_never_reached_its_server(url, proxy, tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "CLOSE_TIMEOUT_SECONDS", 0.1)
    recorded = Recorded(tmp_path)
    proxy.refuse()
    recorded.whole("aa")
    recorded.close(status="stopped", reason="stopped by the user")
    assert recorded.writer.tracking_error
    proxy.pass_on()
    assert maintenance.sync(recorded.sweep_dir) == []
    assert_agrees(url, recorded.sweep_dir)
    parent = parent_of(url, recorded.sweep_dir.sweep_id)
    assert (parent.info.status, parent.data.tags["stop_reason"]) == ("KILLED", "stopped by the user")
    state = recorded.sweep_dir.read(recorded.sweep_dir.status_file)
    assert (state["mlflow_run_id"], state["tracking_error"]) == (parent.info.run_id, None)


def test_runs_that_a_dead_driver_left_open_are_closed_by_the_next_command_and_reopened_on_resume(url, tmp_path):
    dead = Recorded(tmp_path)
    dead.whole("done")
    dead.start("open")
    dead.epoch("open", 1)
    wait_until(lambda: dead.delivered(url), "the first epoch of the open trial")
    dead.epoch("open", 2)
    dead.writer.close(finish=False)
    assert runs_of(url, dead.sweep_dir.sweep_id)["open"].info.status == "RUNNING"
    message = []
    maintenance.close_orphaned(tmp_path, echo=message.append)
    (line,) = message
    assert line.startswith(f"{dead.sweep_dir.sweep_id}: its driver died; its open runs in MLflow are closed. ")
    assert line.endswith(f"toprung resume {dead.sweep_dir.sweep_id}")
    assert {run.info.status for run in all_runs(url, dead.sweep_dir.sweep_id)} == {"FINISHED", "KILLED"}
    assert_agrees(url, dead.sweep_dir)
    assert runs_of(url, dead.sweep_dir.sweep_id)["open"].data.tags["stop_reason"] == "the driver died"
    message.clear()
    maintenance.close_orphaned(tmp_path, echo=message.append)
    assert message == []
    before = {run.info.run_id for run in all_runs(url, dead.sweep_dir.sweep_id)}
    after = dead.again()
    after.epoch("open", 3)
    wait_until(lambda: after.delivered(url), "the third epoch")
    assert runs_of(url, dead.sweep_dir.sweep_id)["open"].info.status == "RUNNING"
    assert parent_of(url, dead.sweep_dir.sweep_id).info.status == "RUNNING"
    after.end("open")
    after.close()
    assert_agrees(url, dead.sweep_dir)
    runs = runs_of(url, dead.sweep_dir.sweep_id)
    assert {run.info.status for run in all_runs(url, dead.sweep_dir.sweep_id)} == {"FINISHED"}
    assert not runs["open"].data.tags.get("stop_reason")
    assert {run.info.run_id for run in all_runs(url, dead.sweep_dir.sweep_id)} == before


def test_deleting_a_run_during_the_sweep_is_reported_and_does_not_stop_the_writer(recorded, url):
    recorded.start("aa")
    recorded.epoch("aa", 1)
    wait_until(lambda: recorded.delivered(url), "the first epoch")
    client = MlflowClient(tracking_uri=url)
    client.delete_run(runs_of(url, recorded.sweep_dir.sweep_id)["aa"].info.run_id)
    client.delete_run(parent_of(url, recorded.sweep_dir.sweep_id).info.run_id)
    recorded.epoch("aa", 2)
    recorded.end("aa")
    closing = threading.Thread(target=recorded.close, daemon=True)
    closing.start()
    closing.join(timeout=30)
    assert not closing.is_alive()
    assert any("deleted" in problem or "active" in problem for problem in recorded.writer.problems)
    assert recorded.writer.tracking_error is None


def test_a_server_that_refuses_the_password_stops_the_writer_with_one_line(url, proxy, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url.replace("http://", "http://me:canary@"))
    proxy.answer(401)
    recorded = Recorded(tmp_path)
    recorded.start("aa")
    recorded.epoch("aa", 1)
    wait_until(lambda: recorded.refusals, "the refusal")
    recorded.close()
    line = str(recorded.writer.rejected)
    assert line.startswith(f"MLflow at {proxy.url.replace('http://', 'http://***@')} cannot be used (")
    assert "\n" not in line
    assert "canary" not in line


def test_a_locked_study_is_retried_and_not_taken_for_a_refusal(url, tmp_path, monkeypatch):
    read_all, failures = ledger.read_all, [True]

    def locked_once(directory):
        if failures:
            failures.pop()
            locked = OperationalError("SELECT", {}, sqlite3.OperationalError("database is locked"))
            raise UserError("The study cannot be read.") from locked
        return read_all(directory)

    monkeypatch.setattr(ledger, "read_all", locked_once)
    recorded = Recorded(tmp_path)
    recorded.whole("aa")
    recorded.close()
    assert (failures, recorded.refusals, recorded.writer.tracking_error) == ([], [], None)
    assert_agrees(url, recorded.sweep_dir)


def test_a_sweep_on_postgresql_is_mirrored_too(postgres_tracking_server, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres_tracking_server.uri)
    recorded = Recorded(tmp_path)
    recorded.whole("aa")
    recorded.start("bb")
    recorded.epoch("bb", 1)
    recorded.end("bb", End("interrupted", cause="stopped by the user"))
    recorded.close(status="stopped", reason="stopped by the user")
    assert_agrees(postgres_tracking_server.uri, recorded.sweep_dir)
    assert len(ledger.read(recorded.sweep_dir)) == 2
    assert os.environ["MLFLOW_TRACKING_URI"] == postgres_tracking_server.uri


def test_experiment_and_sweep_have_descriptions_and_a_persons_own_is_kept(recorded, url):
    recorded.whole("aa")
    wait_until(lambda: recorded.opened, "the sweep's run")
    client = MlflowClient(tracking_uri=url)
    parent = parent_of(url, recorded.sweep_dir.sweep_id)
    experiment = client.get_experiment(parent.info.experiment_id)
    assert "Each parent run is one sweep" in experiment.tags["mlflow.note.content"]
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert parent.data.tags["mlflow.note.content"].startswith(f"### {recorded.sweep_dir.sweep_id}")
    recorded.close()
    note = parent_of(url, recorded.sweep_dir.sweep_id).data.tags["mlflow.note.content"]
    assert "**finished**. Best val/accuracy: **0.3000**, trial 0, epoch 3" in note
    client.set_tag(parent.info.run_id, "mlflow.note.content", "the one to keep")
    maintenance.sync(recorded.sweep_dir)
    assert parent_of(url, recorded.sweep_dir.sweep_id).data.tags["mlflow.note.content"] == "the one to keep"


def test_files_are_attached_to_the_sweeps_run_and_replaced(recorded, url, tmp_path):
    recorded.whole("aa")
    recorded.close()
    with pytest.raises(UserError, match="has no run of"):
        log_files(recorded.sweep_dir, [], folder="report")
    recorded.sweep_dir.write(
        recorded.sweep_dir.status_file, {"mlflow_run_id": parent_of(url, recorded.sweep_dir.sweep_id).info.run_id}
    )
    page = tmp_path / "report.html"
    for content in ("old", "new"):
        page.write_text(content)
        run_id = log_files(recorded.sweep_dir, [page], folder="report", tags={"toprung.verdict": content})
    client = MlflowClient(tracking_uri=url)
    kept = client.download_artifacts(run_id, "report/report.html", str(tmp_path))
    assert Path(kept).read_text() == "new"
    assert client.get_run(run_id).data.tags["toprung.verdict"] == "new"


def test_a_server_that_does_not_accept_files_is_reported_in_one_line(recorded, proxy, url, tmp_path):
    recorded.whole("aa")
    recorded.close()
    recorded.sweep_dir.write(
        recorded.sweep_dir.status_file, {"mlflow_run_id": parent_of(url, recorded.sweep_dir.sweep_id).info.run_id}
    )
    (tmp_path / "report.html").write_text("page")
    proxy.answer(503)
    with pytest.raises(UserError, match="did not record this"):
        log_files(recorded.sweep_dir, [tmp_path / "report.html"], folder="report", tags={"a": "b"})


def _noted(url, sweep_id, trial_id):
    run = runs_of(url, sweep_id).get(trial_id)
    return run is not None and all(f"metric {name[:50]}" in run.data.tags.get(REJECTED, "") for name in REFUSED_NAMES)


REFUSED_NAMES = ("val/acc@5", "a" * 251)


def test_a_refused_metric_or_parameter_does_not_affect_the_others(recorded, proxy, url):
    recorded.start("aa", **{"lr@head": 0.5})
    recorded.epoch("aa", 1, more=REFUSED_NAMES)
    wait_until(lambda: _noted(url, recorded.sweep_dir.sweep_id, "aa"), "a note of what was refused")
    before = len(proxy.requests)
    recorded.epoch("aa", 2, more=REFUSED_NAMES)
    wait_until(lambda: recorded.delivered(url), "the second epoch")
    assert len(proxy.requests) == before + 1  # refused items are not sent again
    recorded.end("aa")
    recorded.whole("bb")
    recorded.close()
    runs = runs_of(url, recorded.sweep_dir.sweep_id)
    assert runs["aa"].data.params == {"lr": "0.1", "augment": "None"}
    assert set(runs["aa"].data.metrics) == {*METRICS, "best/val/accuracy", "best/epoch"}
    assert runs["aa"].info.status == runs["bb"].info.status == "FINISHED"
    problems = recorded.writer.problems
    assert [problem.partition(": INVALID")[0][:40] for problem in problems] == [
        "trial 0: parameter lr@head",
        "trial 0: metric val/acc@5",
        ("trial 0: metric " + "a" * 100)[:40],
    ]
    recorded.close()
    assert maintenance.sync(recorded.sweep_dir) == problems  # a later command reads it from the run
    assert recorded.sweep_dir.read(recorded.sweep_dir.status_file)["not_in_mlflow"] == problems


def test_more_metrics_and_parameters_than_one_request_takes_are_all_delivered(recorded, url):
    recorded.start("aa", **{f"p{number}": number for number in range(150)})
    recorded.epoch("aa", 1, more=[f"more/{number}" for number in range(1200)])
    recorded.end("aa")
    recorded.close()
    run = runs_of(url, recorded.sweep_dir.sweep_id)["aa"]
    assert (len(run.data.params), len(run.data.metrics)) == (152, 1206)
    assert recorded.writer.problems == []
    recorded.sweep_dir.write(
        recorded.sweep_dir.status_file, {"mlflow_run_id": parent_of(url, recorded.sweep_dir.sweep_id).info.run_id}
    )
    history = {epoch: dict.fromkeys(METRICS, 0.5) for epoch in range(1, 301)}
    run_id = record_run(recorded.sweep_dir, name="refit", params={"lr": 0.1}, history=history, files=[])
    assert len(MlflowClient(tracking_uri=url).get_metric_history(run_id, "train/loss")) == 300
    with pytest.raises(UserError, match=r"^MLflow has the refit, but rejected some of it: metric val/acc@5: "):
        record_run(recorded.sweep_dir, name="refit", params={}, history={1: {"val/acc@5": 0.5, "f1": 0.5}}, files=[])
