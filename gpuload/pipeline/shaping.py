"""The transforms of one loader: what its slots hold, which part of a picture each sample sees, and images that are not
decoded from video."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gpuload.errors import ConfigError, DatasetError
from gpuload.sources.base import SampleSource
from gpuload.transform import SlotForm, Transform, draw_views, slot_form, transforms_of, unpack_view


class Shaping:
    """Immutable: any thread may call it.

    Raises:
        ConfigError: a transform does not fit its camera, or the images of the first sample.
    """

    def __init__(
        self, source: SampleSource, transform: Transform | Mapping[str, Transform] | None, *, seed: int
    ) -> None:
        self._seed = seed
        self._fields = source.video_fields
        self._images = source.image_keys
        self._transforms = transforms_of(transform, [*(f.key for f in self._fields), *self._images])
        self.forms: tuple[SlotForm, ...] = tuple(
            slot_form(
                self._transforms[f.key],
                key=f.key,
                channels=f.channels,
                height=f.height,
                width=f.width,
                dtype=f.dtype,
                depth=f.lut,
            )
            for f in self._fields
        )
        self.is_random = any(t is not None and t.is_random for t in self._transforms.values())
        """Whether a sample may look otherwise in another epoch."""
        self._try_images(source)

    def views(self, samples: npt.NDArray[np.int64], epoch: int) -> npt.NDArray[np.int64]:
        """int64 ``[n, fields]``: which part of a picture each sample sees, as ``draw_views`` packs it."""
        views = np.zeros((len(samples), len(self.forms)), np.int64)
        for field, form in enumerate(self.forms):
            views[:, field] = draw_views(self._transforms[form.key], form, samples, seed=self._seed, epoch=epoch)
        return views

    def shape_images(self, columns: dict[str, Any], samples: npt.NDArray[np.int64], epoch: int) -> None:
        """Transforms the image features among ``columns`` (float32 ``[n, (T,) C, H, W]`` in [0, 1]), in place.

        Raises:
            ConfigError: a transform does not fit the images.
        """
        for key in self._images:
            transform = self._transforms[key]
            if transform is None:
                continue
            pictures: torch.Tensor = columns[key]
            channels, height, width = pictures.shape[-3:]
            form = slot_form(transform, key=key, channels=channels, height=height, width=width, dtype="float32")
            if form.mean and channels != 3:
                raise ConfigError(f"{key} has {channels} channels: normalize is for three")
            views = draw_views(transform, form, samples, seed=self._seed, epoch=epoch).tolist()
            columns[key] = torch.stack([shape_image(p, form, v) for p, v in zip(pictures, views, strict=True)])

    def _try_images(self, source: SampleSource) -> None:
        """Now rather than in every batch. What metadata say of an image's size nobody checks: one is read."""
        if len(source) and any(self._transforms[key] is not None for key in self._images):
            first = np.zeros(1, np.int64)
            try:
                columns = source.columns(first)
            except DatasetError:
                return  # the batch that needs it says so
            self.shape_images(columns, first, epoch=0)


def shape_image(pictures: torch.Tensor, form: SlotForm, view: int) -> torch.Tensor:
    """float32 ``[(T,) C, H, W]`` in [0, 1] -> ``[(T,) *form.shape]``."""
    top, left, flip = unpack_view(view)
    height, width = form.crop or form.shown
    pictures = pictures[..., top : top + height, left : left + width]
    if form.is_resized:
        flat = pictures.reshape(-1, *pictures.shape[-3:])
        scaled = torch.nn.functional.interpolate(flat, (form.height, form.width), mode="bilinear", antialias=True)
        pictures = scaled.reshape(*pictures.shape[:-2], form.height, form.width)
    if flip:
        pictures = pictures.flip(-1)
    if form.mean:
        mean, std = (torch.tensor(part)[:, None, None] for part in (form.mean, form.std))
        pictures = (pictures - mean) / std
    if form.dtype == "uint8":
        pictures = (pictures * 255).round().clamp(0, 255)
    pictures = pictures.to(getattr(torch, form.dtype))
    return pictures.movedim(-3, -1) if form.layout == "hwc" else pictures
