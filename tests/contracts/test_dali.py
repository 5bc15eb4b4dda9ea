"""The laws of DALI, in a process of their own: its FFmpeg, once loaded, disturbs encoders of other tests."""

import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest

LAWS = Path(__file__).with_name("dali_laws.py")
HAS_DALI = util.find_spec("nvidia") is not None and util.find_spec("nvidia.dali") is not None


@pytest.mark.skipif(not HAS_DALI, reason="DALI is not installed: pip install 'nvidia-dali-cuda130>=2.4'")
def test_dali_keeps_its_laws() -> None:
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(LAWS)]
    done = subprocess.run(run, cwd=LAWS.parents[2], capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
