"""Every exception of gpuload's own, in one tree: ``except GpuloadError`` catches them all."""

from typing import Self


class GpuloadError(Exception):
    """Root of all exceptions that gpuload raises on purpose."""

    def anew(self) -> Self:
        """The same without a traceback, whose frames hold pictures, batches and loaders for as long as it lives."""
        return type(self)(*self.args)


class ConfigError(GpuloadError, ValueError):
    """An argument cannot be used: the message says which, what was given and what is accepted."""


class OutOfRange(GpuloadError, IndexError):
    """There is no such sample or frame; an IndexError, as of any sequence."""


class StateMismatch(GpuloadError, ValueError):
    """A ``state_dict`` belongs to another dataset or order: the message names the difference."""


class DatasetError(GpuloadError):
    """A dataset's files are missing, damaged or contradict each other: the message names file and feature."""


class FrameNotFound(DatasetError, ValueError):
    """A timestamp has no frame within the tolerance; a ValueError, as LeRobot's ``FrameTimestampError`` is."""


class NoSuchEpisode(ConfigError, OutOfRange):
    """There is no episode of that number; an IndexError, as of LeRobot's metadata."""


class NothingShown(FrameNotFound, OutOfRange):
    """Of one file, nothing is on the screen at that time; an IndexError, as of torchcodec's decoder."""


class VideoError(GpuloadError):
    """A video file cannot be read or indexed."""


class DecodeError(VideoError):
    """A picture could not be decoded: the message names file, frame and cause. The decoder stays usable."""


class CacheFull(GpuloadError):
    """The blob cache's budget is smaller than what must be held at once, or nothing was released in time."""


class WorkerDied(DecodeError):
    """A decode worker's process ended in the middle of a task; the loader has started another."""


class DeviceError(GpuloadError):
    """The GPU could not do it: out of memory, or gone. The message says which budget to lower."""


class LoaderClosed(GpuloadError):
    """The loader was closed, another iteration of it has begun, or it belongs to another process."""
