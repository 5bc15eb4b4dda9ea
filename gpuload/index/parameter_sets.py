"""Parameter sets that packets bring and later keyframes rely on: who begins at such a keyframe has never seen them."""

from collections.abc import Iterable, Iterator

from gpuload.index.bits import Bits
from gpuload.index.nal import START_CODES, units_of
from gpuload.index.sps import hevc_sps_id

_H264_SPS, _H264_PPS = 7, 8
_HEVC_VPS, _HEVC_SPS, _HEVC_PPS = 32, 33, 34
_H264, _HEVC = frozenset({_H264_SPS, _H264_PPS, 13, 15}), frozenset({_HEVC_VPS, _HEVC_SPS, _HEVC_PPS})

Key = tuple[int, int, int]
"""Kind of a set, layer, and its number: a later one with the same key replaces it."""


class ParameterSets:
    """Follows the sets of one stream, packet by packet in decode order, where they differ from the container's."""

    def __init__(self, codec: str, extradata: bytes) -> None:
        """``codec``: ``h264`` or ``hevc``."""
        self._codec, self._extradata = codec, extradata
        self._container = dict(self._keyed(configured_units(codec, extradata)))
        self._changed: set[Key] = set()

    def misses(self, packet: bytes | memoryview) -> bool:
        """Whether decoding that begins with this packet would lack parameter sets that were sent earlier."""
        brought = dict(self._keyed(units_of(self._codec, self._extradata, packet)))
        misses = not self._changed <= brought.keys()
        for key, unit in brought.items():
            if self._container.get(key) == unit:
                self._changed.discard(key)
            else:
                self._changed.add(key)
        return misses

    def _keyed(self, units: Iterator[bytes | memoryview]) -> Iterator[tuple[Key, bytes]]:
        for unit in units:
            if len(unit) > 2 and (key := _key_of(self._codec, unit)) is not None:
                yield key, bytes(unit)


def configured_units(codec: str, extradata: bytes) -> Iterator[bytes | memoryview]:
    """NAL units of an ``avcC`` or ``hvcC`` (ISO/IEC 14496-15 5.3.3.1, 8.3.3.1), or of a byte stream."""
    if extradata.startswith(START_CODES):
        yield from units_of(codec, b"", extradata)
        return
    offset = 5 if codec == "h264" else 23
    lists = 2 if codec == "h264" else extradata[22] if len(extradata) > 22 else 0
    for number in range(lists):
        if codec == "h264":  # the SPS with their count in 5 bits, then the PPS
            count = extradata[offset] & (31 if number == 0 else 255) if offset < len(extradata) else 0
            offset += 1
        else:
            count = int.from_bytes(extradata[offset + 1 : offset + 3], "big")
            offset += 3
        for _ in range(count):
            if offset + 2 > len(extradata):
                return
            begin = offset + 2
            offset = begin + int.from_bytes(extradata[offset:begin], "big")
            yield extradata[begin:offset]


def sps_payload(codec: str, units: Iterable[bytes | memoryview]) -> bytes:
    """Payload of the first sequence parameter set, without header and emulation prevention (H.264 7.3.1,
    H.265 7.3.1.1).

    Raises:
        EOFError: there is none.
    """
    for unit in map(bytes, units):
        if codec == "h264" and unit and unit[0] & 31 == _H264_SPS:
            return unit[1:].replace(b"\0\0\3", b"\0\0")
        # nuh_layer_id 0: further layers (depth, a second view) have parameter sets of another syntax
        if codec == "hevc" and len(unit) > 1 and unit[0] == _HEVC_SPS << 1 and unit[1] >> 3 == 0:
            return unit[2:].replace(b"\0\0\3", b"\0\0")
    raise EOFError


def _key_of(codec: str, unit: bytes | memoryview) -> Key | None:
    """None: it is no parameter set."""
    hevc = codec == "hevc"
    kind = unit[0] >> 1 & 63 if hevc else unit[0] & 31
    if kind not in (_HEVC if hevc else _H264):
        return None
    layer = (unit[0] & 1) << 5 | unit[1] >> 3 if hevc else 0
    payload = bytes(unit[2 if hevc else 1 :]).replace(b"\0\0\3", b"\0\0")
    bits = Bits(payload)
    try:
        if kind == _H264_SPS:
            bits.u(24)
            return kind, layer, bits.ue()
        if hevc and kind == _HEVC_SPS:
            return kind, layer, hevc_sps_id(payload) if layer == 0 else -1
        if kind == _HEVC_VPS:
            return kind, layer, bits.u(4)
        if kind in (_H264_PPS, _HEVC_PPS):
            return kind, layer, bits.ue()
    except (EOFError, ValueError):
        pass  # damaged: the decoder will say so
    return kind, layer, -1
