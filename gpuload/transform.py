"""Transform: how decoded pictures become the slots of a batch. A description; converters carry it out."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gpuload.errors import ConfigError, DecodeError

DTYPES = {"uint8": np.uint8, "float16": np.float16, "bfloat16": np.uint16, "float32": np.float32}
"""Output types, and what holds their bits in numpy."""


@dataclass(frozen=True, slots=True)
class Crop:
    """A window of ``height`` x ``width`` pixels of the picture as shown.

    ``at``: ``"center"``; ``"random"``, drawn uniformly for each sample; or ``(top, left)``.
    """

    height: int
    width: int
    at: Literal["center", "random"] | tuple[int, int] = "center"

    def __post_init__(self) -> None:
        height, width = _check_size("crop", (self.height, self.width))
        object.__setattr__(self, "height", height)
        object.__setattr__(self, "width", width)
        if self.at in ("center", "random"):
            return
        if not (isinstance(self.at, tuple) and len(self.at) == 2 and all(_is_int(v) and v >= 0 for v in self.at)):
            raise ConfigError(f"crop's `at` must be 'center', 'random' or (top, left) in pixels, got {self.at!r}")
        object.__setattr__(self, "at", (int(self.at[0]), int(self.at[1])))  # numpy's would be packed in 32 bits


@dataclass(frozen=True, slots=True)
class Transform:
    """What happens to every picture of a camera on its way into a batch, in this order: rotation as the file says,
    crop, resize, flip, normalize, cast. The window of a sample shares one draw of the random parts, and so does every
    replay of the sample in the same epoch.

    On the CPU a result is within 1 level of 255 of float64 maths on the decoded RGB where both sides are halved at
    least, or not resized; else within 1.5 where they shrink by 1.3 times at least, and within 3 (pixels of 0 and 255 at
    random; video is smoother).

    Args:
        crop: ``Crop(…)``, or ``(height, width)`` of a centred one.
        resize: ``(height, width)``; antialiased bilinear on RGB, as
            ``torch.nn.functional.interpolate(antialias=True)``.
        flip: probability in [0, 1] of a horizontal flip; ``True`` flips always.
        normalize: ``(mean, std)``, three numbers each, of values in [0, 1]: gives ``(value - mean) / std``.
        dtype: ``uint8`` (0..255), ``float16``, ``bfloat16`` or ``float32`` ([0, 1] unless normalized), as torch's dtype
            or its name. Default: the dataset's.
        layout: ``"chw"`` or ``"hwc"``.
        share_cameras: one draw for all cameras that share it, instead of one for each.

    Raises:
        ConfigError: names the argument that cannot be used.
    """

    resize: tuple[int, int] | None = None
    crop: Crop | tuple[int, int] | None = None
    flip: float = 0.0
    normalize: tuple[Sequence[float], Sequence[float]] | None = None
    dtype: Any = None
    layout: Literal["chw", "hwc"] = "chw"
    share_cameras: bool = False

    def __post_init__(self) -> None:
        if self.resize is not None:
            object.__setattr__(self, "resize", _check_size("resize", self.resize))
        if self.crop is not None and not isinstance(self.crop, Crop):
            object.__setattr__(self, "crop", Crop(*_check_size("crop", self.crop)))
        if not isinstance(self.flip, (bool, int, float)) or not 0 <= self.flip <= 1:
            raise ConfigError(f"flip must be a probability from 0 to 1, got {self.flip!r}")
        if self.dtype is not None:
            name = str(self.dtype).removeprefix("torch.")
            if name not in DTYPES:
                raise ConfigError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
            object.__setattr__(self, "dtype", name)
        if self.layout not in ("chw", "hwc"):
            raise ConfigError(f"layout must be 'chw' or 'hwc', got {self.layout!r}")
        if self.normalize is not None:
            object.__setattr__(self, "normalize", _check_normalize(self.normalize))
            if self.dtype == "uint8":
                raise ConfigError(
                    "normalize gives fractions and negative values: uint8 cannot hold them; leave dtype out"
                )

    @property
    def is_random(self) -> bool:
        """Whether it draws anything."""
        return 0 < self.flip < 1 or (isinstance(self.crop, Crop) and self.crop.at == "random")


@dataclass(frozen=True, slots=True, eq=False)
class SlotForm:
    """What one camera's slots hold, and how a picture becomes one."""

    key: str
    channels: int
    height: int
    width: int
    dtype: str
    """torch's name."""
    layout: Literal["chw", "hwc"] = "chw"
    crop: tuple[int, int] | None = None
    """Height and width of the window; None: the whole picture."""
    corner: tuple[int, int] | None = (0, 0)
    """Top and left of the window; None: drawn for each sample."""
    shown: tuple[int, int] = (0, 0)
    """Height and width of the camera's pictures as shown, as the headers of its files say."""
    depth: npt.NDArray[np.float32] | None = None
    """Value of each stored code of a depth video."""
    mean: tuple[float, float, float] | tuple[()] = ()
    std: tuple[float, float, float] | tuple[()] = ()
    is_plain: bool = False
    """uint8 ``[3, H, W]`` of the whole picture, unscaled and unflipped."""

    @property
    def shape(self) -> tuple[int, int, int]:
        if self.layout == "hwc":
            return self.height, self.width, self.channels
        return self.channels, self.height, self.width

    def check_size(self, width: int, height: int, rotation: int) -> None:
        """``width``, ``height``: of a picture as decoded; ``rotation``: in degrees.

        Raises:
            DecodeError: it is not of the size that the form was made for.
        """
        shown = (width, height) if rotation % 180 else (height, width)
        if shown != self.shown:
            raise DecodeError(
                f"a picture is {shown[1]}x{shown[0]}, the file's header says {self.shown[1]}x{self.shown[0]}; "
                "encode the file again, or leave its episodes out"
            )

    @property
    def slot_bytes(self) -> int:
        return self.channels * self.height * self.width * np.dtype(DTYPES[self.dtype]).itemsize

    @property
    def is_resized(self) -> bool:
        return (self.crop or self.shown) != (self.height, self.width)

    @property
    def reduced_bytes(self) -> int | None:
        """Of what every sample sees of a picture, as uint8 ``[3, height, width]``; None where each has its window."""
        return None if self.depth is not None or self.corner is None else 3 * self.height * self.width


def is_reduced(form: SlotForm, picture_bytes: int) -> bool:
    """Whether what samples see of a picture is kept instead of the picture: less memory, and converted once."""
    return form.reduced_bytes is not None and form.reduced_bytes <= picture_bytes


def slot_form(
    transform: Transform | None,
    *,
    key: str,
    channels: int,
    height: int,
    width: int,
    dtype: str,
    depth: npt.NDArray[np.float32] | None = None,
) -> SlotForm:
    """The slots of a camera whose pictures are shown at ``height`` x ``width``; ``dtype`` is the dataset's.

    Raises:
        ConfigError: the transform does not fit this camera.
    """
    shown = height, width
    if transform is None:
        plain = dtype == "uint8" and depth is None
        return SlotForm(key, channels, height, width, dtype, shown=shown, depth=depth, is_plain=plain)
    if depth is not None:
        raise ConfigError(f"{key} holds depth: give transform={{key: Transform(…)}} for the colour cameras only")
    crop = transform.crop if isinstance(transform.crop, Crop) else None
    top, left = crop.at if crop is not None and isinstance(crop.at, tuple) else (0, 0)
    if crop is not None and (crop.height + top > height or crop.width + left > width):
        at = "" if isinstance(crop.at, str) else f" at {crop.at}"
        raise ConfigError(f"{key}: a crop of {crop.height}x{crop.width}{at} leaves the picture of {height}x{width}")
    chosen = transform.dtype or dtype
    if transform.normalize is not None and chosen == "uint8":
        raise ConfigError(f"{key}: normalize needs a float dtype, and return_uint8 gives uint8; set Transform.dtype")
    window = None if crop is None or (crop.height, crop.width) == shown else (crop.height, crop.width)
    corner: tuple[int, int] | None = top, left
    if window is not None and crop is not None and crop.at == "center":
        corner = (height - window[0]) // 2, (width - window[1]) // 2
    elif window is not None and crop is not None and crop.at == "random":
        corner = None
    height, width = transform.resize or window or shown
    mean, std = transform.normalize or ((), ())
    plain = chosen == "uint8" and transform.layout == "chw" and window is None and (height, width) == shown
    return SlotForm(
        key=key,
        channels=channels,
        height=height,
        width=width,
        dtype=chosen,
        layout=transform.layout,
        crop=window,
        corner=corner,
        shown=shown,
        mean=(mean[0], mean[1], mean[2]) if len(mean) else (),
        std=(std[0], std[1], std[2]) if len(std) else (),
        is_plain=plain and not transform.flip,
    )


def transforms_of(
    transform: Transform | Mapping[str, Transform] | None, keys: Sequence[str]
) -> dict[str, Transform | None]:
    """The transform of each camera.

    Raises:
        ConfigError: it is of another type, or names a camera that is not there.
    """
    if transform is None or isinstance(transform, Transform):
        return dict.fromkeys(keys, transform)
    if not isinstance(transform, Mapping) or not all(isinstance(t, Transform) for t in transform.values()):
        raise ConfigError(f"transform must be a gpuload.Transform or a dict of them by camera, got {transform!r}")
    unknown = sorted(set(transform) - set(keys))
    if unknown:
        raise ConfigError(f"transform names {', '.join(unknown)}; the cameras are {', '.join(keys)}")
    return {key: transform.get(key) for key in keys}


def draw_views(
    transform: Transform | None, form: SlotForm, samples: npt.NDArray[np.int64], *, seed: int, epoch: int
) -> npt.NDArray[np.int64]:
    """Where each sample's window lies and whether it is flipped, as ``pack_view`` has it: int64 ``[n]``.

    A pure function of seed, epoch, sample and camera: batch size, order and ranks do not matter.
    """
    if transform is None:
        return np.zeros(len(samples), np.int64)
    height, width = form.crop or form.shown
    down, right = form.shown[0] - height, form.shown[1] - width
    camera = 0 if transform.share_cameras else zlib.crc32(form.key.encode()) + 1
    keys = np.array([seed & _MASK, epoch & _MASK, camera], np.uint64)
    state = samples.astype(np.uint64)
    for key in keys:
        state = _mix(state ^ key)
    if form.corner is None:
        top, left = _below(_mix(state + np.uint64(1)), down + 1), _below(_mix(state + np.uint64(2)), right + 1)
    else:
        top, left = (np.full(len(samples), value, np.int64) for value in form.corner)
    # 53 bits of a uniform draw, so that probability 1 flips always and 0 never.
    flip = (_mix(state + np.uint64(3)) >> np.uint64(11)).astype(np.float64) / 2.0**53 < float(transform.flip)
    return top << 33 | left << 1 | flip


def pack_view(top: int, left: int, flip: bool = False) -> int:
    """A window's corner and whether it is flipped, in one number."""
    return top << 33 | left << 1 | flip


def unpack_view(view: int) -> tuple[int, int, bool]:
    """``(top, left, flip)`` of a packed view: bit 0 is the flip, bits 1 to 32 left, the rest top."""
    return view >> 33, view >> 1 & 0xFFFFFFFF, bool(view & 1)


_MASK = (1 << 64) - 1


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finalizer of splitmix64 (Steele, Lea and Flood, OOPSLA 2014) of ``values`` + its increment."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return z ^ z >> np.uint64(31)


def _below(random: npt.NDArray[np.uint64], count: int) -> npt.NDArray[np.int64]:
    """Integers in [0, count), each equally likely within 2**-31."""
    return ((random >> np.uint64(32)) * np.uint64(count) >> np.uint64(32)).astype(np.int64)


def _is_int(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _check_size(name: str, size: object) -> tuple[int, int]:
    if not (isinstance(size, Sequence) and len(size) == 2 and all(_is_int(v) and v > 0 for v in size)):
        raise ConfigError(f"{name} must be (height, width) in pixels, at least 1 each, got {size!r}")
    return int(size[0]), int(size[1])


def _check_normalize(normalize: object) -> tuple[tuple[float, ...], tuple[float, ...]]:
    try:
        mean, std = (tuple(float(v) for v in part) for part in normalize)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        mean, std = (), ()
    if len(mean) != 3 or len(std) != 3 or not all(np.isfinite((*mean, *std))) or min(std) <= 0:
        raise ConfigError(f"normalize must be (mean, std), three numbers each and std above 0, got {normalize!r}")
    return mean, std
