"""Decoding through NVIDIA DALI's dynamic mode: RGB of a whole run in one call."""

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING

import av
import numpy as np

from gpuload.decode.base import Run, Stream, entry_point, failed
from gpuload.decode.container import pieces_of
from gpuload.decode.picture import current_event, device_fault, device_trouble, first_line, rgb_picture
from gpuload.decode.registry import DALI_CPU
from gpuload.errors import ConfigError
from gpuload.picture import DevicePicture

if TYPE_CHECKING:
    import torch

TOLERANCE = 1
"""Levels by which DALI's RGB on the CPU differs at most from swscale's (mean 0.25 of VP9; DALI 2.4, PyAV 18.1)."""


def unusable(device: str = "cpu", *, codec: str = "", in_helper: bool = False) -> str | None:
    """Why DALI cannot decode ``codec`` (empty: anything) on ``device``, here or ``in_helper``, a decode process; None:
    nothing is known against it.

    Never raises. What a GPU's decoder takes, DALI tells only by decoding.
    """
    try:
        found = importlib.util.find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:  # not even the package around it
        found = False
    if not found:
        return "DALI is not installed; run: pip install 'nvidia-dali-cuda130>=2.4'"
    if device == "cpu" and codec and codec not in DALI_CPU:
        return f"DALI has no CPU decoder for {codec}, only for {', '.join(sorted(DALI_CPU))}; it needs a GPU"
    try:
        import nvidia.dali.experimental.dynamic  # noqa: F401
        import torch
    except (ImportError, OSError, RuntimeError) as error:
        return f"DALI cannot be loaded ({first_line(error)})"
    if device != "cpu" and not torch.cuda.is_available():
        return f"device is {device}, but torch finds no usable GPU"
    return None


class DaliDecoder:
    """Decodes each run as a small MP4 in one call of DALI. Not thread-safe.

    Yields RGB as DALI converts it, within ``TOLERANCE`` of what the other backends give and so never bit-equal:
    ``av.VideoFrame`` on the CPU, ``DevicePicture`` on the stream that is current on a GPU, neither copied. The pictures
    of a run share one allocation, which lives as long as any of them.

    Damage is found where DALI refuses a run, and only there: it conceals flipped bits within a picture.
    """

    fell_back = False

    def __init__(self, device: str = "cpu") -> None:
        self._device = device
        self._usable: set[str] = set()
        """Codecs."""

    def decode(self, stream: Stream, run: Run) -> Iterator[tuple[int, av.VideoFrame | DevicePicture]]:
        """See ``Decoder.decode``. Needs ``run.pts``.

        Raises:
            DecodeError: DALI refused the run.
            DeviceError: the GPU's memory ran out, or it is gone.
            ConfigError: DALI cannot decode such streams here, or the packets fit into no MP4.
        """
        if stream.codec not in self._usable:
            if reason := unusable(self._device, codec=stream.codec):
                raise ConfigError(f"{stream.path}: backend dali is unusable: {reason}")
            self._usable.add(stream.codec)
        try:
            pieces = pieces_of(stream, run)
        except ValueError as error:
            raise ConfigError(f"{stream.path}: backend dali cannot take it: {error}") from error
        entry = entry_point(stream, run)
        if stream.codec == "h264" and entry is not None and entry.kind != "clean":
            # its index of H.264 takes IDR pictures only for keyframes (NVIDIA/DALI issue 3387)
            raise failed(stream, run.first, "DALI cannot begin at an H.264 keyframe that is no IDR picture")
        for piece in pieces:
            numbers = [piece.shown[place] for place in piece.wanted]
            try:
                pictures = self._pictures(piece.data, piece.wanted)
            except RuntimeError as error:  # what DALI raises, whatever happened
                if trouble := device_trouble(self._device, error) or device_fault(self._device):
                    raise trouble from error
                raise failed(stream, numbers[0], f"DALI refused it ({first_line(error)})") from error
            if pictures.shape[1:3] != (stream.height, stream.width):
                height, width = pictures.shape[1:3]
                raise failed(stream, numbers[0], f"its pictures are {width}x{height}")
            ready = current_event(self._device)
            for number, pixels in zip(numbers, pictures, strict=True):
                yield number, rgb_picture(pixels, ready, rotation=stream.rotation)

    def close(self) -> None:
        """Nothing is kept here between runs."""

    def _pictures(self, data: bytes, places: tuple[int, ...]) -> "torch.Tensor":
        """uint8 ``[len(places), H, W, 3]`` on the device, valid on the stream that is current."""
        import nvidia.dali.experimental.dynamic as ndd

        # Synchronous on the CPU: otherwise an error names no cause ("happened during asynchronous execution").
        with ndd.EvalMode.sync_cpu:
            encoded = ndd.tensor(np.frombuffer(data, np.uint8))
            device = self._device.replace("cuda", "gpu")
            decoded = ndd.decoders.video(encoded, device=device, frames=list(places))
            pictures: torch.Tensor = decoded.torch()
        return pictures
