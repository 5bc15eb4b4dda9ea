"""First bits of AV1, VP9, VP8 and MPEG-4 packets: whether decoding can begin there, and the size of pictures."""

from collections.abc import Iterator

from gpuload.index.bits import Bits
from gpuload.index.nal import Kind

CODECS = frozenset({"av1", "vp9", "vp8", "mpeg4"})
_VOP = b"\0\0\1\xb6"
"""``vop_start_code`` of MPEG-4 Visual (ISO/IEC 14496-2 6.2.5)."""
_SEQUENCE_HEADER = 1
_FRAMES = (3, 6)
"""OBU_FRAME_HEADER and OBU_FRAME (AV1 6.2.2)."""
_VP9_SYNC, _VP8_SYNC = 0x498342, b"\x9d\x01\x2a"
_VP9_RGB = 7
"""``color_space`` CS_RGB."""


def frame_kind(codec: str, packet: bytes | memoryview) -> Kind:
    """``clean`` of a key frame, ``none`` of another, ``unknown`` of what cannot be read. Never raises.

    ``codec`` is one of ``CODECS``.
    """
    try:
        is_key = _IS_KEY[codec](bytes(packet))
    except (EOFError, ValueError, IndexError):
        return "unknown"
    return "unknown" if is_key is None else "clean" if is_key else "none"


def frame_size(codec: str, packet: bytes | memoryview) -> tuple[int, int]:
    """Width and height of the pictures that begin at a key frame.

    Raises:
        EOFError, IndexError, ValueError: the packet, or its part that is given, does not tell.
    """
    return {"av1": _av1_size, "vp9": _vp9_size, "vp8": _vp8_size}[codec](bytes(packet))


def _is_av1_key(data: bytes) -> bool | None:
    """By the first frame's header (AV1 5.3.2, 5.9.2), and by the sequence header that must come before it (7.5); None:
    there is no frame."""
    has_header = False
    for kind, body in _av1_units(data):
        has_header |= kind == _SEQUENCE_HEADER
        if kind in _FRAMES:
            bits = Bits(body[:1])
            shows_another = bits.u(1)  # show_existing_frame
            return not shows_another and bits.u(2) == 0 and has_header
    return None


def _av1_size(data: bytes) -> tuple[int, int]:
    """The largest that its sequence header allows (AV1 5.5), which frames have unless they say otherwise."""
    bits = Bits(next((body for kind, body in _av1_units(data) if kind == _SEQUENCE_HEADER), b""))
    bits.u(3 + 1)  # seq_profile, still_picture
    if bits.u(1):  # reduced_still_picture_header
        bits.u(5)
    else:
        _skip_av1_operating_points(bits)
    width_bits, height_bits = bits.u(4) + 1, bits.u(4) + 1
    return bits.u(width_bits) + 1, bits.u(height_bits) + 1


def _skip_av1_operating_points(bits: Bits) -> None:
    """From ``timing_info_present_flag`` to the last operating point (AV1 5.5.1, 5.5.3 to 5.5.5)."""
    delay_bits = 0
    if bits.u(1):
        bits.u(32 + 32)
        if bits.u(1):  # equal_picture_interval
            bits.ue()  # uvlc() is coded alike
        if bits.u(1):  # decoder_model_info_present_flag
            delay_bits = bits.u(5) + 1
            bits.u(32 + 5 + 5)
    has_delays = bits.u(1)  # initial_display_delay_present_flag
    for _ in range(bits.u(5) + 1):
        bits.u(12)
        if bits.u(5) > 7:  # seq_level_idx
            bits.u(1)
        if delay_bits and bits.u(1):
            bits.u(2 * delay_bits + 1)
        if has_delays and bits.u(1):
            bits.u(4)


def _av1_units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """``obu_type`` and payload of each OBU (AV1 5.3.1)."""
    offset = 0
    while offset < len(data):
        header, offset = data[offset], offset + 1
        offset += header >> 2 & 1  # obu_extension_flag
        size = len(data) - offset
        if header >> 1 & 1:  # obu_has_size_field
            size, offset = _leb128(data, offset)
        yield header >> 3 & 15, data[offset : offset + size]
        offset += size


def _leb128(data: bytes, offset: int) -> tuple[int, int]:
    """Value (AV1 4.10.5), and where it ends."""
    value = 0
    for number in range(8):
        byte = data[offset + number]
        value |= (byte & 127) << 7 * number
        if byte < 128:
            return value, offset + number + 1
    raise ValueError("a size of more than 8 bytes")


def _is_vp9_key(data: bytes) -> bool:
    """By the uncompressed header of the first frame (VP9 6.2)."""
    bits = Bits(data[:2])
    _vp9_profile(bits)
    shows_another = bits.u(1)  # show_existing_frame
    return not shows_another and bits.u(1) == 0


def _vp9_profile(bits: Bits) -> int:
    if bits.u(2) != 2:  # frame_marker
        raise ValueError("no VP9 frame")
    profile = bits.u(1) | bits.u(1) << 1
    bits.u(profile == 3)
    return profile


def _vp9_size(data: bytes) -> tuple[int, int]:
    """Of a key frame (VP9 6.2, 6.2.1 to 6.2.3)."""
    bits = Bits(data[:24])
    profile = _vp9_profile(bits)
    if bits.u(4) >> 2:  # show_existing_frame, frame_type, show_frame, error_resilient_mode
        raise ValueError("no key frame")
    if bits.u(24) != _VP9_SYNC:
        raise ValueError("no key frame of VP9")
    bits.u(profile >= 2)  # ten_or_twelve_bit
    if bits.u(3) == _VP9_RGB:
        bits.u(profile & 1)
    else:
        bits.u(1 + 3 * (profile & 1))  # color_range, subsampling and a reserved bit
    return bits.u(16) + 1, bits.u(16) + 1


def _is_vp8_key(data: bytes) -> bool:
    """By the frame tag (RFC 6386 9.1)."""
    return data[0] & 1 == 0


def _vp8_size(data: bytes) -> tuple[int, int]:
    """Of a key frame (RFC 6386 9.1)."""
    if data[0] & 1 or data[3:6] != _VP8_SYNC:
        raise ValueError("no key frame of VP8")
    return (data[6] | data[7] << 8) & 0x3FFF, (data[8] | data[9] << 8) & 0x3FFF


def _is_mpeg4_key(data: bytes) -> bool | None:
    """By ``vop_coding_type`` of the first picture (ISO/IEC 14496-2 6.3.5); None: there is none."""
    begin = data.find(_VOP)
    return None if begin < 0 else data[begin + 4] >> 6 == 0


_IS_KEY = {"av1": _is_av1_key, "vp9": _is_vp9_key, "vp8": _is_vp8_key, "mpeg4": _is_mpeg4_key}
