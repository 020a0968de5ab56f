"""The writer in its process: what the driver hears of it, and what happens when it is killed."""

import errno
import io
import json
import os
import signal
from types import SimpleNamespace

import pytest
from mlflow.environment_variables import MLFLOW_ENABLE_ASYNC_LOGGING

from tests.servers import wait_until
from tests.tracking.recorded import Recorded, all_runs, assert_agrees, parent_of, runs_of
from toprung.errors import UserError
from toprung.records import ledger
from toprung.records.sweep_dir import SweepDirectory
from toprung.tracking import connection
from toprung.tracking import writer_process as processes
from toprung.tracking.writer import TrackingWriter
from toprung.tracking.writer_process import WriterProcess


class _Driven(Recorded):
    """A sweep whose writer is a process; the writer's own log is ours."""

    def _writer(self, *, is_behind):
        return WriterProcess(
            self.sweep_dir,
            on_open=lambda run_id, experiment_id: self.opened.append((run_id, experiment_id)),
            on_run=self.note_run_id,
            on_artifacts_logged=self.kept.append,
            on_rejected=lambda: self.refusals.append(True),
            is_behind=is_behind,
        )


@pytest.fixture
def url(tracking_server, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_server.url)
    return tracking_server.url


def test_the_driver_hears_which_runs_there_are_and_what_is_kept(url, tmp_path):
    driven = _Driven(tmp_path)
    driven.whole("aa")
    driven.close()
    assert_agrees(url, driven.sweep_dir)
    parent = parent_of(url, driven.sweep_dir.sweep_id)
    assert driven.opened == [(parent.info.run_id, parent.info.experiment_id)]
    (record,) = ledger.read(driven.sweep_dir)
    assert record.mlflow_run_id == runs_of(url, driven.sweep_dir.sweep_id)["aa"].info.run_id
    assert driven.kept == ["aa"]
    assert (driven.writer.problems, driven.writer.tracking_error, driven.refusals) == ([], None, [])
    assert parent.info.status == "FINISHED"


def test_a_writer_that_is_killed_is_followed_by_another_that_catches_up(url, tmp_path):
    driven = _Driven(tmp_path)
    driven.start("aa")
    driven.epoch("aa", 1)
    wait_until(lambda: driven.delivered(url), "the first epoch")
    os.kill(driven.writer._process.pid, signal.SIGKILL)
    driven.epoch("aa", 2)  # whether the pipe is still open or not
    driven.end("aa")
    driven.whole("bb")
    driven.close()
    assert_agrees(url, driven.sweep_dir)
    assert parent_of(url, driven.sweep_dir.sweep_id).info.status == "FINISHED"
    assert driven.writer.tracking_error is None


def test_a_writer_that_is_killed_again_and_again_is_given_up_and_said(url, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "MAX_STARTS", 1)
    driven = _Driven(tmp_path)
    driven.start("aa")
    driven.epoch("aa", 1)
    wait_until(lambda: driven.delivered(url), "the first epoch")
    os.kill(driven.writer._process.pid, signal.SIGKILL)
    wait_until(lambda: driven.writer.tracking_error, "the end of it")
    driven.epoch("aa", 2)  # the driver goes on
    driven.close()
    assert "killed repeatedly" in driven.writer.tracking_error


def test_a_writer_that_was_refused_takes_notes_without_an_error(proxy, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url.replace("http://", "http://me:canary@"))
    proxy.answer(401)
    driven = _Driven(tmp_path)
    driven.start("aa")
    driven.epoch("aa", 1)
    wait_until(lambda: driven.refusals, "the refusal")
    driven.writer._listener.join()
    driven.epoch("aa", 2)
    driven.close()
    assert str(driven.writer.rejected).startswith("MLflow at http://***@")
    assert "canary" not in str(driven.writer.rejected)


def test_the_driver_waits_until_mlflow_has_answered_and_the_same_process_writes(url, tmp_path):
    driven = _Driven(tmp_path)
    driven.writer.start_check()
    driven.writer.wait_until_ready()
    asked = driven.writer._process
    driven.whole("aa")
    driven.close()
    assert driven.writer._process is asked
    assert_agrees(url, driven.sweep_dir)


def test_a_refusal_before_the_first_trial_is_raised_and_leaves_nothing_there(
    proxy, tracking_server, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
    proxy.answer(403)
    driven = _Driven(tmp_path)
    driven.writer.start_check()
    with pytest.raises(UserError, match=r"^MLflow at http://\S+ cannot be used \(.*403"):
        driven.writer.wait_until_ready()
    driven.writer.close(finish=False)
    assert all_runs(tracking_server.url, driven.sweep_dir.sweep_id) == []


def test_a_writer_that_dies_before_it_answers_keeps_nobody_waiting(url, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "mlflow.py").write_text("raise SystemExit(3)")
    driven = _Driven(tmp_path)
    driven.writer.start_check()
    with pytest.raises(UserError, match="killed repeatedly"):
        driven.writer.wait_until_ready()


def test_a_record_that_cannot_be_written_does_not_keep_the_writer_waiting(tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    sweep_dir = SweepDirectory(tmp_path)
    writer = WriterProcess(sweep_dir, on_open=full, on_run=full, on_artifacts_logged=full, on_rejected=full)
    events = [
        {"event": "open", "run_id": "run", "experiment_id": "1"},
        {"event": "run", "trial_id": "aa", "run_id": "run"},
        {"event": "done", "problems": [], "tracking_error": "the server is away"},
    ]
    told = io.StringIO("".join(json.dumps(event) + "\n" for event in events))
    writer._listen(SimpleNamespace(stdout=told, stdin=io.StringIO(), wait=lambda: 0))
    assert writer.tracking_error == "the server is away"


def test_a_writer_that_ends_by_a_fault_says_that_not_all_was_delivered(tmp_path):
    def fault():
        raise RuntimeError("a fault")

    nothing = {name: lambda *_: None for name in ("on_open", "on_run", "on_artifacts_logged", "on_rejected")}
    writer = TrackingWriter(fault, sweep_dir=SweepDirectory(tmp_path), **nothing)
    writer.nudge()
    writer.close(finish=False)
    assert writer.tracking_error == "RuntimeError: a fault"


def test_the_writer_waits_for_each_delivery_whatever_the_shell_says(monkeypatch):
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_LOGGING", "true")
    connection.configure_client()
    assert MLFLOW_ENABLE_ASYNC_LOGGING.get() is False
