"""Whether batches made on the device are right: against exact maths on the CPU's planes, and the CPU's loader."""

from collections.abc import Mapping
from pathlib import Path

import av
import numpy as np
import torch
from gpuload_kernels import reference
from gpuload_kernels.forms import Source, Target

from benchmarks.gpu.clips import Clip, ensure_clip
from benchmarks.gpu.coded import planes_of, reference_frames
from benchmarks.gpu.ours import make_loader, on_device
from benchmarks.gpu.setting import Setting, first_line, say
from gpuload import Crop, Transform
from gpuload.errors import FrameNotFound, GpuloadError
from gpuload.index.load import load_index
from gpuload.index.video import VideoIndex
from gpuload.sources.base import FrameRefs, VideoField
from gpuload.transform import draw_views, slot_form, unpack_view

KEY = "camera"
SWSCALE = 4.0
"""Levels by which the kernels may differ from swscale's fast paths on average: these truncate, and repeat chroma
samples where the kernels interpolate (tests/kernels/test_swscale.py: 1.7 on smooth pictures). Single samples at edges
of colour differ by some 40."""
FULL_RANGE = 2
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ClipSource:
    """One file as one episode; a sample is one frame."""

    def __init__(self, path: Path) -> None:
        self._video = load_index(path, cache_dir=path.parent / "index")
        self.fingerprint = path.name
        self.image_keys: tuple[str, ...] = ()
        self.reach = (0, 0)
        self.image_pixels = 0
        self.source = self
        video = self._video
        self.video_fields = (VideoField(KEY, 1, True, video.height, video.width, 3, "uint8"),)

    def __len__(self) -> int:
        return self._video.num_frames

    def frames(self, samples: "np.typing.NDArray[np.int64]") -> FrameRefs:
        column = samples[:, None].astype(np.int32)
        return FrameRefs(np.zeros_like(column), column)

    def video(self, file: int) -> VideoIndex:
        return self._video

    def error_of(self, sample: int, slot: int) -> GpuloadError:
        return FrameNotFound(f"sample {sample}: no frame for slot {slot}")

    def episode_starts(self) -> "np.typing.NDArray[np.int64]":
        return np.zeros(1, np.int64)

    def gop_starts(self) -> "np.typing.NDArray[np.int64]":
        firsts = np.flatnonzero(np.diff(self._video.frame_start, prepend=-1))
        return firsts.astype(np.int64)

    def columns(self, samples: "np.typing.NDArray[np.int64]") -> dict[str, torch.Tensor | list[str]]:
        return {"index": torch.from_numpy(samples.copy())}


def transforms(*, dry: bool) -> Mapping[str, Transform | None]:
    """What is asked for, by name."""
    side, window = (24, 40) if dry else (224, 200)
    return {
        "as stored": None,
        "random crop and flip": Transform(crop=Crop(window, window, "random"), flip=0.5),
        "resized": Transform(resize=(side, side)),
        "crop, resize, normalize to float16": Transform(
            crop=(window, window), resize=(side, side), normalize=(MEAN, STD), dtype="float16"
        ),
        "float32, channels last": Transform(dtype="float32", layout="hwc"),
    }


def clips(*, dry: bool) -> list[Clip]:
    """H.264 and HEVC with B-frames, open GOPs and 10 bits, and AV1 by whatever decodes it."""
    if dry:
        return [Clip("h264", 64, 48, 2, 4)]
    return [
        Clip("h264", 320, 240, 30, 100),
        Clip("hevc", 320, 240, 30, 100, is_open=True),
        Clip("hevc", 320, 240, 30, 100, bits=10),
        Clip("av1", 320, 240, 30, 100),
        Clip("vp9", 320, 240, 30, 100),
    ]


def measure(setting: Setting) -> None:
    """Every clip with every transform."""
    for clip in clips(dry=setting.dry):
        for name, transform in transforms(dry=setting.dry).items():
            if setting.left_s < 5:
                say("left out", "no time was left")
                return
            try:
                say(f"{clip.name}: {name}", compare(setting, clip, transform))
            except Exception as error:  # noqa: BLE001 - any library's any failure: the next one may do well
                say(f"{clip.name}: {name}", {"failed": first_line(error)})


def compare(setting: Setting, clip: Clip, transform: Transform | None) -> dict[str, object]:
    """Largest differences in levels of 255: to exact maths, which must be within 1, and to the CPU's loader."""
    path = ensure_clip(clip, setting.folder)
    source, frames = ClipSource(path), reference_frames(path)
    arguments = {"transform": transform, "shuffle": "block", "batch_size": 2 if setting.dry else 8}
    with on_device(setting), make_loader(source, setting, **arguments) as loader:
        ours = [(batch["index"].cpu(), batch[KEY].cpu()) for batch in loader]
        backends = {key: list(value) for key, value in loader.stats.backends.items()}
    with make_loader(source, setting, **{**arguments, "device": "cpu", "backend": "auto"}) as loader:
        theirs = [(batch["index"], batch[KEY]) for batch in loader]
    scale = 255 * (max(STD) if transform is not None and transform.normalize else 1.0)
    step = 1.0 if ours[0][1].dtype == torch.uint8 else scale
    exact_most, swscale_most, swscale_mean, count = 0.0, 0.0, 0.0, 0
    for (index, found), (same, other) in zip(ours, theirs, strict=True):
        assert torch.equal(index, same), "the two loaders have different orders"
        apart = (found.double() - other.double()).abs() * step
        swscale_most, swscale_mean = max(swscale_most, float(apart.max())), swscale_mean + float(apart.mean())
        for sample, slot in zip(index.tolist(), found, strict=True):
            exact = exact_slot(source, frames[sample], sample, transform)
            exact_most = max(exact_most, float((slot.double() - exact.double()).abs().max()) * step)
            count += 1
    return {
        "pictures": count,
        "of": len(frames),
        "exact_max": round(exact_most, 4),
        "swscale_max": round(swscale_most, 3),
        "swscale_mean": round(swscale_mean / len(ours), 3),
        "swscale_mean_stated": SWSCALE,
        "backends": backends,
    }


def exact_slot(source: ClipSource, frame: av.VideoFrame, sample: int, transform: Transform | None) -> torch.Tensor:
    """What a slot should hold, in float64 maths on the planes that the CPU decoded."""
    video = source.video(0)
    form = slot_form(transform, key=KEY, channels=3, height=video.height, width=video.width, dtype="uint8", depth=None)
    view = draw_views(transform, form, np.array([sample]), seed=0, epoch=0)
    top, left, flip = unpack_view(int(view[0]))
    name, planes = planes_of(frame)
    full = name.startswith("yuvj") or int(frame.color_range) == FULL_RANGE
    stored = Source(name, frame.width, frame.height, int(frame.colorspace), full, rotation=video.rotation)
    crop_height, crop_width = form.crop or form.shown
    target = Target(
        form.height, form.width, getattr(torch, form.dtype), form.layout, crop_height, crop_width,
        mean=form.mean or None, std=form.std or None,
    )  # fmt: skip
    return reference.convert(planes, stored, target, crop_top=top, crop_left=left, flip=flip)
