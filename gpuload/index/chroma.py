"""Where chroma samples lie, read from a codec's configuration: PyAV does not tell it."""

from gpuload.index.parameter_sets import configured_units, sps_payload
from gpuload.index.sps import h264_sps, hevc_sps

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
                return h264_sps(sps_payload(codec, configured_units(codec, extradata))).chroma_location
            case "hevc":
                return hevc_sps(sps_payload(codec, configured_units(codec, extradata))).chroma_location
            case "av1":
                return _av1_location(extradata)
            case "mjpeg" | "mpeg1video":  # by definition (FFmpeg's decoders say so of every picture)
                return 2
    except (EOFError, ValueError):  # truncated or damaged: whoever decodes it will say so
        pass
    return 0


def may_interlace(codec: str, extradata: bytes) -> bool:
    """Whether pictures may be interlaced: their chroma rows then belong to fields. Never raises."""
    if codec in ("h264", "hevc"):
        try:
            payload = sps_payload(codec, configured_units(codec, extradata))
            return (h264_sps(payload) if codec == "h264" else hevc_sps(payload)).may_interlace
        except (EOFError, ValueError):  # its sets are in the packets: nearly all such streams are progressive
            return False
    return codec in _INTERLACED


def _av1_location(extradata: bytes) -> int:
    """``chroma_sample_position`` of an ``av1C`` (AV1 Codec ISO Media File Format Binding 2.3.3)."""
    is_configuration = len(extradata) >= 4 and extradata[0] == 0x81  # marker bit and version 1; else bare OBUs
    return _AV1.get(extradata[2] & 3, 0) if is_configuration else 0
