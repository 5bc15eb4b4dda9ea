"""Whether pictures come in the order of their packets, where the container's times say that they do."""

import os
from collections.abc import Iterable

import av
from av.error import FFmpegError

from gpuload.errors import VideoError
from gpuload.index.packet import padded_packet

LOOKED_AT = 24
"""Packets decoded, of a stream whose parameter sets allow another order: B-frames come sooner if there are any."""


def is_reordered(codec: str, extradata: bytes, packets: Iterable[bytes]) -> bool:
    """Whether an H.264 or HEVC stream shows its first pictures in another order than that of its packets.

    One packet is decoded where the stream says that nothing is reordered.
    """
    context = av.CodecContext.create(codec, "r")
    assert isinstance(context, av.VideoCodecContext)
    context.extradata = extradata or None
    context.thread_count = 1
    context.options = {
        "strict": "1"
    }  # where H.264 does not say by how much it reorders, its level says by how much at most
    shown: list[int] = []
    try:
        for number, data in enumerate(packets):
            frames = context.decode(padded_packet(data, number))
            shown += [frame.pts for frame in frames if frame.pts is not None]
            if not context.has_b_frames:
                return False
        shown += [frame.pts for frame in context.decode(None) if frame.pts is not None]
    except FFmpegError:
        pass  # damaged: whoever wants a picture of it is told so
    return shown != sorted(shown)


def read_ranges(path: str, ranges: Iterable[tuple[int, int]]) -> Iterable[bytes]:
    """Bytes ``(position, size)`` of a file, one after the other.

    Raises:
        VideoError: it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for position, size in ranges:
                yield os.pread(descriptor, size, position)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise VideoError(f"{path}: cannot be read: {error.strerror or error}") from error
