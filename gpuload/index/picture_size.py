"""The size of pictures in the codec's own headers, which decoders go by; a container may state another."""

from gpuload.index import frame_headers
from gpuload.index.nal import units_of
from gpuload.index.parameter_sets import configured_units, sps_payload
from gpuload.index.sps import h264_sps, hevc_sps

HEAD_BYTES = 4096
"""Of the first packet: headers are in front."""


def coded_size(codec: str, extradata: bytes, packet: bytes | memoryview) -> tuple[int, int] | None:
    """Width and height of the first picture; None: its headers do not tell, or the codec is not known here.

    ``packet``: the first one, or its first ``HEAD_BYTES``. Never raises.
    """
    try:
        match codec:
            case "h264" | "hevc":
                return _by_parameter_set(codec, extradata, packet)
            case "av1":
                units = extradata[4:] if extradata[:1] == b"\x81" else extradata  # behind the head of an av1C
                return frame_headers.frame_size(codec, bytes(packet) + units)
            case "vp9" | "vp8":
                return frame_headers.frame_size(codec, packet)
    except (EOFError, IndexError, ValueError):  # damaged, or no keyframe
        pass
    return None


def _by_parameter_set(codec: str, extradata: bytes, packet: bytes | memoryview) -> tuple[int, int]:
    try:
        payload = sps_payload(codec, units_of(codec, extradata, packet))
    except EOFError:  # as in most MP4 files: the container has it
        payload = sps_payload(codec, configured_units(codec, extradata))
    sps = h264_sps(payload) if codec == "h264" else hevc_sps(payload)
    return sps.width, sps.height
