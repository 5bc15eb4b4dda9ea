"""Keyframes that are none: what a container says is compared with the packets of codecs that tell."""

from collections.abc import Iterator, Mapping, Sequence

import av
import numpy as np
import numpy.typing as npt
from av.video.stream import VideoStream

from gpuload.errors import VideoError
from gpuload.index import frame_headers
from gpuload.index.mp4_boxes import Packets
from gpuload.index.nal import CODECS, EntryPoint, Kind, entry_of, is_decodable_leading, may_bring_sets
from gpuload.index.parameter_sets import ParameterSets
from gpuload.index.reorder import read_ranges

_ALL_OF = 256
"""Up to this many keyframes all of a file's are read."""
_ALL_BETWEEN = 64
"""The same of other packets, for parameter sets in them."""
_LOOKED_AT = 16
"""Sampled where there are more: a wrong table is wrong throughout, and the decoder checks each keyframe."""
_HEAD_BYTES = 4096
"""Read of a packet: its first slice begins within them, or the container is believed."""
_STEADY, _SETTLED = 16, 64
"""Pictures: as many as a decoder holds back for their order, and some more."""
_FIRST_BYTES = 16
"""Read of a packet to see whether it begins with a slice."""


def real_keyframes(path: str, codec: str, configurations: Sequence[bytes], packets: Packets) -> npt.NDArray[np.bool_]:
    """``packets.is_key`` without those at which decoding cannot begin. All are looked at if a few raise doubts: one is
    wrong, or one brings parameter sets that the container does not have, as packets between them may, too.

    Raises:
        VideoError: the file cannot be read.
    """
    keys = np.flatnonzero(packets.is_key)
    if codec not in (*CODECS, *frame_headers.CODECS) or not len(keys):
        return packets.is_key
    half = _LOOKED_AT // 2
    few = np.unique(np.concatenate([keys[:half], keys[np.linspace(0, len(keys) - 1, half).astype(np.int64)]]))
    looked = keys if len(keys) <= _ALL_OF else few
    heads = _heads(path, packets, looked)

    def points() -> dict[int, EntryPoint]:
        return {number: point_of(codec, configurations[packets.entry[number]], head) for number, head in heads.items()}

    found = points()
    between = _bringers(path, codec, configurations, packets) if codec in CODECS else {}
    changes = bool(between) or any(point.sets for point in found.values())
    if (changes or false_keyframes(_kinds(found), packets.is_key)) and len(looked) < len(keys):
        heads = _heads(path, packets, keys)
        found = points()
    is_key = packets.is_key.copy()
    is_key[false_keyframes(_kinds(found), packets.is_key)] = False
    if changes or any(point.sets for point in found.values()):
        in_order = dict(sorted({**heads, **between}.items()))
        without = _without_sets(codec, configurations, packets, in_order)
        is_key[[number for number in without if number in heads]] = False
    return is_key


def point_of(codec: str, extradata: bytes, packet: bytes | memoryview) -> EntryPoint:
    """What a packet of a codec that tells says of itself."""
    if codec in CODECS:
        return entry_of(codec, extradata, packet)
    return EntryPoint(frame_headers.frame_kind(codec, packet), ())


def decodable_leading(
    path: str, codec: str, configurations: Sequence[bytes], packets: Packets, times: npt.NDArray[np.int64]
) -> list[int]:
    """Packets of the first GOP that are shown before its keyframe and can be decoded all the same.

    Raises:
        VideoError: the file cannot be read.
    """
    keys = np.flatnonzero(packets.is_key)
    if codec != "hevc" or not len(keys):
        return []
    first, last = int(keys[0]), int(keys[1]) if len(keys) > 1 else len(packets.pos)
    leading = first + np.flatnonzero(times[first:last] < times[first])
    heads = _heads(path, packets, leading)
    return [n for n, head in heads.items() if is_decodable_leading(codec, configurations[packets.entry[n]], head)]


def hidden_at_start(path: str) -> list[int]:
    """Of the first packets of an H.264 file that begins at no usual access point: those whose pictures FFmpeg's decoder
    holds back, because they are not right yet.

    Raises:
        VideoError: FFmpeg cannot read the file.
    """
    shown: set[int] = set()
    try:
        with av.open(path) as container:
            stream = container.streams.best("video")
            assert isinstance(stream, VideoStream)
            context = stream.codec_context
            context.thread_count = 1
            number = 0
            for packet in container.demux(stream):
                if packet.size:
                    packet.pts = packet.dts = number
                    number += 1
                elif packet.dts is not None:
                    continue  # a packet of no bytes; the end has no time
                try:
                    shown.update(frame.pts or 0 for frame in context.decode(packet if packet.size else None))
                except av.InvalidDataError:
                    continue
                if len(shown) > _SETTLED or not packet.size:
                    break
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: FFmpeg cannot read it: {error}") from error
    # Behind so many pictures without a gap, another one that is missing is damaged.
    settled = next((n for n in range(number) if shown.issuperset(range(n, min(n + _STEADY, number)))), 0)
    return [n for n in range(settled) if n not in shown]


def _bringers(path: str, codec: str, configurations: Sequence[bytes], packets: Packets) -> dict[int, bytes]:
    """Heads of packets that are no keyframes and bring parameter sets which the container does not have."""
    others = np.flatnonzero(~packets.is_key)
    few = (
        others if len(others) <= _ALL_BETWEEN else others[np.linspace(0, len(others) - 1, _LOOKED_AT).astype(np.int64)]
    )

    def bringing(numbers: npt.NDArray[np.int64]) -> dict[int, bytes]:
        first = _heads(path, packets, numbers, size=_FIRST_BYTES)
        which = [n for n, head in first.items() if may_bring_sets(codec, configurations[packets.entry[n]], head)]
        heads = _heads(path, packets, np.array(which, np.int64))
        return {n: head for n, head in heads.items() if entry_of(codec, configurations[packets.entry[n]], head).sets}

    found = bringing(few)
    return bringing(others) if found and len(few) < len(others) else found


def _heads(path: str, packets: Packets, numbers: npt.NDArray[np.int64], *, size: int = _HEAD_BYTES) -> dict[int, bytes]:
    if not len(numbers):
        return {}
    sizes = np.minimum(packets.size[numbers], size).tolist()
    heads = read_ranges(path, zip(packets.pos[numbers].tolist(), sizes, strict=True))
    return dict(zip(numbers.tolist(), heads, strict=True))


def _kinds(points: Mapping[int, EntryPoint]) -> dict[int, Kind]:
    return {number: point.kind for number, point in points.items()}


def _without_sets(
    codec: str, configurations: Sequence[bytes], packets: Packets, heads: Mapping[int, bytes]
) -> Iterator[int]:
    """Packets that rely on parameter sets of packets before them; ``heads``: of all keyframes, and of others that bring
    any, in order."""
    sets, entry = None, -1
    for number, head in heads.items():
        if sets is None or packets.entry[number] != entry:
            entry = int(packets.entry[number])
            sets = ParameterSets(codec, configurations[entry])
        if sets.misses(head):
            yield number


def false_keyframes(kinds: Mapping[int, Kind], is_key: npt.NDArray[np.bool_]) -> list[int]:
    """Numbers of the packets among ``kinds`` that no decoder can begin with.

    A picture that refers to nothing but has no mark of a random access point can be decoded alone: it stays one
    where the next packet is a keyframe again, as in videos of nothing else. A file's first keyframe stays: whoever
    decodes the file from its beginning begins there too.
    """
    first = int(is_key.argmax())
    false = [n for n, kind in kinds.items() if kind in ("gradual", "none") and n != first]
    real = is_key.copy()
    real[false] = False
    alone = np.append(real[1:], True)
    return false + [n for n, kind in kinds.items() if kind == "intra" and not alone[n] and n != first]
