"""Frames in the calling thread: for ``dataset[i]``, ``Video.frames`` and tests. No threads, no helper processes."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from gpuload.decode.base import Run, Stream
from gpuload.decode.pyav import PyavDecoder
from gpuload.device.swscale import SwscaleConverter
from gpuload.errors import DecodeError
from gpuload.index.video import DISCARD, VideoIndex
from gpuload.store.local import read_range
from gpuload.store.packets import byte_range, cut, demux_packets
from gpuload.transform import slot_form


class DirectReader:
    """Exact frames of one file a call, each GOP decoded once per call. Not thread-safe; make one per process."""

    def __init__(self) -> None:
        self._decoder = PyavDecoder()
        self._converter = SwscaleConverter()
        self.frames_decoded = 0

    def read(
        self,
        video: VideoIndex,
        frames: npt.NDArray[np.integer],
        out: npt.NDArray[np.generic],
        lut: npt.NDArray[np.float32] | None = None,
    ) -> None:
        """Fills ``out[i]``, uint8 or float32 ``[n, C, H, W]``, with frame ``frames[i]`` of the file; repeats are fine.

        Raises:
            DecodeError: a picture is damaged. VideoError: the file cannot be read.
        """
        packets = video.frame_packet[frames].astype(np.int64)
        starts = video.frame_start[frames].astype(np.int64)
        stream = stream_of(video)
        channels, height, width = out.shape[1:]
        form = slot_form(
            None, key=video.path, channels=channels, height=height, width=width, dtype=str(out.dtype), depth=lut
        )
        for first, chosen in groups(starts):
            numbers = packets[chosen]
            last = int(numbers.max())
            run = Run(
                first,
                read_packets(video, first, last),
                entries(video, first, last),
                frozenset(numbers.tolist()),
                leading=leading_packets(video, first, last),
            )
            self.frames_decoded += last - first + 1
            for number, picture in self._decoder.decode(stream, run):
                slots = chosen[numbers == number]
                try:
                    self._converter.convert(picture, out[slots[0]], video.rotation, form)
                except DecodeError as error:
                    raise DecodeError(f"{video.path}: {error}") from error
                for slot in slots[1:]:
                    out[slot] = out[slots[0]]

    def close(self) -> None:
        """Frees the codec sessions; a later ``read`` makes new ones."""
        self._decoder.close()


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


def read_packets(video: VideoIndex, first: int, last: int) -> list[memoryview]:
    """Packets ``first .. last`` of a local file."""
    if not video.contiguous:
        return demux_packets(video, first, last)
    start, stop = byte_range(video, first, last)
    return cut(video, first, last, read_range(video.path, start, stop), start)


def groups(starts: npt.NDArray[np.int64]) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """``(start, indices of the frames that start there)``, in file order."""
    order = np.argsort(starts, kind="stable")
    if not len(order):
        return
    edges = np.flatnonzero(np.diff(starts[order])) + 1
    for chosen in np.split(order, edges):
        yield int(starts[chosen[0]]), chosen
