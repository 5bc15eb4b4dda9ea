"""Where chroma samples lie, read from a codec's configuration: PyAV does not tell it."""

from collections.abc import Iterator

from gpuload.index.sps import h264_sps, hevc_location

_START_CODES = (b"\0\0\1", b"\0\0\0\1")
_H264_SPS, _HEVC_SPS = 7, 33
_AV1 = {1: 1, 2: 3}
_INTERLACED = frozenset({"mpeg2video", "mpeg4", "vc1"})
"""Codecs whose streams say picture by picture."""


def chroma_location(codec: str, extradata: bytes) -> int:
    """FFmpeg's AVChromaLocation: 1 left, 2 centre, 3 top left, 4 top, 5 bottom left, 6 bottom; 0: nothing is said,
    or the configuration is damaged.

    ``codec`` is FFmpeg's name. Parameter sets that are only in the packets are not looked for. Never raises.
    """
    try:
        match codec:
            case "h264":
                return h264_sps(_parameter_set(_h264_units(extradata), _H264_SPS)).chroma_location
            case "hevc":
                return hevc_location(_parameter_set(_hevc_units(extradata), _HEVC_SPS))
            case "av1":
                return _av1_location(extradata)
            case "mjpeg" | "mpeg1video":  # by definition (FFmpeg's decoders say so of every picture)
                return 2
    except (EOFError, ValueError):  # truncated or damaged: whoever decodes it will say so
        pass
    return 0


def may_interlace(codec: str, extradata: bytes) -> bool:
    """Whether pictures may be interlaced: their chroma rows then belong to fields. Never raises."""
    if codec == "h264":
        try:
            return h264_sps(_parameter_set(_h264_units(extradata), _H264_SPS)).may_interlace
        except (EOFError, ValueError):  # its sets are in the packets: nearly all such streams are progressive
            return False
    return codec in _INTERLACED


def _parameter_set(units: Iterator[bytes], kind: int) -> bytes:
    """Payload of the first NAL unit of a kind, without header and emulation prevention (H.264 7.3.1, H.265 7.3.1.1).

    Raises:
        EOFError: there is none.
    """
    for unit in units:
        if kind == _H264_SPS and unit and unit[0] & 31 == kind:
            return unit[1:].replace(b"\0\0\3", b"\0\0")
        # nuh_layer_id 0: further layers (depth, a second view) have parameter sets of another syntax
        if kind == _HEVC_SPS and len(unit) > 1 and unit[0] == kind << 1 and unit[1] >> 3 == 0:
            return unit[2:].replace(b"\0\0\3", b"\0\0")
    raise EOFError


def _h264_units(extradata: bytes) -> Iterator[bytes]:
    """Parameter sets of an ``avcC`` (ISO/IEC 14496-15 5.3.3.1) or a byte stream."""
    if extradata.startswith(_START_CODES):
        return _byte_stream_units(extradata)
    count = extradata[5] & 31 if len(extradata) > 5 else 0
    return _sized_units(extradata, 6, count)


def _hevc_units(extradata: bytes) -> Iterator[bytes]:
    """Parameter sets of an ``hvcC`` (ISO/IEC 14496-15 8.3.3.1) or a byte stream."""
    if extradata.startswith(_START_CODES):
        yield from _byte_stream_units(extradata)
        return
    offset = 23
    for _ in range(extradata[22] if len(extradata) > 22 else 0):
        count, offset = int.from_bytes(extradata[offset + 1 : offset + 3], "big"), offset + 3
        for unit in _sized_units(extradata, offset, count):
            yield unit
            offset += 2 + len(unit)


def _sized_units(data: bytes, offset: int, count: int) -> Iterator[bytes]:
    """``count`` NAL units, each behind its size in 16 bits; fewer if the data ends."""
    for _ in range(count):
        if offset + 2 > len(data):
            return
        start, offset = offset + 2, offset + 2 + int.from_bytes(data[offset : offset + 2], "big")
        yield data[start:offset]


def _byte_stream_units(data: bytes) -> Iterator[bytes]:
    """ITU-T H.264 and H.265 annex B; zero bytes may follow a unit."""
    yield from data.split(b"\0\0\1")[1:]


def _av1_location(extradata: bytes) -> int:
    """``chroma_sample_position`` of an ``av1C`` (AV1 Codec ISO Media File Format Binding 2.3.3)."""
    is_configuration = len(extradata) >= 4 and extradata[0] == 0x81  # marker bit and version 1; else bare OBUs
    return _AV1.get(extradata[2] & 3, 0) if is_configuration else 0
