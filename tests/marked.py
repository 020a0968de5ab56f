"""Processes that a test has started, directly or not, known by a variable that they inherit."""

import psutil


def processes_marked(mark: str) -> list[psutil.Process]:
    """Every living process whose environment has `TEST_MARK` set to that mark."""
    result = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TEST_MARK") == mark and process.status() != psutil.STATUS_ZOMBIE:
                result.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return result
