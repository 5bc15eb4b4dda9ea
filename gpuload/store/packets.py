"""Packets of a file as bytes: by byte range where the index knows it, else by demuxing."""

from operator import add

import av

from gpuload.errors import VideoError
from gpuload.index.video import VideoIndex


def byte_range(video: VideoIndex, first: int, last: int) -> tuple[int, int]:
    """Smallest byte range that holds packets ``first .. last`` (inclusive)."""
    # As lists: most runs are short, and numpy takes 2 us for each look at one.
    pos: list[int] = video.pos[first : last + 1].tolist()
    return min(pos), max(map(add, pos, video.size[first : last + 1].tolist()))


def cut(video: VideoIndex, first: int, last: int, data: bytes | memoryview, start: int) -> list[memoryview]:
    """Packets ``first .. last`` out of ``data``, whose first byte is byte ``start`` of the file."""
    view = memoryview(data)
    begins = (video.pos[first : last + 1] - start).tolist()
    sizes = video.size[first : last + 1].tolist()
    return [view[b : b + n] for b, n in zip(begins, sizes, strict=True)]


def demux_packets(video: VideoIndex, first: int, last: int) -> list[memoryview]:
    """Packets ``first .. last`` of a file whose packets are not plain byte ranges, counted from its beginning.

    Exact and slow: such containers (TS, some MKV) have no table to jump by.

    Raises:
        VideoError: it cannot be read, or has fewer packets than its index.
    """
    out: list[memoryview] = []
    try:
        with av.open(video.path) as container:
            number = 0
            for packet in container.demux(container.streams[video.stream]):
                if not packet.size:
                    continue
                if number >= first:
                    out.append(memoryview(bytes(packet)))
                number += 1
                if number > last:
                    break
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{video.path}: cannot be read any more ({error}); is it still there?") from error
    if len(out) != last + 1 - first:
        raise VideoError(f"{video.path}: packet {first + len(out)} is missing: the file has changed; open it again")
    return out
