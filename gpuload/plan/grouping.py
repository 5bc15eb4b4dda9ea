"""Frames that a lookahead wants, grouped by file and GOP: who shares a decode, and when it is due."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
ATTEMPTS = 8
"""Patiences tried to fit a budget, by each rule: each halves their range, on a log scale."""
STAGGER, GOLDEN = 0.8, 0.6180339887498949
"""How much shorter the first group of a GOP may be than the others, and the ratio that spreads this among GOPs."""


@dataclass(frozen=True, slots=True, eq=False)
class DecodePlan:
    """A lookahead's G groups (in due order), their P pictures and which picture fills which of S slots of n samples.

    A group is one decode pass over packets of one file. All arrays are int64.
    """

    picture_of_slot: Ints
    """``[n, S]`` picture numbers; -1 where the frame is missing."""
    picture_packet: Ints
    """``[P]`` packet of its file."""
    picture_group: Ints
    """``[P]``."""
    picture_uses: Ints
    """``[P]`` slots that it fills."""
    picture_due: Ints
    """``[P]`` sample (0 <= due < n) that waits for it first."""
    group_file: Ints
    """``[G]``."""
    group_first: Ints
    """``[G]`` packet that decoding starts at."""
    group_last: Ints
    """``[G]`` last packet to feed."""
    group_due: Ints
    """``[G]`` sample that waits for the group first; ascending."""
    group_picture: Ints
    """``[G + 1]``: pictures of group g are ``[group_picture[g], group_picture[g + 1])``."""
    peak_bytes: int
    """Most bytes of pictures that wait for a later batch at any time."""
    limited: bool = False
    """The budget did not hold what decoding each GOP once would have kept."""

    @property
    def frames_decoded(self) -> int:
        return int((self.group_last - self.group_first + 1).sum())

    def passes(self) -> tuple[Ints, Ints]:
        """Of each group: the next one that begins at the same packet, -1 where it is the last; and the last packet that
        any of these feeds. Both ``[G]``."""
        following = np.full(len(self.group_file), -1, np.int64)
        feeds = self.group_last.copy()
        if not len(feeds):
            return following, feeds
        order = np.lexsort((self.group_first, self.group_file))  # stable: in due order within
        file, first = self.group_file[order], self.group_first[order]
        is_same = (file[1:] == file[:-1]) & (first[1:] == first[:-1])
        following[order[:-1][is_same]] = order[1:][is_same]
        begins = np.flatnonzero(np.concatenate([[True], ~is_same]))
        most = np.maximum.reduceat(feeds[order], begins)
        feeds[order] = np.repeat(most, np.diff(np.append(begins, len(order))))
        return following, feeds


def group_frames(
    file: Ints, packet: Ints, start: Ints, *, batch_size: int, picture_bytes: Ints, budget_bytes: int
) -> DecodePlan:
    """Groups wanted frames so that each GOP is decoded once, if the budget allows.

    Otherwise a GOP's uses are parted, and it is decoded again for each part: by the one of two rules that decodes less
    (``_Waits``), with a patience that is made as large as the budget allows.

    Args:
        file: ``[n, S]`` file of each slot's frame; -1: it is missing, and the slot's packet and start mean nothing.
        packet: ``[n, S]`` packet whose picture is wanted, in the file's decode order.
        start: ``[n, S]`` packet that decoding starts at for it.
        batch_size: samples in a batch, the first of which begins at row 0: pictures wait from batch to batch.
        picture_bytes: ``[F]`` bytes of a kept picture of each file.
        budget_bytes: of pictures that wait for a later batch.
    """
    plan = _group(file, packet, start, parts=None, batch_size=batch_size, picture_bytes=picture_bytes)
    if plan.peak_bytes <= budget_bytes:
        return plan
    attempts = _Attempts(file, packet, start, batch_size=batch_size, picture_bytes=picture_bytes)
    waits, found = attempts.waits, list[tuple[int, npt.NDArray[np.bool_]]]()
    for rule in (waits.where_dear, waits.where_old):
        low, high = 0.0, np.log2(len(file) + 1.0)
        best = rule(0.0)
        for _ in range(ATTEMPTS):
            middle = (low + high) / 2
            opens = rule(2**middle)
            if attempts.peak_bytes(opens) <= budget_bytes:
                low, best = middle, opens
            else:
                high = middle
        found.append((attempts.frames_decoded(best), best))
    _, best = min(found, key=lambda one: one[0])
    parts = waits.parts(best)
    plan = _group(file, packet, start, parts=parts, batch_size=batch_size, picture_bytes=picture_bytes)
    return replace(plan, limited=True)


class _Waits:
    """Uses of GOPs, sorted by GOP and position, and two rules of where to begin another group of the same GOP.

    ``where_dear``: where (samples to wait) x (part of its uses left) exceeds the patience. Best where the budget nearly
    suffices; where it does not, most is kept towards the end of a lookahead, and the budget lies idle before.
    ``where_old``: where the group is older than the patience. That keeps equally much at any time.
    """

    def __init__(self, gop: Ints, position: Ints, *, batch_size: int) -> None:
        self.order = np.argsort(gop, kind="stable")  # positions ascend
        self.gop, self.position = gop[self.order], position[self.order]
        self._first = np.append(True, np.diff(self.gop) != 0)[: len(gop)]
        ends = np.append(np.flatnonzero(self._first)[1:], len(gop))
        uses = np.diff(np.append(np.flatnonzero(self._first), len(gop)))
        left = (np.repeat(ends, uses) - np.arange(len(gop))) / np.repeat(uses, uses)
        self._batch_size, batch = batch_size, self.position // batch_size
        self._price = np.diff(self.position, prepend=0) * left
        self._price[np.diff(batch, prepend=-1) == 0] = 0.0  # nothing is kept within a batch
        self._place = self.gop << 32 | batch
        # Else the groups of all GOPs would be oldest, and their pictures most, at the same time.
        self._age = np.where(self._first, 1.0 - STAGGER * (self.gop * GOLDEN % 1.0), 1.0)

    def where_dear(self, patience: float) -> npt.NDArray[np.bool_]:
        """Which uses begin another group: those to which waiting costs more than ``patience``."""
        opens: npt.NDArray[np.bool_] = self._first | (self._price > patience)
        return opens

    def where_old(self, patience: float) -> npt.NDArray[np.bool_]:
        """Which uses begin another group: those that come more than ``patience`` samples after the group's first."""
        batches = (patience / self._batch_size * self._age).astype(np.int64)
        following = np.searchsorted(self._place, self._place + batches, side="right")
        opens = self._first.copy()
        begun = np.flatnonzero(opens)
        while len(begun):  # the next group of every GOP at once
            after = following[begun]
            after = after[after < len(opens)]
            begun = after[~opens[after]]
            opens[begun] = True
        return opens

    def parts(self, opens: npt.NDArray[np.bool_]) -> Ints:
        """The group of each use, in the order in which they were given."""
        parts = np.empty(len(opens), np.int64)
        parts[self.order] = np.cumsum(opens) - 1
        return parts


class _Attempts:
    """What plans would keep and decode, without making them: what is sorted is sorted once."""

    def __init__(self, file: Ints, packet: Ints, start: Ints, *, batch_size: int, picture_bytes: Ints) -> None:
        slots, position, file_, packet_, gop = _uses(file, packet, start)
        self.waits = _Waits(gop, position, batch_size=batch_size)
        self._batch_size, self._batches = batch_size, len(file) // batch_size + 3
        order = self.waits.order
        self._packets = packet_[order] - start.ravel()[slots][order] + 1
        frame = self.waits.gop << 32 | packet_[order]
        # Groups of a GOP part its uses by position: a frame's uses in one group are neighbours here too.
        self._by_frame = np.argsort(frame, kind="stable")
        self._first_of_frame = np.append(True, np.diff(frame[self._by_frame]) != 0)[: len(frame)]
        self._batch = self.waits.position[self._by_frame] // batch_size
        self._weight = picture_bytes[file_[order]][self._by_frame]

    def frames_decoded(self, opens: npt.NDArray[np.bool_]) -> int:
        """``DecodePlan.frames_decoded`` of the plan whose groups these uses begin."""
        return int(np.maximum.reduceat(self._packets, np.flatnonzero(opens)).sum())

    def peak_bytes(self, opens: npt.NDArray[np.bool_]) -> int:
        """``DecodePlan.peak_bytes`` of the same."""
        due = self.waits.position[opens] // self._batch_size
        group = (np.cumsum(opens) - 1)[self._by_frame]
        first = np.flatnonzero(self._first_of_frame | (np.diff(group, prepend=-1) != 0))
        last = np.append(first[1:], len(group)) - 1
        kept_from, kept_to, weight = due[group[first]], self._batch[last], self._weight[first]
        return _peak(kept_from, kept_to, weight, self._batches)


def _peak(kept_from: Ints, kept_to: Ints, weight: Ints, num_batches: int) -> int:
    """Most bytes at any time of pictures that are kept from one batch to another."""
    kept = kept_to > kept_from
    begun = np.bincount(kept_from[kept], weight[kept], num_batches)  # exact: below 2**53
    ended = np.bincount(kept_to[kept] + 1, weight[kept], num_batches)
    return int(np.cumsum(begun - ended).max(initial=0))


def _uses(file: Ints, packet: Ints, start: Ints) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """Of the slots that have a frame: number, sample, file, packet and GOP, ascending by the first."""
    slots = np.flatnonzero(file.ravel() >= 0)
    file_, packet_, start_ = (a.ravel()[slots] for a in (file, packet, start))
    _, gop = np.unique(file_ << 32 | start_, return_inverse=True)
    return slots, slots // file.shape[1], file_, packet_, gop


def _group(
    file: Ints, packet: Ints, start: Ints, *, parts: Ints | None, batch_size: int, picture_bytes: Ints
) -> DecodePlan:
    """``parts``: the group of each slot that has a frame; None: one group for each GOP."""
    n, width = file.shape
    slots, position, file_, packet_, gop = _uses(file, packet, start)
    start_ = start.ravel()[slots]
    gop = gop if parts is None else parts
    # `slots` ascends by position, so the first index of each value is where it is first due.
    _, first_slot, group = np.unique(gop, return_index=True, return_inverse=True)
    by_due = np.argsort(first_slot, kind="stable")
    rank = np.empty_like(by_due)
    rank[by_due] = np.arange(len(by_due))
    group = rank[group]
    first_slot = first_slot[by_due]

    _, first_use, picture, uses = np.unique(
        group << 32 | packet_, return_index=True, return_inverse=True, return_counts=True
    )
    picture_group = group[first_use]
    picture_packet = packet_[first_use]
    edges = np.searchsorted(picture_group, np.arange(len(by_due) + 1))
    last_use = np.zeros(len(uses), np.int64)
    last_use[picture] = position  # of repeated indices the last assignment stays
    due = position[first_slot]

    kept_from, kept_to = due[picture_group] // batch_size, last_use // batch_size
    weight = picture_bytes[file_[first_use]]

    of_slot = np.full(n * width, -1, np.int64)
    of_slot[slots] = picture
    return DecodePlan(
        picture_of_slot=of_slot.reshape(n, width),
        picture_packet=picture_packet,
        picture_group=picture_group,
        picture_uses=uses.astype(np.int64),
        picture_due=position[first_use],
        group_file=file_[first_slot],
        group_first=start_[first_slot],
        group_last=picture_packet[edges[1:] - 1] if len(by_due) else np.zeros(0, np.int64),
        group_due=due,
        group_picture=edges,
        peak_bytes=_peak(kept_from, kept_to, weight, n // batch_size + 3),
    )
