"""From samples to units of work: plans one lookahead at a time and deals its groups to workers."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from operator import add

import numpy as np
import numpy.typing as npt

from gpuload.decode.base import Stream
from gpuload.decode.runs import entries, leading_packets, stream_of
from gpuload.device.planes import staged_bytes
from gpuload.errors import CacheFull, GpuloadError, LoaderClosed
from gpuload.index.video import VideoIndex
from gpuload.pipeline.batch import Staged
from gpuload.pipeline.work import STAGED, DecodeTask, DecodeWorker, Fill
from gpuload.plan.grouping import DecodePlan, group_frames
from gpuload.sources.base import FrameRefs, SampleSource
from gpuload.store.cache import BlobCache, BlobKey, Lease, Reader
from gpuload.store.packets import byte_range, demux_packets

ALIGNED = 64
"""Bytes that staged pictures begin at multiples of."""
ASKED_AT_ONCE = 512
"""Samples whose frames are looked up before looking whether anybody still wants them: each may need a file of its own,
which is indexed for the first time."""
ASKED_AGAIN_S = 0.5
"""How long one waits for bytes to be given back before looking whether anybody still wants them."""
EXPECTED_GROUPS = 64
EXPECTED_BYTES = 64 << 20
"""What comes next is announced to the store: storage that is slow to answer answers many at once."""
FILL_COST = 0.3
"""Of converting one picture, in units of decoding one."""


@dataclass(slots=True)
class WorkerShare:
    """What one worker does for one batch."""

    tasks: list[DecodeTask]
    fills: list[Fill]
    streams: dict[int, Stream]
    leases: list[Lease]
    cost: float = 0.0


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
    """The plan of consecutive batches, and which worker holds which group. Used by the feeding thread only."""

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
        self.begins = np.cumsum([0, *(len(b) for b in batches)])
        refs = frames_of(source, samples, is_wanted)
        self._samples, self._named = samples, refs.file
        self._unusable: dict[int, GpuloadError] = {}
        self._missing = (refs.frame < 0) | (refs.file < 0)
        file = np.where(self._missing, -1, refs.file).astype(np.int64)
        packet = np.zeros_like(file)
        start = np.zeros_like(file)
        self._slot_fields, self._field_of = slot_fields, dict[int, int]()
        bytes_of = np.zeros(int(file.max(initial=-1)) + 1, np.int64)
        # By sorting: a set of 10,000 episodes has as many files, and to look for each in all slots takes seconds.
        by_file = np.argsort(file, axis=None, kind="stable")
        sorted_file = file.ravel()[by_file]
        edges = np.flatnonzero(np.diff(sorted_file, prepend=-1, append=-2))  # what is missing comes first
        for begin, end in pairwise(edges.tolist()):
            number, here = int(sorted_file[begin]), by_file[begin:end]
            fields = np.unique(slot_fields[np.unique(here % file.shape[1])]).tolist()
            self._field_of[number] = fields[0] if len(fields) == 1 else STAGED
            try:
                video = source.video(number)
                bytes_of[number] = picture_bytes(number, self._field_of[number])
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
        self.distinct = np.histogram(due, self.begins)[0].tolist()
        """Of each batch: frames that no earlier batch of the epoch had."""
        self.last_with_runs = int(np.searchsorted(self.begins, self.plan.group_due.max(initial=-1), side="right")) - 1
        """The last batch that something is decoded for; -1: there is none."""
        self._holder: list[DecodeWorker | None] = [None] * len(self.plan.group_file)
        # Plain lists: an element of an array costs ten times one of a list, and every group needs a dozen.
        following, feeds = self.plan.passes()
        # Names of pictures grow with the groups, so those of the next pass say when the bytes are wanted again.
        again = np.where(following < 0, np.inf, first_picture + self.plan.group_picture[following])
        self._groups = list(
            zip(
                self.plan.group_file.tolist(),
                self.plan.group_first.tolist(),
                self.plan.group_picture[:-1].tolist(),
                self.plan.group_picture[1:].tolist(),
                feeds.tolist(),
                again.tolist(),
                strict=True,
            )
        )
        self._expected = [0]
        """Bytes of all groups that were announced, up to each of them."""
        self._lost: set[int] = set()
        """Groups that were given to a worker and taken back."""
        self._staged_sizes: dict[int, int] = {}
        self._packets: list[int] = self.plan.picture_packet.tolist()
        self._uses: list[int] = self.plan.picture_uses.tolist()

    @property
    def num_pictures(self) -> int:
        return len(self.plan.picture_packet)

    def error_of(self, index: int) -> GpuloadError | None:
        """Why batch ``index`` cannot be complete: of the first slot that nothing can fill."""
        first = int(self.begins[index])
        missing = np.argwhere(self._missing[first : self.begins[index + 1]])
        if not len(missing):
            return None
        row, slot = first + int(missing[0, 0]), int(missing[0, 1])
        error = self._unusable.get(int(self._named[row, slot]))
        return self.source.error_of(int(self._samples[row]), slot) if error is None else error.anew()

    def shares(
        self,
        index: int,
        pick: Callable[[int, Callable[[DecodeWorker], float]], DecodeWorker],
        cache: BlobCache,
        places: npt.NDArray[np.int64],
        views: npt.NDArray[np.int64],
        make_room: "Callable[[dict[DecodeWorker, WorkerShare]], bool]",
        staged: Staged | None,
    ) -> "tuple[dict[DecodeWorker, WorkerShare], GpuloadError | None]":
        """Work of batch ``index`` of this lookahead, by worker, and why a part of it cannot be had; all the rest of it
        is to be done, so that pictures are used as often as was counted. ``pick(file, given)`` chooses a worker for
        more of a file.

        ``places`` ``[n, S]``: byte offset of each slot; ``views`` ``[n, S]``: what of the picture goes there.
        ``make_room`` is called with what there is whenever the blob cache has to be given back something first, and
        says whether any worker still has something to give back.
        ``staged``: the batch is made on a device; its offsets are set here, instead of ``places``.
        """
        plan = self.plan
        rows = slice(int(self.begins[index]), int(self.begins[index + 1]))
        pictures = plan.picture_of_slot[rows]
        present = pictures >= 0
        chosen = pictures[present]
        group_of_fill = plan.picture_group[chosen]
        shares: dict[DecodeWorker, WorkerShare] = defaultdict(lambda: WorkerShare([], [], {}, []))
        uses: list[int] | None = None
        filled = np.bincount(group_of_fill, minlength=1)
        groups = np.flatnonzero(filled)
        self._announce(rows.stop, cache)
        given: list[int] = []
        lost: GpuloadError | None = None

        def make_room_and_note() -> bool:
            given.clear()
            return make_room(shares)

        try:
            for group, fills in zip(groups.tolist(), filled[groups].tolist(), strict=True):
                holder = self._holder[group]
                if holder is None or not holder.alive:
                    again = holder is not None or group in self._lost
                    if again and uses is None:
                        uses = self._uses_from(rows.start)  # it went with its pictures: again, for whoever still waits
                    counts = self._uses if not again or uses is None else uses
                    try:
                        holder = pick(self._groups[group][0], lambda w: shares[w].cost)
                        self._add_task(group, holder, shares, cache, counts, make_room_and_note)
                    except LoaderClosed:
                        raise
                    except GpuloadError as error:
                        lost = lost or error.anew()
                        self._holder[group] = None
                        self._lost.add(group)
                        continue
                    self._holder[group] = holder
                    given.append(group)
                shares[holder].cost += FILL_COST * fills
        except BaseException:
            self._take_back(shares, given)
            raise
        if staged is not None:
            self._lay_out(staged, pictures)
            places = staged.offset
        columns = np.broadcast_to(self._slot_fields, pictures.shape)[present]
        for picture, group, field, place, view in zip(
            chosen.tolist(),
            group_of_fill.tolist(),
            columns.tolist(),
            places[present].tolist(),
            views[present].tolist(),
            strict=True,
        ):
            holder = self._holder[group]
            if holder is not None:
                shares[holder].fills.append((self.first_picture + picture, field, place, view))
        return shares, lost

    def _announce(self, row: int, cache: BlobCache) -> None:
        """Groups that are first due before sample ``row``, and some behind them."""
        due = int(np.searchsorted(self.plan.group_due, row))
        known = self._expected
        while len(known) <= min(due + EXPECTED_GROUPS, len(self._groups)):
            number = len(known) - 1
            if number >= due and known[-1] - known[due] > EXPECTED_BYTES:
                break
            file, first, _, _, feeds, _ = self._groups[number]
            video = self.source.video(file)
            start, stop = int(video.pos[first]), int(video.pos[feeds] + video.size[feeds])
            if video.contiguous:
                cache.expect(BlobKey(video.path, start, stop))
            known.append(known[-1] + max(stop - start, 0))

    def _take_back(self, shares: dict[DecodeWorker, WorkerShare], groups: list[int]) -> None:
        """Tasks that will not be sent, because another of their batch could not be made."""
        for worker, share in shares.items():
            for lease in share.leases:
                lease.release()
            worker.streams -= share.streams.keys()
        for group in groups:
            self._holder[group] = None
        self._lost.update(groups)

    def staged(self, index: int, views: npt.NDArray[np.int64], may_cross: Callable[[int], bool]) -> Staged:
        """The pictures of batch ``index`` on their way to a device, with room for those that may be decoded in host
        memory."""
        pictures = self.plan.picture_of_slot[int(self.begins[index]) : int(self.begins[index + 1])]
        named = np.where(pictures >= 0, pictures + self.first_picture, -1)
        names = np.unique(pictures[pictures >= 0])
        files, counts = np.unique(self.plan.group_file[self.plan.picture_group[names]], return_counts=True)
        sizes = (self._staged_bytes(file) if may_cross(file) else 0 for file in files.tolist())
        room = sum(size * count for size, count in zip(sizes, counts.tolist(), strict=True))
        return Staged(named, np.zeros_like(named), views, room)

    def _lay_out(self, staged: Staged, pictures: npt.NDArray[np.integer]) -> None:
        """Where pictures that are decoded in host memory cross: each once, however many slots it fills."""
        names, place = np.unique(pictures, return_inverse=True)
        if not self.num_pictures:  # not one frame was found
            return
        sizes = []
        for name, group in zip(names.tolist(), self.plan.picture_group[names].tolist(), strict=True):
            holder = self._holder[group] if name >= 0 else None
            crosses = holder is not None and not holder.on_device
            sizes.append(self._staged_bytes(self._groups[group][0]) if crosses else 0)
        begins = np.cumsum([0, *sizes])
        staged.offset, staged.num_bytes = begins[place.reshape(pictures.shape)], int(begins[-1])

    def _staged_bytes(self, file: int) -> int:
        if file not in self._staged_sizes:
            video = self.source.video(file)
            size = staged_bytes(video.pixel_format, video.width, video.height)
            self._staged_sizes[file] = -(-size // ALIGNED) * ALIGNED
        return self._staged_sizes[file]

    def _uses_from(self, row: int) -> list[int]:
        rest = self.plan.picture_of_slot[row:]
        counts: list[int] = np.bincount(rest[rest >= 0], minlength=self.num_pictures).tolist()
        return counts

    def _add_task(
        self,
        group: int,
        worker: DecodeWorker,
        shares: dict[DecodeWorker, WorkerShare],
        cache: BlobCache,
        uses: list[int],
        make_room: Callable[[], bool],
    ) -> None:
        file, first, begin, end, feeds, again = self._groups[group]
        pictures = [p for p in range(begin, end) if uses[p]]
        packets = [self._packets[p] for p in pictures]
        last = packets[-1]
        video = self.source.video(file)
        sizes: list[int] = video.size[first : last + 1].tolist()
        if video.contiguous:
            key, read = BlobKey(video.path, *byte_range(video, first, feeds)), None
            begins: list[int] = (video.pos[first : last + 1] - key.start).tolist()
        else:
            key = BlobKey(f"{video.path} packets {first}", 0, int(video.size[first : feeds + 1].sum()))
            read, begins = partial(demuxed, video, first, feeds), list(accumulate(sizes[:-1], initial=0))
        lease = _acquire(cache, key, again, make_room, read)
        data = lease.data[0] if last == feeds else lease.data[0][: max(map(add, begins, sizes))]
        share = shares[worker]
        share.leases.append(lease)
        if file not in worker.streams:
            worker.streams.add(file)
            share.streams[file] = stream_of(video)
        share.tasks.append(
            DecodeTask(
                stream=file,
                first=first,
                sizes=sizes,
                begins=begins,
                entries=entries(video, first, last),
                data=data,
                packets=packets,
                pictures=[p + self.first_picture for p in pictures],
                uses=[uses[p] for p in pictures],
                pts=video.pts[first : last + 1].tolist() if worker.needs_pts else (),
                leading=leading_packets(video, first, last),
                field=self._field_of[file],
            )
        )
        share.cost += last - first + 1


def frames_of(source: SampleSource, samples: npt.NDArray[np.int64], is_wanted: Callable[[], bool]) -> FrameRefs:
    """``source.frames``, in parts. Raises LoaderClosed between two of them: ``is_wanted()`` is not true any more."""
    parts = []
    for begin in range(0, len(samples), ASKED_AT_ONCE):
        if not is_wanted():
            raise LoaderClosed("the loader was closed while it was iterated")
        parts.append(source.frames(samples[begin : begin + ASKED_AT_ONCE]))
    return FrameRefs(np.concatenate([part.file for part in parts]), np.concatenate([part.frame for part in parts]))


def demuxed(video: VideoIndex, first: int, last: int, _: BlobKey) -> bytes:
    """Packets ``first .. last`` of a file where they are no ranges of its bytes, behind each other."""
    return b"".join(demux_packets(video, first, last))


def _acquire(
    cache: BlobCache, key: BlobKey, next_use: float, make_room: Callable[[], bool], read: Reader | None
) -> Lease:
    """Holds a blob as soon as workers have given back enough: how long they take says nothing, a unit may be long.

    Raises:
        CacheFull: it is larger than the budget, or nobody has anything to give back. What reading and ``make_room``
            raise: the latter is asked again and again, since an epoch that is left must not wait here.
    """
    is_first, is_awaited = True, True
    while True:
        try:
            timeout_s = 0.0 if is_first else ASKED_AGAIN_S
            return cache.acquire_all([key], next_use=next_use, timeout_s=timeout_s, read=read)
        except CacheFull:
            if not is_awaited or key.stop - key.start > cache.capacity_bytes:
                raise
        is_awaited = make_room()
        is_first = False
