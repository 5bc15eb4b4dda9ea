"""Cores by affinity and quota."""

import os
from pathlib import Path

import pytest

from gpuload.cores import usable_cores


@pytest.mark.parametrize(
    ("limit", "most"),
    [("max 100000", 10**6), ("100000 100000", 1), ("150000 100000", 2), ("5 100000", 1), ("?", 10**6)],
)
def test_a_quota_lowers_the_number_of_cores(tmp_path: Path, limit: str, most: int) -> None:
    path = tmp_path / "cpu.max"
    path.write_text(limit)
    assert usable_cores(path) == min(len(os.sched_getaffinity(0)), most)
    assert usable_cores(tmp_path / "missing") == len(os.sched_getaffinity(0))
