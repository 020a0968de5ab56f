"""The mini-sweep of a pull request: the record that CI measures, and the comment generated from it."""

from toprung.analysis.pull_request.comment import comment, run_rank_test
from toprung.analysis.pull_request.record import Record, Seeds, measure, read_record, read_seeds, read_sweep_seeds

__all__ = ["Record", "Seeds", "comment", "measure", "read_record", "read_seeds", "read_sweep_seeds", "run_rank_test"]
