"""Who does what of each batch of a lookahead: tasks for the workers that hold a group, with the bytes they need."""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from operator import add

import numpy as np
import numpy.typing as npt

from gpuload.decode.base import Stream
from gpuload.decode.runs import entries, leading_packets, stream_of
from gpuload.device.planes import staged_bytes
from gpuload.errors import CacheFull, GpuloadError, LoaderClosed
from gpuload.index.video import VideoIndex
from gpuload.pipeline.batch import Staged
from gpuload.pipeline.lookahead import Group, Lookahead
from gpuload.pipeline.work import DecodeTask, DecodeWorker, Fill
from gpuload.store.cache import BlobCache, BlobKey, Lease, Reader
from gpuload.store.packets import byte_range, demux_packets

ALIGNED = 64
"""Bytes that staged pictures begin at multiples of."""
ASKED_AGAIN_S = 0.5
"""How long one waits for bytes to be given back before looking whether anybody still wants them."""
EXPECTED_GROUPS = 64
EXPECTED_BYTES = 64 << 20
"""What comes next is announced to the store: storage that is slow to answer answers many at once."""
FILL_COST = 0.3
"""Of converting one picture, in units of decoding one."""

Pick = Callable[[int, int, Callable[[DecodeWorker], float]], DecodeWorker]
"""``pick(file, packets, given)``: the worker for a run of a file; ``given(worker)``: work that its load does not show
yet."""


@dataclass(slots=True)
class WorkerShare:
    """What one worker does for one batch."""

    tasks: list[DecodeTask]
    fills: list[Fill]
    streams: dict[int, Stream]
    leases: list[Lease]
    cost: float = 0.0


Shares = dict[DecodeWorker, WorkerShare]


class Dealer:
    """Deals the groups of one lookahead to workers, batch by batch. Used by the feeding thread only."""

    def __init__(self, lookahead: Lookahead, cache: BlobCache, pick: Pick) -> None:
        self._ahead, self._cache, self._pick = lookahead, cache, pick
        self._holder: list[DecodeWorker | None] = [None] * len(lookahead.groups)
        """Of each group: the worker that was given it, and keeps its pictures."""
        self._lost: set[int] = set()
        """Groups that were given to a worker and taken back."""
        self._expected = [0]
        """Bytes of all groups that were announced, up to each of them."""
        self._keys: dict[tuple[int, int], BlobKey] = {}
        """By file and first packet, of groups that were announced and are still to come."""
        self._staged_sizes: dict[int, int] = {}

    def shares(
        self,
        index: int,
        places: npt.NDArray[np.int64],
        views: npt.NDArray[np.int64],
        make_room: Callable[[Shares], bool],
        staged: Staged | None,
    ) -> tuple[Shares, GpuloadError | None]:
        """Work of batch ``index`` of the lookahead, by worker, and why a part of it cannot be had; all the rest of it
        is to be done, so that pictures are used as often as was counted.

        ``places`` ``[n, S]``: byte offset of each slot; ``views`` ``[n, S]``: what of the picture goes there.
        ``make_room`` is called with what there is whenever the blob cache has to be given back something first, and
        says whether any worker still has something to give back.
        ``staged``: the batch is made on a device; its offsets are set here, instead of ``places``.
        """
        ahead, plan, rows = self._ahead, self._ahead.plan, self._ahead.rows(index)
        pictures = plan.picture_of_slot[rows]
        present = pictures >= 0
        chosen = pictures[present]
        group_of_fill = plan.picture_group[chosen]
        shares: Shares = defaultdict(lambda: WorkerShare([], [], {}, []))
        uses: list[int] | None = None
        filled = np.bincount(group_of_fill, minlength=1)
        groups = np.flatnonzero(filled)
        self._announce(rows.stop)
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
                        uses = ahead.uses_from(rows.start)  # it went with its pictures: again, for whoever still waits
                    counts = ahead.uses if not again or uses is None else uses
                    try:
                        run = ahead.groups[group]
                        holder = self._pick(
                            run.file, ahead.packets[run.end - 1] - run.first + 1, lambda w: shares[w].cost
                        )
                        self._add_task(group, holder, shares, counts, make_room_and_note)
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
        except BaseException:  # tasks that nobody gets hold bytes
            self._take_back(shares, given)
            raise
        if staged is not None:
            self._lay_out(staged, pictures)
            places = staged.offset
        columns = np.broadcast_to(ahead.slot_fields, pictures.shape)[present]
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
                shares[holder].fills.append((ahead.first_picture + picture, field, place, view))
        return shares, lost

    def _announce(self, row: int) -> None:
        """Groups that are first due before sample ``row``, and some behind them."""
        ahead, known = self._ahead, self._expected
        due = int(np.searchsorted(ahead.plan.group_due, row))
        while len(known) <= min(due + EXPECTED_GROUPS, len(ahead.groups)):
            number = len(known) - 1
            if number >= due and known[-1] - known[due] > EXPECTED_BYTES:
                break
            group = ahead.groups[number]
            key = self._key_of(group)
            if ahead.source.video(group.file).contiguous:
                self._cache.expect(key)
            known.append(known[-1] + key.stop - key.start)

    def _key_of(self, group: Group) -> BlobKey:
        """The bytes of all passes from the group's first packet."""
        place = group.file, group.first
        if place not in self._keys:
            video = self._ahead.source.video(group.file)
            if video.contiguous:
                self._keys[place] = BlobKey(video.path, *byte_range(video, group.first, group.feeds))
            else:
                total = int(video.size[group.first : group.feeds + 1].sum())
                self._keys[place] = BlobKey(f"{video.path} packets {group.first}", 0, total)
        return self._keys[place]

    def _take_back(self, shares: Shares, groups: list[int]) -> None:
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
        plan = self._ahead.plan
        pictures = plan.picture_of_slot[self._ahead.rows(index)]
        named = np.where(pictures >= 0, pictures + self._ahead.first_picture, -1)
        names = np.unique(pictures[pictures >= 0])
        files, counts = np.unique(plan.group_file[plan.picture_group[names]], return_counts=True)
        sizes = (self._staged_bytes(file) if may_cross(file) else 0 for file in files.tolist())
        room = sum(size * count for size, count in zip(sizes, counts.tolist(), strict=True))
        return Staged(named, np.zeros_like(named), views, room)

    def _lay_out(self, staged: Staged, pictures: npt.NDArray[np.integer]) -> None:
        """Where pictures that are decoded in host memory cross: each once, however many slots it fills."""
        names, place = np.unique(pictures, return_inverse=True)
        if not self._ahead.num_pictures:  # not one frame was found
            return
        sizes = []
        for name, group in zip(names.tolist(), self._ahead.plan.picture_group[names].tolist(), strict=True):
            holder = self._holder[group] if name >= 0 else None
            crosses = holder is not None and not holder.on_device
            sizes.append(self._staged_bytes(self._ahead.groups[group].file) if crosses else 0)
        begins = np.cumsum([0, *sizes])
        staged.offset, staged.num_bytes = begins[place.reshape(pictures.shape)], int(begins[-1])

    def _staged_bytes(self, file: int) -> int:
        if file not in self._staged_sizes:
            video = self._ahead.source.video(file)
            size = staged_bytes(video.pixel_format, video.width, video.height)
            self._staged_sizes[file] = -(-size // ALIGNED) * ALIGNED
        return self._staged_sizes[file]

    def _add_task(
        self,
        group: int,
        worker: DecodeWorker,
        shares: Shares,
        uses: list[int],
        make_room: Callable[[], bool],
    ) -> None:
        ahead = self._ahead
        file, first, begin, end, feeds, again = ahead.groups[group]
        pictures = [p for p in range(begin, end) if uses[p]]
        packets = [ahead.packets[p] for p in pictures]
        last = packets[-1]
        video = ahead.source.video(file)
        sizes: list[int] = video.size[first : last + 1].tolist()
        key = self._key_of(ahead.groups[group])
        if video.contiguous:
            begins: list[int] = (video.pos[first : last + 1] - key.start).tolist()
            read = None
        else:
            begins = list(accumulate(sizes[:-1], initial=0))
            read = partial(demuxed, video, first, feeds)
        lease = _acquire(self._cache, key, again, make_room, read)
        if again == math.inf:
            del self._keys[file, first]
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
                pictures=[p + ahead.first_picture for p in pictures],
                uses=[uses[p] for p in pictures],
                pts=video.pts[first : last + 1].tolist() if worker.needs_pts else (),
                leading=leading_packets(video, first, last),
                field=ahead.field_of[file],
            )
        )
        share.cost += last - first + 1


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
            return cache.acquire(key, next_use=next_use, timeout_s=timeout_s, read=read)
        except CacheFull:
            if not is_awaited or key.stop - key.start > cache.capacity_bytes:
                raise
        is_awaited = make_room()
        is_first = False
