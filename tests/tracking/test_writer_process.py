"""The writer in a separate process: its events for the driver, and its replacement when it is killed."""

import errno
import io
import json
import os
import signal
import subprocess
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


class _RecordedByProcess(Recorded):
    """A sweep whose writer is a separate process, which logs to this one's stderr."""

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


def test_the_driver_receives_the_ids_of_runs_and_of_trials_whose_files_are_logged(url, tmp_path):
    recorded = _RecordedByProcess(tmp_path)
    recorded.whole("aa")
    recorded.close()
    assert_agrees(url, recorded.sweep_dir)
    parent = parent_of(url, recorded.sweep_dir.sweep_id)
    assert recorded.opened == [(parent.info.run_id, parent.info.experiment_id)]
    (record,) = ledger.read(recorded.sweep_dir)
    assert record.mlflow_run_id == runs_of(url, recorded.sweep_dir.sweep_id)["aa"].info.run_id
    assert recorded.kept == ["aa"]
    assert (recorded.writer.problems, recorded.writer.tracking_error, recorded.refusals) == ([], None, [])
    assert parent.info.status == "FINISHED"


def test_a_killed_writer_is_replaced_by_another_that_catches_up(url, tmp_path):
    recorded = _RecordedByProcess(tmp_path)
    recorded.start("aa")
    recorded.epoch("aa", 1)
    wait_until(lambda: recorded.delivered(url), "the first epoch")
    os.kill(recorded.writer._process.pid, signal.SIGKILL)
    recorded.epoch("aa", 2)  # whether the pipe is still open or not
    recorded.end("aa")
    recorded.whole("bb")
    recorded.close()
    assert_agrees(url, recorded.sweep_dir)
    assert parent_of(url, recorded.sweep_dir.sweep_id).info.status == "FINISHED"
    assert recorded.writer.tracking_error is None


def test_a_writer_that_is_killed_within_an_event_is_replaced(url, tmp_path):
    recorded = _RecordedByProcess(tmp_path)
    process = subprocess.Popen(
        ["printf", '{"event": "run", "tri'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    )
    recorded.writer._listen(process)
    assert recorded.writer._num_starts == 1
    recorded.close()
    assert recorded.writer.tracking_error is None


def test_a_writer_that_is_killed_repeatedly_is_given_up_with_an_error(url, tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "MAX_STARTS", 1)
    recorded = _RecordedByProcess(tmp_path)
    recorded.start("aa")
    recorded.epoch("aa", 1)
    wait_until(lambda: recorded.delivered(url), "the first epoch")
    os.kill(recorded.writer._process.pid, signal.SIGKILL)
    wait_until(lambda: recorded.writer.tracking_error, "the end of the writer")
    recorded.epoch("aa", 2)  # the driver continues
    recorded.close()
    assert "killed repeatedly" in recorded.writer.tracking_error


def test_a_writer_that_was_refused_ignores_further_nudges(proxy, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url.replace("http://", "http://me:canary@"))
    proxy.answer(401)
    recorded = _RecordedByProcess(tmp_path)
    recorded.start("aa")
    recorded.epoch("aa", 1)
    wait_until(lambda: recorded.refusals, "the refusal")
    recorded.writer._listener.join()
    recorded.epoch("aa", 2)
    recorded.close()
    assert str(recorded.writer.rejected).startswith("MLflow at http://***@")
    assert "canary" not in str(recorded.writer.rejected)


def test_the_driver_waits_for_the_check_and_the_same_process_writes(url, tmp_path):
    recorded = _RecordedByProcess(tmp_path)
    recorded.writer.start_check()
    recorded.writer.wait_until_ready()
    checking = recorded.writer._process
    recorded.whole("aa")
    recorded.close()
    assert recorded.writer._process is checking
    assert_agrees(url, recorded.sweep_dir)


def test_a_refusal_before_the_first_trial_is_raised_and_leaves_no_run(proxy, tracking_server, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", proxy.url)
    proxy.answer(403)
    recorded = _RecordedByProcess(tmp_path)
    recorded.writer.start_check()
    with pytest.raises(UserError, match=r"^MLflow at http://\S+ cannot be used \(.*403"):
        recorded.writer.wait_until_ready()
    recorded.writer.close(finish=False)
    assert all_runs(tracking_server.url, recorded.sweep_dir.sweep_id) == []


def test_a_writer_that_dies_during_the_check_does_not_block_the_driver(url, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "mlflow.py").write_text("raise SystemExit(3)")
    recorded = _RecordedByProcess(tmp_path)
    recorded.writer.start_check()
    with pytest.raises(UserError, match="killed repeatedly"):
        recorded.writer.wait_until_ready()


def test_an_event_that_cannot_be_recorded_does_not_block_the_writer(tmp_path):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    sweep_dir = SweepDirectory(tmp_path)
    writer = WriterProcess(sweep_dir, on_open=full, on_run=full, on_artifacts_logged=full, on_rejected=full)
    events = [
        {"event": "open", "run_id": "run", "experiment_id": "1"},
        {"event": "run", "trial_id": "aa", "run_id": "run"},
        {"event": "done", "problems": [], "tracking_error": "the server is unavailable"},
    ]
    output = io.StringIO("".join(json.dumps(event) + "\n" for event in events))
    writer._listen(SimpleNamespace(stdout=output, stdin=io.StringIO(), wait=lambda: 0))
    assert writer.tracking_error == "the server is unavailable"


def test_a_writer_that_fails_reports_the_error(tmp_path):
    def fault():
        raise RuntimeError("a fault")

    nothing = {name: lambda *_: None for name in ("on_open", "on_run", "on_artifacts_logged", "on_rejected")}
    writer = TrackingWriter(fault, sweep_dir=SweepDirectory(tmp_path), **nothing)
    writer.nudge()
    writer.close(finish=False)
    assert writer.tracking_error == "RuntimeError: a fault"


def test_the_writer_turns_asynchronous_logging_off(monkeypatch):
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_LOGGING", "true")
    connection.configure_client()
    assert MLFLOW_ENABLE_ASYNC_LOGGING.get() is False
