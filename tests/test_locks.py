"""One process at a time, seen from a second process."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from diffdpo.errors import UserError
from diffdpo.locks import alone

HOLD = """
import sys, time
from pathlib import Path
from diffdpo.locks import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(folder, seconds):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), str(seconds)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    process = hold(tmp_path, 60)
    with pytest.raises(UserError, match="another diffdpo is working there"), alone(tmp_path):
        pass
    process.kill()  # however it ends, its lock goes with it
    process.wait()
    with alone(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_waiting_takes_over_when_the_first_is_done(tmp_path):
    process = hold(tmp_path, 0.5)
    began = time.monotonic()
    with alone(tmp_path, wait=True):
        assert time.monotonic() - began < 30
        assert process.wait(timeout=10) == 0
