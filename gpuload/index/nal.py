"""NAL units of H.264 and HEVC packets: whether decoding can begin there, and which parameter sets they bring."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from gpuload.index.bits import Bits

CODECS = frozenset({"h264", "hevc"})
START_CODES = (b"\0\0\1", b"\0\0\0\1")
"""What a byte stream (annex B), instead of a configuration record, begins with."""
_RECOVERY_POINT = 6
"""SEI payload type (ITU-T H.264 D.1.8)."""
_H264_SETS, _HEVC_SETS = frozenset({7, 8, 13, 15}), frozenset({32, 33, 34})
_H264_SEI, _H264_IDR = 6, 5
_IRAP, _CRA, _RADL = range(16, 24), 21, (6, 7)

Kind = Literal["clean", "open", "gradual", "intra", "none", "unknown"]
"""Of a packet that a container calls a keyframe. ``clean``: nothing behind it refers to what came before. ``open``: so
it is for what is shown after it. ``gradual``: pictures are right only after some more. ``intra``: it refers to nothing,
but what follows may. ``none``: it may refer to others itself."""


HELD_BACK = frozenset({"gradual", "none", "intra"})
"""Kinds of an H.264 file's first packet with which FFmpeg's decoder may not show what comes first."""


class EntryPoint(NamedTuple):
    """What a packet's first NAL units say, up to its first slice."""

    kind: Kind
    sets: tuple[bytes, ...]
    """Parameter sets in front of it that the container does not have."""


def entry_of(codec: str, extradata: bytes, packet: bytes | memoryview) -> EntryPoint:
    """``codec`` is one of ``CODECS``. Never raises: of a packet without a slice nothing is known."""
    sets: list[bytes] = []
    recovery: int | None = None
    for unit in units_of(codec, extradata, packet):
        if len(unit) < 2:
            continue
        if codec == "hevc":
            number = unit[0] >> 1 & 63
            if number < 32:
                return EntryPoint("open" if number == _CRA else "clean" if number in _IRAP else "none", tuple(sets))
            if number in _HEVC_SETS and bytes(unit) not in extradata:
                sets.append(bytes(unit))
            continue
        number = unit[0] & 31
        if number == _H264_IDR:
            return EntryPoint("clean", tuple(sets))
        if number < _H264_IDR and number:
            marked: Kind = "intra" if _is_intra(bytes(unit[1:16])) else "none"
            return EntryPoint(marked if recovery is None else "gradual" if recovery else "open", tuple(sets))
        if number in _H264_SETS:
            if bytes(unit) not in extradata:
                sets.append(bytes(unit))
        elif number == _H264_SEI and recovery is None:
            recovery = _recovery_frames(bytes(unit[1:]))
    return EntryPoint("unknown", tuple(sets))


def may_bring_sets(codec: str, extradata: bytes, packet: bytes | memoryview) -> bool:
    """Whether a packet begins with anything but a slice: cheap enough for every packet."""
    width = _size_bytes(codec, extradata, packet)
    if not width or len(packet) <= width:
        return True
    first = packet[width]
    return first >> 1 & 63 >= 32 if codec == "hevc" else first & 31 > _H264_IDR


def is_sliced(codec: str, extradata: bytes, packet: bytes | memoryview) -> bool:
    """Whether a packet holds more than one slice."""
    last = _H264_IDR if codec == "h264" else 31
    slices = 0
    for unit in units_of(codec, extradata, packet):
        if len(unit):
            number = unit[0] & 31 if codec == "h264" else unit[0] >> 1 & 63
            slices += number <= last and not (codec == "h264" and not number)
    return slices > 1


def is_decodable_leading(codec: str, extradata: bytes, packet: bytes | memoryview) -> bool:
    """Whether a picture that is shown before its keyframe refers to nothing before that (HEVC's RADL)."""
    if codec != "hevc":
        return False
    slices = (unit[0] >> 1 & 63 for unit in units_of(codec, extradata, packet) if len(unit))
    return next((number for number in slices if number < 32), 0) in _RADL


def is_reference(extradata: bytes, packet: bytes | memoryview) -> bool:
    """Whether other pictures may refer to that of an H.264 packet (``nal_ref_idc`` of its first slice)."""
    slices = (u for u in units_of("h264", extradata, packet) if len(u) and 1 <= u[0] & 31 <= _H264_IDR)
    first = next(slices, None)
    return first is None or first[0] >> 5 & 3 != 0


def _size_bytes(codec: str, extradata: bytes, packet: bytes | memoryview) -> int:
    """Bytes of the size in front of each unit (ISO/IEC 14496-15); 0: start codes part them (Annex B).

    Decided as FFmpeg's decoders do, which also look at packets (h264dec.c, hevcdec.c).
    """
    if codec == "hevc":
        sized = len(extradata) > 22 and (extradata[0] != 0 or extradata[1] != 0 or extradata[2] > 1)
        return (extradata[21] & 3) + 1 if sized else 0
    if len(extradata) < 7 or extradata[0] != 1:
        return 0
    width = (extradata[4] & 3) + 1
    starts = width == 4 and len(packet) > 8 and bytes(packet[:4]) == b"\0\0\0\1"
    return 0 if starts and int.from_bytes(packet[5:9], "big") > len(packet) else width


def units_of(codec: str, extradata: bytes, packet: bytes | memoryview) -> Iterator[bytes | memoryview]:
    """NAL units without what separates them: their sizes (ISO/IEC 14496-15), or start codes (Annex B)."""
    width, offset = _size_bytes(codec, extradata, packet), 0
    if not width:
        yield from (unit.rstrip(b"\0") for unit in bytes(packet).split(b"\0\0\1")[1:])
        return
    while offset + width < len(packet):
        begin = offset + width
        offset = begin + int.from_bytes(packet[offset:begin], "big")
        yield packet[begin:offset]


def _is_intra(header: bytes) -> bool:
    """Whether a slice header (ITU-T H.264 7.3.3) is of an I or SI slice."""
    bits = Bits(header.replace(b"\0\0\3", b"\0\0"))
    try:
        bits.ue()  # first_mb_in_slice
        return bits.ue() % 5 in (2, 4)
    except (EOFError, ValueError):
        return False


def _recovery_frames(payload: bytes) -> int | None:
    """``recovery_frame_cnt`` of an SEI unit (ITU-T H.264 7.3.2.3.1, D.1.8); None: it is another message, or damaged.

    At least 1 where pictures behind it are only about right (``exact_match_flag`` 0).
    """
    data, offset = payload.replace(b"\0\0\3", b"\0\0"), 0
    while offset + 2 < len(data):
        values = []
        for _ in range(2):  # type, then size
            value = 0
            while offset < len(data) - 1 and data[offset] == 255:
                value, offset = value + 255, offset + 1
            values.append(value + data[offset])
            offset += 1
            if offset >= len(data):
                return None
        kind, size = values
        if kind == _RECOVERY_POINT:
            try:
                bits = Bits(data[offset : offset + size])
                count = bits.ue()
                return count if bits.u(1) else max(count, 1)
            except (EOFError, ValueError):
                return None
        offset += size
    return None
