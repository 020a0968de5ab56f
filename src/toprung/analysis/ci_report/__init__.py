"""What a pull request is told of its mini-sweep: the record that CI measures, and the comment made of it."""

from toprung.analysis.ci_report.comment import comment, compared
from toprung.analysis.ci_report.record import Record, Seeds, measure, read_record, read_seeds, seeds_of_sweep

__all__ = ["Record", "Seeds", "comment", "compared", "measure", "read_record", "read_seeds", "seeds_of_sweep"]
