"""A lookahead: which pictures consecutive batches need, and in which groups they are decoded."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gpuload.errors import GpuloadError, LoaderClosed
from gpuload.pipeline.work import STAGED
from gpuload.plan.grouping import DecodePlan, group_frames
from gpuload.sources.base import FrameRefs, SampleSource

ASKED_AT_ONCE = 128
"""Samples whose frames are looked up before looking whether anybody still wants them: each may need a file of its own,
which is indexed for the first time."""


class Group(NamedTuple):
    """One decode pass over packets of one file."""

    file: int
    first: int
    """Packet that decoding starts at."""
    begin: int
    end: int
    """Pictures ``begin <= p < end`` are its."""
    feeds: int
    """Last packet that this pass or another one from the same packet feeds: they share their bytes."""
    again: float
    """Name of the first picture of the next such pass; infinite: this is the last one."""


class Shown(NamedTuple):
    """When pictures are shown: int64 ``[P]`` each; batches are counted in their lookahead."""

    first: npt.NDArray[np.int64]
    """The first batch; -1: none."""
    last: npt.NDArray[np.int64]
    batches: npt.NDArray[np.int64]
    """How many."""


class SeenFrames:
    """Which frames of an epoch have come: a byte a packet of each file met."""

    def __init__(self, source: SampleSource) -> None:
        self._source = source
        self._seen: dict[int, npt.NDArray[np.bool_]] = {}

    def add(self, plan: DecodePlan) -> npt.NDArray[np.int64]:
        """Marks a plan's frames; the pictures that are the first of theirs."""
        file = plan.group_file[plan.picture_group]
        order = np.lexsort((plan.picture_due, plan.picture_packet, file))
        file, packet = file[order], plan.picture_packet[order]
        first = np.ones(len(order), np.bool_)
        first[1:] = (np.diff(file) != 0) | (np.diff(packet) != 0)
        edges = np.flatnonzero(np.diff(file, prepend=-1, append=-1))
        for begin, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            number = int(file[begin])
            seen = self._seen.get(number)
            if seen is None:
                seen = self._seen[number] = np.zeros(len(self._source.video(number).size), np.bool_)
            first[begin:end] &= ~seen[packet[begin:end]]
            seen[packet[begin:end]] = True
        return order[first]


class Lookahead:
    """The plan of consecutive batches. Does not change once it is made."""

    def __init__(
        self,
        source: SampleSource,
        batches: Sequence[npt.NDArray[np.int64]],
        *,
        budget_bytes: int,
        picture_bytes: Callable[[int, int], int],
        slot_fields: npt.NDArray[np.int64],
        first_picture: int,
        seen: SeenFrames,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """``picture_bytes(file, field)``: what a kept picture of a file counts of ``budget_bytes``;
        ``slot_fields`` ``[S]``: field of each slot column, ``STAGED`` where a device makes the slots.

        Raises:
            LoaderClosed: ``is_wanted()`` is not true any more.
        """
        self.source = source
        self.first_picture = first_picture
        samples = np.concatenate(batches)
        self._begins = np.cumsum([0, *(len(b) for b in batches)])
        refs = frames_of(source, samples, is_wanted)
        self._samples, self._named = samples, refs.file
        self._unusable: dict[int, GpuloadError] = {}
        self._missing = (refs.frame < 0) | (refs.file < 0)
        file = np.where(self._missing, -1, refs.file).astype(np.int64)
        packet = np.zeros_like(file)
        start = np.zeros_like(file)
        self.slot_fields, self.field_of = slot_fields, dict[int, int]()
        bytes_of = np.zeros(int(file.max(initial=-1)) + 1, np.int64)
        # By sorting: a set of 10,000 episodes has as many files, and to look for each in all slots takes seconds.
        by_file = np.argsort(file, axis=None, kind="stable")
        sorted_file = file.ravel()[by_file]
        edges = np.flatnonzero(np.diff(sorted_file, prepend=-1, append=-2))  # what is missing comes first
        for begin, end in pairwise(edges.tolist()):
            number, here = int(sorted_file[begin]), by_file[begin:end]
            fields = np.unique(slot_fields[np.unique(here % file.shape[1])]).tolist()
            self.field_of[number] = fields[0] if len(fields) == 1 else STAGED
            try:
                video = source.video(number)
                bytes_of[number] = picture_bytes(number, self.field_of[number])
            except GpuloadError as error:  # it costs the batches that need it, not the epoch
                self._unusable[number] = error
                self._missing.flat[here], file.flat[here] = True, -1
                continue
            frames = refs.frame.ravel()[here]
            packet.flat[here], start.flat[here] = video.frame_packet[frames], video.frame_start[frames]
        largest = max(len(b) for b in batches)
        self.plan: DecodePlan = group_frames(
            file, packet, start, batch_size=largest, picture_bytes=bytes_of, budget_bytes=budget_bytes
        )
        due = self.plan.picture_due[seen.add(self.plan)]
        self.distinct = np.histogram(due, self._begins)[0].tolist()
        """Of each batch: frames that no earlier batch of the epoch had."""
        self.last_with_runs = int(np.searchsorted(self._begins, self.plan.group_due.max(initial=-1), side="right")) - 1
        """The last batch that something is decoded for; -1: there is none."""
        following, feeds = self.plan.passes()
        # Names of pictures grow with the groups, so those of the next pass say when the bytes are wanted again.
        again = np.where(following < 0, np.inf, first_picture + self.plan.group_picture[following])
        # Plain lists: an element of an array costs ten times one of a list, and every group needs a dozen.
        self.groups = list(
            map(
                Group._make,
                zip(
                    self.plan.group_file.tolist(),
                    self.plan.group_first.tolist(),
                    self.plan.group_picture[:-1].tolist(),
                    self.plan.group_picture[1:].tolist(),
                    feeds.tolist(),
                    again.tolist(),
                    strict=True,
                ),
            )
        )
        self.packets: list[int] = self.plan.picture_packet.tolist()
        """Of each picture."""
        self.uses: list[int] = self.plan.picture_uses.tolist()
        """Slots of the lookahead that each picture fills."""

    @property
    def num_pictures(self) -> int:
        return len(self.plan.picture_packet)

    def error_of(self, index: int) -> GpuloadError | None:
        """Why batch ``index`` cannot be complete: of the first slot that nothing can fill."""
        first = int(self._begins[index])
        missing = np.argwhere(self._missing[first : self._begins[index + 1]])
        if not len(missing):
            return None
        row, slot = first + int(missing[0, 0]), int(missing[0, 1])
        error = self._unusable.get(int(self._named[row, slot]))
        return self.source.error_of(int(self._samples[row]), slot) if error is None else error.anew()

    def rows(self, index: int) -> slice:
        """The samples of batch ``index``, counted in this lookahead."""
        return slice(int(self._begins[index]), int(self._begins[index + 1]))

    def uses_from(self, row: int) -> list[int]:
        """Slots that each picture fills from sample ``row`` on."""
        rest = self.plan.picture_of_slot[row:]
        counts: list[int] = np.bincount(rest[rest >= 0], minlength=self.num_pictures).tolist()
        return counts

    def shown(self, index: int = 0) -> Shown:
        """When each picture is shown from batch ``index`` on."""
        row = int(self._begins[index])
        rest = self.plan.picture_of_slot[row:]
        batch_of_row = np.searchsorted(self._begins, np.arange(row, len(self._samples)), side="right") - 1
        is_there = rest >= 0
        pairs = np.unique(rest[is_there] << 32 | np.broadcast_to(batch_of_row[:, None], rest.shape)[is_there])
        picture, batch = pairs >> 32, pairs & 0xFFFFFFFF
        first, last = np.full(self.num_pictures, -1, np.int64), np.full(self.num_pictures, -1, np.int64)
        first[picture[::-1]], last[picture] = batch[::-1], batch  # of repeated indices the last assignment stays
        return Shown(first, last, np.bincount(picture, minlength=self.num_pictures))


def frames_of(source: SampleSource, samples: npt.NDArray[np.int64], is_wanted: Callable[[], bool]) -> FrameRefs:
    """``source.frames``, in parts. Raises LoaderClosed between two of them: ``is_wanted()`` is not true any more."""
    parts = []
    for begin in range(0, len(samples), ASKED_AT_ONCE):
        if not is_wanted():
            raise LoaderClosed("the loader was closed while it was iterated")
        parts.append(source.frames(samples[begin : begin + ASKED_AT_ONCE]))
    return FrameRefs(np.concatenate([part.file for part in parts]), np.concatenate([part.frame for part in parts]))
