"""Find the processes that a test has started, directly or indirectly, by a variable that they inherit."""

import psutil


def processes_marked(mark: str) -> list[psutil.Process]:
    """Return all running processes whose variable `TEST_MARK` has this value."""
    result = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TEST_MARK") == mark and process.status() != psutil.STATUS_ZOMBIE:
                result.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return result
