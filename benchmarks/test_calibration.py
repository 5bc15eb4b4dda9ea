"""The loop that the other suites are compared by; the first to run, by its name."""

from typing import Any

from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.calibration import calibrate


def test_calibration(benchmark: BenchmarkFixture) -> None:
    expected = calibrate()
    run: Any = benchmark
    assert run.pedantic(calibrate, rounds=30, warmup_rounds=3) == expected
