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
from gpuload.errors import CacheFull, GpuloadError, LoaderClosed
from gpuload.index.video import VideoIndex
from gpuload.pipeline.batch import Staged
from gpuload.pipeline.crossing import Crossing
from gpuload.pipeline.lookahead import Group, Lookahead
from gpuload.pipeline.work import STAGED, DecodeTask, DecodeWorker, Fill
from gpuload.store.cache import BlobCache, BlobKey, Lease, Reader
from gpuload.store.packets import byte_range, demux_packets

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

    def __init__(self, lookahead: Lookahead, cache: BlobCache, pick: Pick, *, crossing: Crossing | None = None) -> None:
        """``crossing``: batches are made on a device; None: workers write the slots."""
        self._ahead, self._cache, self._pick, self._crossing = lookahead, cache, pick, crossing
        self._holder: list[DecodeWorker | None] = [None] * len(lookahead.groups)
        """Of each group: the worker that was given it, and keeps its pictures."""
        self._lost: set[int] = set()
        """Groups that were given to a worker and taken back."""
        self._rest, self._rest_from = lookahead.uses, 0
        """Uses from the batch on that a group was last given again for."""
        self._expected = [0]
        """Bytes of all groups that were announced, up to each of them."""
        self._keys: dict[tuple[int, int], BlobKey] = {}
        """By file and first packet, of groups that were announced and are still to come."""

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
        ``staged``: where pictures cross is set here, instead of ``places``; each fills only one place.
        """
        ahead, crossing, rows = self._ahead, self._crossing, self._ahead.rows(index)
        pictures = ahead.plan.picture_of_slot[rows]
        present = pictures >= 0
        chosen = pictures[present] if staged is None else np.unique(pictures[present])
        group_of_fill = ahead.plan.picture_group[chosen]
        filled, groups = np.bincount(group_of_fill, minlength=1), np.unique(group_of_fill)
        if crossing is not None:  # what has crossed costs nothing
            filled = np.bincount(group_of_fill[crossing.asked(chosen, index)], minlength=len(filled))
        self._announce(rows.stop)
        shares: Shares = defaultdict(lambda: WorkerShare([], [], {}, []))
        fills_of = dict(zip(groups.tolist(), filled[groups].tolist(), strict=True))
        lost = self._deal(index, fills_of, shares, make_room)
        if staged is None or crossing is None:
            columns = np.broadcast_to(ahead.slot_fields, pictures.shape)[present]
            places, views = places[present], views[present]
        else:
            asked = crossing.asked(chosen, index)
            chosen, group_of_fill = chosen[asked], group_of_fill[asked]
            places = crossing.lay_out(staged, chosen, index)
            columns, views = np.full(len(chosen), STAGED), np.zeros(len(chosen), np.int64)
        for picture, group, field, place, view in zip(
            chosen.tolist(), group_of_fill.tolist(), columns.tolist(), places.tolist(), views.tolist(), strict=True
        ):
            holder = self._holder[group]
            if holder is not None:
                shares[holder].fills.append((ahead.first_picture + picture, field, place, view))
        return shares, lost

    def _deal(
        self, index: int, fills_of: dict[int, int], shares: Shares, make_room: Callable[[Shares], bool]
    ) -> GpuloadError | None:
        """Gives each group that nobody holds to a worker; ``fills_of``: of each group of the batch, how many pictures
        it is asked for. Why a group could not be given, if one could not."""
        given: list[int] = []
        lost: GpuloadError | None = None

        def make_room_and_note() -> bool:
            given.clear()
            return make_room(shares)

        try:
            for group, fills in fills_of.items():
                holder = self._holder[group]
                if holder is None or not holder.alive:
                    again = holder is not None or group in self._lost  # it went with its pictures
                    try:
                        run = self._ahead.groups[group]
                        packets = self._ahead.packets[run.end - 1] - run.first + 1
                        holder = self._pick(run.file, packets, lambda w: shares[w].cost)
                        uses = self._uses(group, holder, index if again else None)
                        self._add_task(group, holder, shares, uses, make_room_and_note)
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
        return lost

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

    def _uses(self, group: int, worker: DecodeWorker, anew_from: int | None) -> list[int]:
        """How often a worker is asked for each picture of a group that it is given; ``anew_from``: it is given again,
        for batches from this one on."""
        if self._crossing is not None:
            return self._crossing.deal(group, on_device=worker.on_device, anew_from=anew_from)
        ahead, uses = self._ahead, self._ahead.uses
        if anew_from is not None:
            if anew_from != self._rest_from:
                self._rest, self._rest_from = ahead.uses_from(ahead.rows(anew_from).start), anew_from
            uses = self._rest
        return uses[ahead.groups[group].begin : ahead.groups[group].end]

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
        pictures = [p for p in range(begin, end) if uses[p - begin]]
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
                uses=[count for count in uses if count],
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
