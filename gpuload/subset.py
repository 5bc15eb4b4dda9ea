"""Which of a dataset's samples a loader plays."""

import numpy as np
import numpy.typing as npt
from torch.utils.data import Subset

from gpuload.errors import ConfigError

Samples = npt.NDArray[np.int64]


def unwrapped(dataset: object) -> tuple[object, Samples | None]:
    """What is inside torch's ``Subset``, which ``random_split`` makes too, and which of its samples; None: all.

    Raises:
        ConfigError: it names a sample that there is not, or changes samples.
    """
    chosen: Samples | None = None
    while isinstance(dataset, Subset):
        for name in ("__getitem__", "__getitems__"):
            if getattr(type(dataset), name) is not getattr(Subset, name):
                raise ConfigError(
                    f"{type(dataset).__qualname__} has a {name} of its own, which a Loader does not call: change "
                    "batches in the loop and give it a plain Subset, or iterate yours with torch's DataLoader"
                )
        indices = np.array([int(i) for i in dataset.indices], np.int64)
        size = len(dataset.dataset)  # type: ignore[arg-type]  # a Subset's has a length
        wrong = indices[(indices < -size) | (indices >= size)]
        if len(wrong):
            raise ConfigError(f"the Subset refers to sample {wrong[0]}, but its dataset has {size}")
        indices %= max(size, 1)
        chosen = indices if chosen is None else indices[chosen]
        dataset = dataset.dataset
    return dataset, chosen


def without_edges(
    chosen: Samples | None, episode_starts: Samples, num_samples: int, *, first: int, last: int
) -> Samples | None:
    """``chosen`` but for the ``first`` and ``last`` samples of each episode, as LeRobot's ``EpisodeAwareSampler``.

    Raises:
        ConfigError: nothing is left, or a number is negative.
    """
    if first < 0 or last < 0:
        raise ConfigError(f"drop_n_first_frames and drop_n_last_frames must be at least 0, got {first} and {last}")
    numbers = np.arange(num_samples) if chosen is None else chosen
    if not (first or last) or not len(numbers):
        return chosen
    ends = np.append(episode_starts[1:], num_samples)
    episode = np.searchsorted(episode_starts, numbers, side="right") - 1
    left = numbers[(numbers - episode_starts[episode] >= first) & (ends[episode] - numbers > last)]
    if not len(left):
        raise ConfigError(
            f"drop_n_first_frames={first} and drop_n_last_frames={last} leave none of {len(numbers)} samples"
        )
    return left
