"""gpuload: training batches from LeRobot datasets, every keyframe window decoded once, every frame exact."""

from gpuload.datasets import LeRobotDataset
from gpuload.errors import (
    ConfigError,
    DatasetError,
    DecodeError,
    FrameNotFound,
    GpuloadError,
    LoaderClosed,
    StateMismatch,
    VideoError,
)
from gpuload.loader import Loader
from gpuload.stats import LoaderStats
from gpuload.video import Video

__all__ = [
    "ConfigError",
    "DatasetError",
    "DecodeError",
    "FrameNotFound",
    "GpuloadError",
    "LeRobotDataset",
    "Loader",
    "LoaderClosed",
    "LoaderStats",
    "StateMismatch",
    "Video",
    "VideoError",
]
