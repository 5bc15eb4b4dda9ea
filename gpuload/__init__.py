"""gpuload: training batches from LeRobot datasets, keyframe windows decoded once for all samples that need them."""

from importlib import metadata as _distributions

from gpuload.datasets import LeRobotDataset
from gpuload.errors import (
    CacheFull,
    ConfigError,
    DatasetError,
    DecodeError,
    DeviceError,
    FrameNotFound,
    GpuloadError,
    LoaderClosed,
    NoSuchEpisode,
    NothingShown,
    OutOfRange,
    StateMismatch,
    VideoError,
    WorkerDied,
)
from gpuload.loader import Loader
from gpuload.metadata import LeRobotDatasetMetadata
from gpuload.stats import LoaderStats
from gpuload.transform import Crop, Transform
from gpuload.video import Video

__all__ = [
    "CacheFull",
    "ConfigError",
    "Crop",
    "DatasetError",
    "DecodeError",
    "DeviceError",
    "FrameNotFound",
    "GpuloadError",
    "LeRobotDataset",
    "LeRobotDatasetMetadata",
    "Loader",
    "LoaderClosed",
    "LoaderStats",
    "NoSuchEpisode",
    "NothingShown",
    "OutOfRange",
    "StateMismatch",
    "Transform",
    "Video",
    "VideoError",
    "WorkerDied",
    "__version__",
]

try:
    __version__ = _distributions.version("gpuload")
except _distributions.PackageNotFoundError:  # a checkout on PYTHONPATH
    __version__ = "0+unknown"
