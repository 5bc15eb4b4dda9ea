"""First bits of AV1, VP9 and VP8 packets: whether decoding can begin there."""

from gpuload.index.bits import Bits
from gpuload.index.nal import Kind

CODECS = frozenset({"av1", "vp9", "vp8"})
_FRAMES = (3, 6)
"""OBU_FRAME_HEADER and OBU_FRAME (AV1 6.2.2)."""


def frame_kind(codec: str, packet: bytes | memoryview) -> Kind:
    """``clean`` of a key frame, ``none`` of another, ``unknown`` of what cannot be read. Never raises.

    ``codec`` is one of ``CODECS``.
    """
    try:
        is_key = {"av1": _is_av1_key, "vp9": _is_vp9_key, "vp8": _is_vp8_key}[codec](bytes(packet))
    except (EOFError, ValueError, IndexError):
        return "unknown"
    return "unknown" if is_key is None else "clean" if is_key else "none"


def _is_av1_key(data: bytes) -> bool | None:
    """By the first frame's header (AV1 5.3.2, 5.9.2); None: there is none."""
    offset = 0
    while offset < len(data):
        header, offset = data[offset], offset + 1
        offset += header >> 2 & 1  # obu_extension_flag
        size = len(data) - offset
        if header >> 1 & 1:  # obu_has_size_field
            size, offset = _leb128(data, offset)
        if header >> 3 & 15 in _FRAMES:
            bits = Bits(data[offset : offset + 1])
            shows_another = bits.u(1)  # show_existing_frame
            return not shows_another and bits.u(2) == 0
        offset += size
    return None


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
    if bits.u(2) != 2:  # frame_marker
        raise ValueError("no VP9 frame")
    profile = bits.u(1) | bits.u(1) << 1
    if profile == 3:
        bits.u(1)
    shows_another = bits.u(1)  # show_existing_frame
    return not shows_another and bits.u(1) == 0


def _is_vp8_key(data: bytes) -> bool:
    """By the frame tag (RFC 6386 9.1)."""
    return data[0] & 1 == 0
