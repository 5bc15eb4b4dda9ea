"""Frames that a lookahead wants, grouped by file and GOP: who shares a decode, and when it is due."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
ATTEMPTS = 6
"""Plans tried to fit a budget: each costs 0.4 µs a slot and halves the range of patience, on a log scale."""


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


def group_frames(
    file: Ints, packet: Ints, start: Ints, *, batch_size: int, picture_bytes: Ints, budget_bytes: int
) -> DecodePlan:
    """Groups wanted frames so that each GOP is decoded once, if the budget allows.

    Otherwise the pictures that would wait longest for the least are let go, and their GOP is decoded again when it is
    wanted again: a GOP's uses are parted where (samples to wait) x (part of its uses left) exceeds a patience that is
    made as large as the budget allows.

    Args:
        file: ``[n, S]`` file of each slot's frame; -1: it is missing, and the slot's packet and start mean nothing.
        packet: ``[n, S]`` packet whose picture is wanted, in the file's decode order.
        start: ``[n, S]`` packet that decoding starts at for it.
        batch_size: samples in a batch, the first of which begins at row 0: pictures wait from batch to batch.
        picture_bytes: ``[F]`` bytes of a kept picture of each file.
        budget_bytes: of pictures that wait for a later batch.
    """
    plan = _group(file, packet, start, patience=None, batch_size=batch_size, picture_bytes=picture_bytes)
    if plan.peak_bytes <= budget_bytes:
        return plan
    low, high = 0.0, np.log2(len(file) + 1.0)
    best = None
    for _ in range(ATTEMPTS):
        middle = (low + high) / 2
        plan = _group(file, packet, start, patience=2**middle, batch_size=batch_size, picture_bytes=picture_bytes)
        if plan.peak_bytes <= budget_bytes:
            low, best = middle, plan
        else:
            high = middle
    if best is None:
        best = _group(file, packet, start, patience=0.0, batch_size=batch_size, picture_bytes=picture_bytes)
    return replace(best, limited=True)


def _group(
    file: Ints, packet: Ints, start: Ints, *, patience: float | None, batch_size: int, picture_bytes: Ints
) -> DecodePlan:
    n, width = file.shape
    slots = np.flatnonzero(file.ravel() >= 0)
    position = slots // width
    file_, packet_, start_ = (a.ravel()[slots] for a in (file, packet, start))

    _, gop = np.unique(file_ << 32 | start_, return_inverse=True)
    if patience is not None:
        gop = _sessions(gop, position, patience=patience, batch_size=batch_size)
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
    kept = kept_to > kept_from
    weight = picture_bytes[file_[first_use]]
    change = np.zeros(n // batch_size + 3, np.int64)
    np.add.at(change, kept_from[kept], weight[kept])
    np.add.at(change, kept_to[kept] + 1, -weight[kept])

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
        peak_bytes=int(np.cumsum(change).max(initial=0)),
    )


def _sessions(gop: Ints, position: Ints, *, patience: float, batch_size: int) -> Ints:
    """Numbers uses of the same GOP alike unless waiting from one to the next costs more than ``patience``."""
    order = np.lexsort((position, gop))
    gops, positions = gop[order], position[order]
    first = np.append(True, np.diff(gops) != 0)
    ends = np.append(np.flatnonzero(first)[1:], len(gops))
    uses = np.diff(np.append(np.flatnonzero(first), len(gops)))
    left = (np.repeat(ends, uses) - np.arange(len(gops))) / np.repeat(uses, uses)
    wait = np.diff(positions, prepend=0)
    same_batch = np.diff(positions // batch_size, prepend=-1) == 0
    opens = first | (~same_batch & (wait * left > patience))
    session = np.empty(len(gops), np.int64)
    session[order] = np.cumsum(opens) - 1
    return session
