"""Small real videos whose frames tell their own number, so that a test can see which picture it was given."""

from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.video.stream import VideoStream

from gpuload.demo_video import ordinary_priority

_COLUMNS, _ROWS = 8, 2


def make_video(
    path: str | Path,
    *,
    codec: str = "libx264",
    frames: int = 60,
    width: int = 128,
    height: int = 96,
    gop: int = 30,
    fps: int = 30,
    pix_fmt: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
    tint: bool = False,
) -> Path:
    """Write a video; its suffix names the container. ``tint``: with colours (8-bit planar formats).

    Frame ``i`` shows ``i`` (16 bits) as black and white blocks in its upper half, over a moving texture in the lower.
    The encoder's defaults stay as they are (B-frames for x264, open GOPs for x265) unless ``options`` says otherwise.
    """
    path = Path(path)
    with ordinary_priority(), av.open(str(path), "w", options=dict(container_options or {})) as container:
        stream = container.add_stream(codec, rate=fps, options=_encoder_options(codec, gop, options))
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.gop_size = gop
        stream.codec_context.time_base = Fraction(1, fps)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(numbered_picture(number, width, height), format="gray")
            frame = frame.reformat(format=pix_fmt)
            if tint:
                for plane, slope in zip(frame.planes[1:], (3, -2), strict=True):
                    ramp = 128 + slope * (np.arange(plane.line_size) - plane.line_size // 2) // 2
                    plane.update(np.tile(np.clip(ramp, 40, 215).astype(np.uint8), plane.height).tobytes())
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def numbered_picture(number: int, width: int, height: int) -> npt.NDArray[np.uint8]:
    """uint8 ``[height, width]``: what frame ``number`` looks like before encoding."""
    picture = np.empty((height, width), np.uint8)
    y, x = np.mgrid[:height, :width]
    picture[:] = 128 + 60 * np.sin((x + 3 * number) / 9.0) * np.cos((y - 2 * number) / 7.0)
    for bit in range(_COLUMNS * _ROWS):
        top, bottom, left, right = _block(bit, width, height)
        picture[top:bottom, left:right] = 235 if number >> bit & 1 else 16
    return picture


def frame_number(rgb: npt.NDArray[np.uint8]) -> int:
    """The number that a picture of :func:`make_video` shows; ``rgb`` is uint8 ``[3, H, W]``."""
    luma = rgb.astype(np.float32).mean(axis=0)
    height, width = luma.shape
    number = 0
    for bit in range(_COLUMNS * _ROWS):
        top, bottom, left, right = _block(bit, width, height)
        dy, dx = (bottom - top) // 4, (right - left) // 4  # the middle: edges ring
        number |= int(luma[top + dy : bottom - dy, left + dx : right - dx].mean() > 128) << bit
    return number


def decode_all(path: str | Path) -> list[npt.NDArray[np.uint8]]:
    """Every shown frame, uint8 ``[3, H, W]``, decoded from the first packet to the last with PyAV."""
    with av.open(str(path)) as container:
        return [
            np.ascontiguousarray(frame.to_ndarray(format="rgb24").transpose(2, 0, 1))
            for frame in container.decode(video=0)
        ]


Edit = Callable[[int, bytes, bool], tuple[bytes, bool]]


def remuxed(source: Path, target: Path, edit: Edit | None = None, *, first: int = 0, opaque: bool = False) -> Path:
    """The packets of a video from number ``first`` on, each with what ``edit(number, data, is_keyframe)`` makes of its
    bytes and its flag; ``opaque``: for codecs whose encoder and decoder have different names, as AV1."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0], opaque=opaque)
        for number, packet in enumerate(p for p in old.demux(video=0) if p.size):
            if number < first:
                continue
            data, key = bytes(packet), packet.is_keyframe
            data, key = (data, key) if edit is None else edit(number, data, key)
            copy = av.Packet(data)
            copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
            copy.time_base, copy.is_keyframe, copy.stream = packet.time_base, key, stream
            new.mux(copy)
    return target


def keyframes(path: Path) -> list[int]:
    """Numbers of the packets that the container calls keyframes."""
    with av.open(str(path)) as container:
        return [number for number, p in enumerate(container.demux(video=0)) if p.size and p.is_keyframe]


def _block(bit: int, width: int, height: int) -> tuple[int, int, int, int]:
    row, column = divmod(bit, _COLUMNS)
    rows = 2 * _ROWS  # blocks fill the upper half
    top, bottom = row * height // rows, (row + 1) * height // rows
    return top, bottom, column * width // _COLUMNS, (column + 1) * width // _COLUMNS


def _encoder_options(codec: str, gop: int, options: Mapping[str, str] | None) -> dict[str, str]:
    defaults: dict[str, dict[str, str]] = {
        "libx264": {"preset": "veryfast", "sc_threshold": "0"},
        "libx265": {"preset": "veryfast", "x265-params": f"log-level=error:keyint={gop}:min-keyint={gop}"},
        "libsvtav1": {"preset": "12"},
        "libvpx-vp9": {"deadline": "good", "cpu-used": "8", "crf": "30", "b": "0"},
    }
    return {**defaults.get(codec, {}), **(options or {})}
