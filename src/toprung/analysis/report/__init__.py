"""A sweep's report: one HTML file that opens offline, its main plots as PNG files, and a Markdown summary."""

from toprung.analysis.report.write import write_report

__all__ = ["write_report"]
