"""Laws of LeRobot's depth codes, from the formula in float64."""

import math

import numpy as np

from gpuload.sources.lerobot_depth import depth_lut


def test_depth_codes_mean_millimetres() -> None:
    lut = depth_lut({}, "test")
    assert lut.dtype == np.float32
    assert lut.shape == (4096,)
    assert [float(lut[0]), float(lut[-1])] == [10.0, 10_000.0]
    low, high = math.log(3.51), math.log(13.5)
    for code in (1, 700, 2048, 4000):
        assert abs(float(lut[code]) - 1000 * (math.exp(low + code / 4095 * (high - low)) - 3.5)) <= 0.51
    linear = depth_lut({"video.use_log": False, "video.depth_min": 0.0, "video.depth_max": 4.095}, "test")
    np.testing.assert_array_equal(linear, np.arange(4096, dtype=np.float32))
