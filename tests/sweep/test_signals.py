"""What a driver's process does to its output and its signals."""

import os
import sys

import pytest

from toprung.sweep.signals import redirect_output


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_output_comes_back_to_the_terminal_after_a_log_on_a_full_disk(capfd):
    with redirect_output("/dev/full"):
        sys.stdout.write("lost")
    os.write(1, b"shown")
    assert capfd.readouterr().out.endswith("shown")
