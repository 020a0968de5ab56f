"""Fresh processes that get a task and return its result."""

import pytest

from toprung.export.processes import ExportFailed, run_isolated


def test_a_task_may_be_longer_than_an_argument_can_be(tmp_path):
    script = tmp_path / "count.py"
    script.write_text("import json, sys\nprint(json.dumps({'count': len(json.load(sys.stdin)['classes'])}))\n")
    assert run_isolated(script, {"classes": [f"class {number}" for number in range(20_000)]}) == {"count": 20_000}


def test_the_last_line_of_a_failed_process_is_its_reason(tmp_path):
    script = tmp_path / "fail.py"
    script.write_text("raise ValueError('no such layer')\n")
    with pytest.raises(ExportFailed, match=r"^ValueError: no such layer$"):
        run_isolated(script, {})
