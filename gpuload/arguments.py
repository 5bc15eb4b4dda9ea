"""Checks arguments, and says what there is instead of those of torch's DataLoader and LeRobot's dataset class."""

import importlib.util
import operator
from collections.abc import Iterable, Mapping

import numpy as np
import torch

from gpuload.errors import ConfigError

OF_DATALOADER = {
    "num_workers": "num_threads= is how many processes decode, by default one for each core",
    "pin_memory": "device='cuda' makes batches in the GPU's memory; those of device='cpu' are ordinary memory",
    "collate_fn": "batches come stacked; change them in the loop",
    "batch_sampler": "give a sampler= of samples and batch_size=",
    "prefetch_factor": "two batches are always made ahead; lookahead= is how many samples are planned together",
    "persistent_workers": "decode processes live as long as the loader",
    "worker_init_fn": "decode processes run none of your code",
    "generator": "seed= decides the order",
    "timeout": "a decode process that ends is replaced, and one that waits is waited for",
    "multiprocessing_context": "decode processes are started afresh, never forked",
    "in_order": "batches always come in order",
    "pin_memory_device": "device= says where batches are",
}
"""What people bring from torch's DataLoader, and what there is instead."""

OF_RECORDING = frozenset(
    {
        "vcodec",
        "streaming_encoding",
        "encoder_queue_maxsize",
        "encoder_threads",
        "camera_encoder",
        "rgb_encoder",
        "depth_encoder",
        "token",
    }
)
"""Arguments of LeRobot's class that say how to write or to download."""
OF_LEROBOT: Mapping[str, tuple[object, str]] = {
    "local_episode_loading": (False, "episodes= chooses what is loaded"),
    "repo_type": ("dataset", "pass the dataset's folder as root"),
}
"""Arguments of LeRobot's class that change what is read: the one value that is accepted, and what to do instead of
others."""


def refuse_foreign(names: Iterable[str]) -> None:
    """For arguments that a Loader does not have.

    Raises:
        ConfigError: one is torch's DataLoader's; says what there is instead. TypeError: nobody knows it.
    """
    for name in names:
        if name not in OF_DATALOADER:
            raise TypeError(f"Loader has no argument {name!r}")
        raise ConfigError(f"a Loader has no {name}, which torch's DataLoader has: {OF_DATALOADER[name]}")


def refuse_of_lerobot(given: Mapping[str, object]) -> None:
    """For arguments of LeRobot's class that a dataset here does not have.

    Raises:
        ConfigError: one would change what is read. TypeError: nobody knows it.
    """
    for name, value in given.items():
        if name not in OF_RECORDING and name not in OF_LEROBOT:
            raise TypeError(f"LeRobotDataset has no argument {name!r}")
        usual, instead = OF_LEROBOT.get(name, (None, ""))
        refuse(name in OF_LEROBOT and value not in (None, usual), name, value, instead)


def whole_number(name: str, value: object) -> int:
    """An index: whatever Python takes for one, but bool.

    Raises:
        ConfigError: it is none, or beyond 64 bits.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or abs(number) > np.iinfo(np.int64).max:
        raise ConfigError(f"{name} must be whole numbers, got {value!r}")
    return number


def refuse(wrong: bool, name: str, value: object, instead: str) -> None:
    """Raises ConfigError if ``wrong``."""
    if wrong:
        raise ConfigError(f"{name}={value!r} cannot be honoured; {instead}")


def at_least(least: int, name: str, value: float) -> int:
    """``value`` as an int; ``4e9`` is one.

    Raises:
        ConfigError: it is less than ``least``, or no whole number.
    """
    try:
        number = int(value) if isinstance(value, float) and value.is_integer() else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise ConfigError(f"{name} must be a whole number, got {value!r}")
    if number < least:
        raise ConfigError(f"{name} must be at least {least}, got {number}")
    return number


def finishing_device(device: torch.device) -> torch.device | None:
    """Where batches are made from planes; None: decode processes write the slots themselves.

    Raises:
        ConfigError: the kernels cannot run there.
    """
    if device.type == "cpu":
        return None
    if importlib.util.find_spec("triton") is None:
        raise ConfigError(
            f"device {str(device)!r} needs triton for its kernels: pip install triton, or use device='cpu'"
        )
    return device


def choose_device(device: str | torch.device) -> torch.device:
    """The device that is meant, CUDA with its number.

    Raises:
        ConfigError: it is unknown, or cannot be used here.
    """
    usable = torch.cuda.is_available()
    if device == "auto":
        device = "cuda" if usable else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:<n>', got {device!r}") from error
    if chosen.type not in ("cpu", "cuda"):
        raise ConfigError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:<n>', got {str(device)!r}")
    if chosen.type == "cpu":
        return torch.device("cpu")
    if not usable:
        raise ConfigError(
            f"device {str(device)!r} cannot be used: torch finds no usable GPU; `gpuload doctor` says why"
        )
    index = torch.cuda.current_device() if chosen.index is None else chosen.index
    if index >= torch.cuda.device_count():
        raise ConfigError(f"device 'cuda:{index}' is not there: torch finds {torch.cuda.device_count()} GPUs")
    return torch.device("cuda", index)
