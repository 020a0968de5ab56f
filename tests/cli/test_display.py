"""The lines printed at the end of a trial and of a sweep."""

import io
from datetime import datetime

import pytest

from toprung.cli.display import PlainLines
from toprung.records import catalog
from toprung.records.trial_record import End, TrialRecord
from toprung.sweep.driver import Outcome
from toprung.sweep.progress import SweepProgress
from tune import smoke


@pytest.mark.parametrize(
    ("epochs", "end", "message"),
    [
        ((), End("interrupted", cause="the disk is full"), "trial 0 was interrupted: the disk is full"),
        ((0.5,), End("interrupted", cause="the disk is full"), "trial 0 was interrupted: the disk is full"),
        ((), End("failed", cause="loss is NaN in epoch 1"), "trial 0 failed: loss is NaN in epoch 1"),
        ((0.5,), End("stopped", rung=1, cause="ASHA: 0.5000, needed 0.6000"), "stopped at rung 1: 0.5000, needed"),
        ((0.5,), End("stopped", cause="target 0.5 reached"), "trial 0 stopped: target 0.5 reached"),
        ((0.5, 0.75), End("finished"), "trial 0 finished: 0.7500 (new best)"),
    ],
)
def test_the_end_of_a_trial_is_printed_in_one_line(epochs, end, message):
    stream = io.StringIO()
    progress = SweepProgress("smoke-1", smoke.sweep(), 1)
    progress.add(TrialRecord(0, "a", "running", {"optimizer": "sgd", "lr": 0.1}, {}, None, None))
    for number, value in enumerate(epochs, start=1):
        progress.report("a", value, epoch=number)
    PlainLines(stream).trial_ended(progress, progress.end("a", end), best_before=None)
    assert message in stream.getvalue()


@pytest.mark.parametrize(
    ("num_trials", "config", "line"),
    [
        (2, {"optimizer": "sgd", "lr": 0.1}, "trial 0 failed: loss is NaN (sgd, lr 0.1). The sweep continues."),
        (2, {"width": 4}, "trial 0 failed: loss is NaN. The sweep continues."),
        (1, {"optimizer": "sgd", "lr": 0.1}, "trial 0 failed: loss is NaN (sgd, lr 0.1)."),
    ],
)
def test_a_failed_trial_says_that_the_sweep_continues_only_if_trials_are_left(num_trials, config, line):
    stream = io.StringIO()
    progress = SweepProgress("smoke-1", smoke.sweep().model_copy(update={"num_trials": num_trials}), 1)
    progress.add(TrialRecord(0, "a", "running", config, {}, None, None))
    failed = progress.end("a", End("failed", cause="loss is NaN"))
    PlainLines(stream).trial_ended(progress, failed, best_before=None)
    assert stream.getvalue().rstrip().endswith(line)


def test_a_reason_is_told_with_its_brackets(tmp_path):
    stream, sweep = io.StringIO(), smoke.sweep()
    sweep_dir = catalog.create_sweep(tmp_path, sweep, name=None, now=datetime.now())
    reason = "every trial failed, 3 of 3 because KeyError: [tool.toprung] include"
    PlainLines(stream).summarise(Outcome("failed", reason, sweep_dir, SweepProgress(sweep_dir.sweep_id, sweep, 1), []))
    assert f"E{reason[1:]}." in stream.getvalue()
