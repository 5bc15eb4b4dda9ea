"""Which numbers are whole."""

from typing import Any

import numpy as np
import pytest
import torch

from gpuload.arguments import at_least
from gpuload.errors import ConfigError


@pytest.mark.parametrize("value", [4, 4.0, np.int32(4), np.uint8(4), torch.tensor(4)])
def test_what_means_a_whole_number_is_taken(value: Any) -> None:
    taken = at_least(1, "batch_size", value)
    assert taken == 4
    assert type(taken) is int


def test_a_number_may_be_of_any_size() -> None:
    assert at_least(0, "frame_cache_bytes", 10**20) == 10**20
    assert at_least(0, "frame_cache_bytes", 4e9) == 4_000_000_000


@pytest.mark.parametrize("value", [2.5, float("nan"), float("inf"), "32", None, True, [4]])
def test_what_is_no_whole_number_is_refused_as_that(value: Any) -> None:
    with pytest.raises(ConfigError, match="batch_size must be a whole number"):
        at_least(1, "batch_size", value)


@pytest.mark.parametrize("value", [0, -1, -2.0])
def test_less_than_the_least_is_refused_as_that(value: float) -> None:
    with pytest.raises(ConfigError, match="batch_size must be at least 1, got"):
        at_least(1, "batch_size", value)
