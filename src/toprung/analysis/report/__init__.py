"""A sweep's report: one HTML file that opens offline, pictures, and a summary in Markdown."""

from toprung.analysis.report.write import write_report

__all__ = ["write_report"]
