"""The driver's output, redirected to a log file."""

import os
import sys

import pytest

from toprung.sweep.signals import redirect_output


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_output_returns_to_the_terminal_after_the_log_hit_a_full_disk(capfd):
    with redirect_output("/dev/full"):
        sys.stdout.write("lost")
    os.write(1, b"shown")
    assert capfd.readouterr().out.endswith("shown")
