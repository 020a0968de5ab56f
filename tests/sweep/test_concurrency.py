"""How many trials Ray Tune may start at once."""

import os
from types import SimpleNamespace

from toprung.sweep.concurrency import build_concurrency


def test_all_trials_that_may_run_at_once_may_wait_for_their_processes(monkeypatch):
    """Tune reads the number from a variable; this test fails if a new Ray ignores it."""
    from ray.tune.execution.tune_controller import _get_max_pending_trials

    monkeypatch.setenv("TUNE_MAX_PENDING_TRIALS_PG", "1")
    prepared = SimpleNamespace(sweep=None, nodes=[], num_concurrent_trials=3)
    concurrency = build_concurrency(prepared, None, on_change=lambda number: None)
    assert concurrency() == _get_max_pending_trials(SimpleNamespace(searcher=None)) == 3
    assert os.environ["TUNE_MAX_PENDING_TRIALS_PG"] == "3"
