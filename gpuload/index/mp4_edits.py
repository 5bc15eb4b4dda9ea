"""Edit lists: which packets of a track are presented, and when. The result is FFmpeg's (``advanced_editlist``)."""

from dataclasses import dataclass

import numpy as np

from gpuload.index.mp4_boxes import MAX_PACKETS, Ints, Packets, damaged


@dataclass(frozen=True, slots=True)
class Edit:
    """One line of an edit list, in ticks of the track."""

    media_time: int
    """First moment shown; -1: nothing is shown for the duration."""
    duration: int


@dataclass(frozen=True, slots=True)
class Edited:
    """The packets to decode, in order, and their times."""

    packet: Ints
    """Number in the track's tables; a packet may come more than once."""
    dts: Ints
    pts: Ints
    is_discarded: np.ndarray[tuple[int], np.dtype[np.bool_]]


def time_offset(edits: tuple[Edit, ...]) -> int:
    """Ticks between media time and presentation in a file of fragments, where FFmpeg applies no more of the list."""
    empty = edits[0].duration if edits and edits[0].media_time == -1 else 0
    rest = edits[1:] if edits and edits[0].media_time == -1 else edits
    return (max(rest[0].media_time, 0) if rest else 0) - empty


def apply_edits(packets: Packets, edits: tuple[Edit, ...], *, shift: int, has_ctts: bool, path: str) -> Edited:
    """Lay the packets out as the edit list says.

    A packet that is needed by shown ones but not shown itself is kept and discarded; ``shift`` is how far composition
    offsets reach below zero. The first shown packet
    takes its edit's start as dts, those discarded before it count back.

    Raises:
        VideoError: the edits repeat more packets than a file can hold.
    """
    cts = packets.dts + packets.ctts
    n = len(cts)
    if not edits or not n:
        return Edited(np.arange(n), packets.dts - shift, cts, np.zeros(n, bool))
    keys = np.flatnonzero(packets.is_key)
    durations = np.diff(packets.dts, append=packets.dts[-1:])
    counter_end, empty, lowest, total = -shift, 0, -1, 0
    numbers, times, discards = [], [], []
    seen = False
    for edit in edits:
        counter = counter_end
        counter_end += edit.duration
        if edit.media_time < 0 and not seen:
            empty += edit.duration
            continue
        seen = True
        end = edit.media_time + edit.duration
        first = _first_packet(packets.dts, cts, keys, edit.media_time, has_ctts=has_ctts)
        candidates = keys[np.searchsorted(keys, first) :]
        candidates = candidates[cts[candidates] + durations[candidates] >= end]
        # With composition offsets one keyframe more: leading pictures behind the first may belong to the edit.
        nth = 1 if has_ctts else 0
        last = int(candidates[nth]) if len(candidates) > nth else n - 1
        total += last + 1 - first
        if total > MAX_PACKETS:
            raise damaged(path, f"the edit list asks for more than {MAX_PACKETS} packets")
        part = slice(first, last + 1)
        inside = (cts[part] >= edit.media_time) & (cts[part] < end)
        start = first + int(np.argmax(inside))
        dts = counter + (packets.dts[part] - packets.dts[start] if inside.any() else np.zeros(len(inside), np.int64))
        lowest = _running_low(lowest, (dts + packets.ctts[part] + shift)[inside])
        numbers.append(np.arange(first, last + 1))
        times.append(dts)
        discards.append(~inside)
    if not numbers:  # nothing but time that passes before the first picture
        return Edited(np.arange(0), packets.dts[:0], cts[:0], np.zeros(0, bool))
    number, dts = np.concatenate(numbers), np.concatenate(times)
    dts = dts - max(lowest - empty, 0)  # the first shown picture is at zero, or after the empty edits
    return Edited(number, dts, dts + shift + packets.ctts[number], np.concatenate(discards))


def _first_packet(dts: Ints, cts: Ints, keys: Ints, media_time: int, *, has_ctts: bool) -> int:
    """The last keyframe that is decoded and presented no later than ``media_time``; without composition offsets any
    such packet; the first."""
    early = keys[(dts[keys] <= media_time) & (cts[keys] <= media_time)]
    if len(early):
        return int(early[-1])
    if has_ctts:
        return 0
    anything = np.flatnonzero((dts <= media_time) & (cts <= media_time))
    return int(anything[-1]) if len(anything) else 0


def _running_low(low: int, values: Ints) -> int:
    """FFmpeg's running minimum, in which a negative one counts as not yet set."""
    if not len(values):
        return low
    negative = np.flatnonzero(values < 0)
    if not len(negative):
        return int(values.min()) if low < 0 else min(low, int(values.min()))
    rest = values[negative[-1] + 1 :]
    return int(rest.min()) if len(rest) else int(values[-1])
