"""From a file's index to what a decoder is given: the stream, and what it must know of a run of packets."""

import numpy as np

from gpuload.decode.base import Stream
from gpuload.index.video import DISCARD, VideoIndex


def stream_of(video: VideoIndex) -> Stream:
    """What a decoder needs to know of a file."""
    return Stream(
        path=video.path,
        codec=video.codec,
        extradata=video.extradata,
        color=video.color,
        width=video.width,
        height=video.height,
        rotation=video.rotation,
        pixel_format=video.pixel_format,
        chroma_location=video.chroma_location,
        tag=video.tag,
        coded_bits=video.coded_bits,
        in_order=bool((np.diff(video.pts) > 0).all()),
    )


def entries(video: VideoIndex, first: int, last: int) -> tuple[int, ...]:
    """Sample descriptions of packets ``first .. last``; empty where the file has only one."""
    return () if len(video.extradata) < 2 else tuple(video.entry[first : last + 1].tolist())


def leading_packets(video: VideoIndex, first: int, last: int) -> int:
    """``Run.leading`` of packets ``first .. last`` of an H.264 file, of which no leading picture is wanted.

    Other codecs' decoders leave them out themselves.
    """
    if video.codec != "h264" or last == first or video.flags[first] & DISCARD:
        return 0
    behind = (video.pts[first + 1 : last + 1] >= video.pts[first]) | (video.flags[first + 1 : last + 1] & DISCARD != 0)
    return int(behind.argmax()) if behind.any() else last - first
