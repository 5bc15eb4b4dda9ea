"""Frames in the calling thread: for ``dataset[i]``, ``Video.frames`` and tests. No threads, no helper processes."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import av
import numpy as np
import numpy.typing as npt

from gpuload.decode.base import Run
from gpuload.decode.pyav import PyavDecoder
from gpuload.decode.runs import entries, leading_packets, stream_of
from gpuload.device.swscale import SwscaleConverter
from gpuload.errors import DecodeError
from gpuload.index.video import VideoIndex
from gpuload.store.local import read_range
from gpuload.store.packets import byte_range, cut, demux_packets
from gpuload.transform import SlotForm, slot_form


class DirectReader:
    """Exact frames of one file a call, each GOP decoded once per call. Not thread-safe; make one per process."""

    def __init__(self) -> None:
        self._decoder = PyavDecoder()
        self._converter = SwscaleConverter()

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
        form = _form_of(video, out, lut)
        for first, chosen in groups(video.frame_start[frames]):
            numbers = packets[chosen]
            for number, picture in self._pictures(video, first, numbers):
                slots = chosen[numbers == number]
                self._convert(video, picture, out[slots[0]], form)
                for slot in slots[1:]:
                    out[slot] = out[slots[0]]

    def play(self, video: VideoIndex) -> Iterator[npt.NDArray[np.uint8]]:
        """uint8 ``[3, H, W]`` of every frame in order, each keyframe window decoded once; each the caller's.

        Raises: as ``read``.
        """
        starts, packets = video.frame_start, _all_packets(video)
        edges = np.flatnonzero(np.diff(starts, prepend=-1))
        for begin, end in pairwise([*edges.tolist(), len(starts)]):
            for _, picture in self._pictures(video, int(starts[begin]), video.frame_packet[begin:end], packets):
                out = np.empty((3, *video.shown_size), np.uint8)
                self._convert(video, picture, out, _form_of(video, out[None]))
                yield out

    def windows(self, video: VideoIndex, *, part: int, parts: int) -> Iterator[tuple[int, int, DecodeError | None]]:
        """``(frames, frames lost, why)`` of every ``parts``-th keyframe window, as it is decoded; of a file that can be
        read from its beginning only, all are in part 0.

        Raises:
            VideoError: the file cannot be read.
        """
        if not video.contiguous:
            if part:
                return
            parts = 1
        packets = _all_packets(video)
        for first, chosen in list(groups(video.frame_start))[part::parts]:
            left, refused = len(chosen), None
            try:
                for _ in self._pictures(video, first, video.frame_packet[chosen], packets):
                    left -= 1
            except DecodeError as error:
                refused = error
            yield len(chosen), left, refused

    def _pictures(
        self,
        video: VideoIndex,
        first: int,
        numbers: npt.NDArray[np.integer],
        packets: Sequence[memoryview] | None = None,
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        last = int(numbers.max())
        run = Run(
            first,
            read_packets(video, first, last) if packets is None else packets[first : last + 1],
            entries(video, first, last),
            frozenset(numbers.tolist()),
            leading=leading_packets(video, first, last),
        )
        return self._decoder.decode(stream_of(video), run)

    def _convert(self, video: VideoIndex, picture: av.VideoFrame, out: npt.NDArray[np.generic], form: SlotForm) -> None:
        try:
            self._converter.convert(picture, out, video.rotation, form)
        except DecodeError as error:
            raise DecodeError(f"{video.path}: {error}") from error

    def close(self) -> None:
        """Frees the codec sessions; a later ``read`` makes new ones."""
        self._decoder.close()


def _all_packets(video: VideoIndex) -> Sequence[memoryview] | None:
    """Of a file that can be read from its beginning only: every packet. None: they are read run by run."""
    return None if video.contiguous else demux_packets(video, 0, len(video.pos) - 1)


def read_packets(video: VideoIndex, first: int, last: int) -> list[memoryview]:
    """Packets ``first .. last`` of a local file."""
    if not video.contiguous:
        return demux_packets(video, first, last)
    start, stop = byte_range(video, first, last)
    return cut(video, first, last, read_range(video.path, start, stop), start)


def _form_of(video: VideoIndex, out: npt.NDArray[np.generic], lut: npt.NDArray[np.float32] | None = None) -> SlotForm:
    channels, height, width = out.shape[1:]
    return slot_form(
        None, key=video.path, channels=channels, height=height, width=width, dtype=str(out.dtype), depth=lut
    )


def groups(starts: npt.NDArray[np.integer]) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """``(start, indices of the frames that start there)``, in file order."""
    order = np.argsort(starts, kind="stable")
    if not len(order):
        return
    edges = np.flatnonzero(np.diff(starts[order])) + 1
    for chosen in np.split(order, edges):
        yield int(starts[chosen[0]]), chosen
