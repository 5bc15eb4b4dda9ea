"""Which pictures of a lookahead cross from host to device memory, with which batch, and where they lie on the way."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from gpuload.device.kept import Staying
from gpuload.device.planes import staged_bytes
from gpuload.pipeline.batch import Staged
from gpuload.pipeline.lookahead import Lookahead

ALIGNED = 64
"""Bytes that staged pictures begin at multiples of."""

Ints = npt.NDArray[np.int64]


class Crossing:
    """A picture that is decoded in host memory crosses with the first batch that shows it, and stays on the device
    until the last one. One that a device decodes is where it is needed."""

    def __init__(self, lookahead: Lookahead) -> None:
        self._ahead = lookahead
        self._shown = self._rest = lookahead.shown()
        """From the first batch on, and from the one on that something was last given again for."""
        self._rest_from = 0
        self._with = self._shown.first.copy()
        """Of each picture: the batch that it crosses with, if it is decoded in host memory."""
        self._on_device = np.zeros(len(lookahead.groups), np.bool_)
        """Of each group."""
        self._bytes: dict[int, int] = {}

    def deal(self, group: int, *, on_device: bool, anew_from: int | None) -> list[int]:
        """A group was given to somebody: how often that worker is asked for each picture of it.

        ``anew_from``: what was given before is lost, and batches from this one on are still to be made.
        """
        shown = self._shown
        if anew_from is not None:
            if anew_from != self._rest_from:
                self._rest, self._rest_from = self._ahead.shown(anew_from), anew_from
            shown = self._rest
        begin, end = self._ahead.groups[group].begin, self._ahead.groups[group].end
        self._on_device[group] = on_device
        self._with[begin:end] = shown.first[begin:end]
        batches = shown.batches[begin:end]
        uses: list[int] = (batches if on_device else np.minimum(batches, 1)).tolist()
        return uses

    def asked(self, pictures: Ints, index: int) -> npt.NDArray[np.bool_]:
        """Which of these a worker is asked for in batch ``index``, not having crossed before."""
        asked: npt.NDArray[np.bool_] = (self._with[pictures] == index) | self._on_device[
            self._ahead.plan.picture_group[pictures]
        ]
        return asked

    def staged(self, index: int, views: Ints, may_cross: Callable[[int], bool]) -> Staged:
        """The pictures of batch ``index`` on their way to a device, with room for all that may be decoded in host
        memory: what has crossed may have to cross again, because somebody died."""
        plan = self._ahead.plan
        pictures = plan.picture_of_slot[self._ahead.rows(index)]
        named = np.where(pictures >= 0, pictures + self._ahead.first_picture, -1)
        names = np.unique(pictures[pictures >= 0])
        files, counts = np.unique(plan.group_file[plan.picture_group[names]], return_counts=True)
        sizes = (self._picture_bytes(file) if may_cross(file) else 0 for file in files.tolist())
        room = sum(size * count for size, count in zip(sizes, counts.tolist(), strict=True))
        return Staged(named, views, room)

    def lay_out(self, staged: Staged, pictures: Ints, index: int) -> Ints:
        """Where each of these pictures, ascending, lies in the staging buffer of batch ``index``; 0 for those that do
        not cross with it. Those of one size lie side by side."""
        groups = self._ahead.plan.picture_group[pictures]
        crosses = np.flatnonzero((self._with[pictures] == index) & ~self._on_device[groups])
        sizes = np.array([self._picture_bytes(self._ahead.groups[g].file) for g in groups[crosses].tolist()], np.int64)
        later = self._shown.last[pictures[crosses]] - index
        order = np.argsort(sizes, kind="stable")
        begins = np.cumsum(np.concatenate([[0], sizes[order]]))
        offsets = np.zeros(len(pictures), np.int64)
        offsets[crosses[order]] = begins[:-1]
        staged.num_bytes = int(begins[-1])
        names = (pictures[crosses[order]] + self._ahead.first_picture).tolist()
        staged.offset.update(zip(names, begins[:-1].tolist(), strict=True))
        staged.staying = [
            Staying(name, offset, size, batches)
            for name, offset, size, batches in zip(
                names, begins[:-1].tolist(), sizes[order].tolist(), later[order].tolist(), strict=True
            )
            if batches
        ]
        return offsets

    def _picture_bytes(self, file: int) -> int:
        if file not in self._bytes:
            video = self._ahead.source.video(file)
            size = staged_bytes(video.pixel_format, video.width, video.height)
            self._bytes[file] = -(-size // ALIGNED) * ALIGNED
        return self._bytes[file]
