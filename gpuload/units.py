"""Conversions at the edge: integer ticks inside, seconds outside."""

from fractions import Fraction

import numpy as np
import numpy.typing as npt


def seconds(ticks: npt.NDArray[np.int64], time_base: Fraction) -> npt.NDArray[np.float64]:
    """float64 ``[N]`` seconds of int64 ``[N]`` ticks; rounds once (exact product, then one division)."""
    result: npt.NDArray[np.float64] = ticks.astype(np.float64) * time_base.numerator / time_base.denominator
    return result
