"""Short videos of every codec, size and GOP, written by real encoders and kept in a folder."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream

ENCODERS = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1", "vp9": "libvpx-vp9"}
FPS = 30


@dataclass(frozen=True, slots=True)
class Clip:
    """One video. Its name tells everything."""

    codec: str
    width: int
    height: int
    gop: int
    frames: int
    bits: int = 8
    is_open: bool = False

    @property
    def name(self) -> str:
        form = ("_open" if self.is_open else "") + ("_10bit" if self.bits == 10 else "")
        return f"{self.codec}_{self.width}x{self.height}_g{self.gop}{form}"

    @property
    def pixel_format(self) -> str:
        return "yuv420p" if self.bits == 8 else "yuv420p10le"


def options_of(codec: str, gop: int, *, is_open: bool) -> Mapping[str, str]:
    """Of the encoder: B-frames wherever the codec and the GOP have room for them."""
    if codec == "h264":
        options = {"preset": "veryfast", "bf": "3" if gop > 2 else "1", "sc_threshold": "0", "keyint_min": str(gop)}
        return {**options, "x264-params": "open-gop=1"} if is_open else options
    if codec == "hevc":
        x265 = f"keyint={gop}:min-keyint={gop}:bframes=3:open-gop={int(is_open)}:log-level=error"
        return {"preset": "veryfast", "x265-params": x265}
    if codec == "av1":
        return {"preset": "12", "crf": "30"}
    return {"deadline": "realtime", "cpu-used": "8", "row-mt": "1", "crf": "30", "b": "0"}


def ensure_clip(clip: Clip, folder: Path) -> Path:
    """The file, written now if it is not there; another process may do the same at the same time."""
    path = folder / f"{clip.name}.mp4"
    if path.exists():
        return path
    from gpuload.demo_video import (
        make_texture,
        ordinary_priority,
    )  # loads torch, which a run on existing clips may do without

    os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder prints pages otherwise
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part.mp4")
    texture = make_texture(np.random.default_rng(1), height=clip.height, width=clip.width)
    with ordinary_priority(), av.open(str(part), "w") as container:
        options = dict(options_of(clip.codec, clip.gop, is_open=clip.is_open))
        stream = container.add_stream(ENCODERS[clip.codec], rate=FPS, options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, clip.pixel_format
        stream.codec_context.gop_size = clip.gop
        stream.codec_context.time_base = Fraction(1, FPS)
        for number in range(clip.frames):
            pixels = texture.frame(number, height=clip.height, width=clip.width)
            frame = av.VideoFrame.from_ndarray(pixels, format="yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame.reformat(format=clip.pixel_format)))
        container.mux(stream.encode(None))
    part.replace(path)
    return path


def plane_clips(*, dry: bool) -> list[Clip]:
    """What planes are compared on: every codec, GOP 2, 30 and 250, B-frames, open GOPs, 8 and 10 bits."""
    width, height = (160, 144) if dry else (320, 240)
    gops = {2: 4, 4: 10} if dry else {2: 24, 30: 100, 250: 260}
    middle = list(gops)[1]
    clips = [Clip(codec, width, height, gop, frames) for codec in ("h264", "hevc") for gop, frames in gops.items()]
    clips += [
        Clip("hevc", width, height, middle, gops[middle], is_open=True),
        Clip("h264", width, height, middle, gops[middle], is_open=True),
        Clip("hevc", width, height, middle, gops[middle], bits=10),
        Clip("h264", width, height, middle, gops[middle], bits=10),
        Clip("hevc", width, height, middle, gops[middle], bits=10, is_open=True),
        Clip("vp9", width, height, middle, gops[middle]),
        Clip("av1", width, height, middle, gops[middle]),
        Clip("av1", width, height, 2, gops[2], bits=10),
    ]
    return clips


SIZES = ((640, 480), (1920, 1080), (1280, 720), (320, 240))


def rate_clip(codec: str, size: tuple[int, int], gop: int, *, dry: bool = False) -> Clip:
    """What rates are measured on."""
    if dry:
        return Clip(codec, 160, 144, 6, 14)
    return Clip(codec, *size, gop, 250 if gop == 250 else 120)
