"""Training gives other bits elsewhere: section "Many flows at once" of the notebook."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cells import ONE_THREAD, ROOT

pytestmark = pytest.mark.slow


def digest(*emulator):
    """What train_briefly.py prints in a process of its own, under an emulator or none."""
    environment = {key: value for key, value in os.environ.items() if key not in ("MKL_CBWR", "ATEN_CPU_CAPABILITY")}
    environment |= {**ONE_THREAD, "TQDM_DISABLE": "1", "LOKY_MAX_CPU_COUNT": "1", "PYTHONPATH": str(ROOT / "tests")}
    command = [*emulator, sys.executable, "-c", "import train_briefly; train_briefly.digest()"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.needs("mkl", "emulator")
def test_an_emulated_processor_of_another_maker_gives_the_same_bits():
    other = "Haswell-noTSX" if "AuthenticAMD" in Path("/proc/cpuinfo").read_text() else "EPYC-Milan"
    assert digest("qemu-x86_64", "-cpu", other) == digest()
