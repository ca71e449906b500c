"""Code for a process that tells the most memory it has held."""

from pathlib import Path

import pytest

STATUS = Path("/proc/self/status")
needs_peak = pytest.mark.skipif(not STATUS.exists(), reason="the system tells no peak of memory")

PEAK = """
def peak():
    # in KiB; getrusage also counts what the process that started this one held then
    return int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
"""
