"""CPU decoding through PyAV: packets to a codec session that outlives its runs."""

import re
from collections import OrderedDict
from collections.abc import Iterator

import av
from av.error import FFmpegError
from av.video.frame import PictureType

from gpuload.decode.base import Run, Stream, entry_point, failed
from gpuload.decode.session import ENTERED, HARMLESS, MISS_REFERENCES, Session, open_session
from gpuload.errors import DecodeError
from gpuload.index.nal import CODECS, entry_of, may_bring_sets
from gpuload.index.video import Color

MAX_SESSIONS = 8
"""Codec sessions kept; a dataset rarely has more kinds of streams, and a session holds a few MB of pictures."""

Key = tuple[str, bytes, Color, re.Pattern[str] | None]
Sets = tuple[bytes, ...]


class PyavDecoder:
    """Decodes runs with one single-threaded session per codec configuration. Not thread-safe.

    Packets carry their own number as pts, so a picture names the packet that it came from whatever the container's
    timestamps say. Sessions run with one thread each: parallelism comes from independent runs.
    """

    def __init__(self) -> None:
        self._sessions: OrderedDict[Key, Session] = OrderedDict()
        self._number = 0
        """Packet that was fed last."""

    def decode(self, stream: Stream, run: Run) -> Iterator[tuple[int, av.VideoFrame]]:
        """See ``Decoder.decode``."""
        point = entry_point(stream, run)
        missing, sets = set(run.wanted), point.sets if point is not None else ()
        entered = stream.codec == "h264" and point is not None and point.kind == "open"
        refused: DecodeError | None = None
        if not entered:
            try:
                yield from self._decode(stream, run, missing, sets, None)
                return
            except FFmpegError as error:
                refused = failed(stream, self._number, f"the decoder refused it ({error})")
                if stream.codec not in CODECS:
                    raise refused from error
        # It stops at what a picture does not need, and at references that an open GOP gives up without having them.
        try:
            yield from self._decode(stream, run, missing, sets, ENTERED if entered else HARMLESS, refused)
        except FFmpegError as error:
            raise failed(stream, self._number, f"the decoder refused it ({error})") from error

    def _decode(
        self,
        stream: Stream,
        run: Run,
        missing: set[int],
        sets: Sets,
        harmless: re.Pattern[str] | None,
        refused: DecodeError | None = None,
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yields what is still missing. ``sets``: the first packet's; ``harmless``: complaints to pass over, None where
        the decoder is to stop at any; ``refused``: why it did stop, which one of them must explain."""
        entry = run.entries[0] if run.entries else 0
        extradata = stream.extradata[entry] if stream.extradata else b""
        kept = self._session(stream, entry, run.first, sets, harmless)
        last, latest = max(missing), run.first - 1
        doubtful = stream.codec not in MISS_REFERENCES
        brings_sets = stream.codec in CODECS
        stopped, self._number = self._number, run.first
        try:
            for index, data in enumerate(run.packets):
                if 0 < index <= run.leading or not len(data):
                    continue
                number = self._number = run.first + index
                if run.entries and run.entries[index] != entry:
                    # A new sample description is a new coded sequence: finish the old session before the new one.
                    yield from self._shown(stream, run, kept.fed(stream, number, None), missing)
                    kept.context.flush_buffers()
                    entry = run.entries[index]
                    extradata = stream.extradata[entry]
                    sets = entry_of(stream.codec, extradata, data).sets if brings_sets else ()
                    kept = self._session(stream, entry, number, sets, harmless)
                elif index and brings_sets and may_bring_sets(stream.codec, extradata, data):
                    kept.sets = entry_of(stream.codec, extradata, data).sets or kept.sets
                packet = av.Packet(data)  # type: ignore[arg-type]  # takes any buffer; its stub says bytes
                packet.pts = packet.dts = number
                frames = kept.fed(stream, number, packet)
                if refused is not None and number == stopped and not kept.has_complained:
                    raise refused
                for frame in frames:  # as _shown does, without a generator a packet
                    shown = frame.pts
                    if stream.in_order:
                        latest = _next(stream, latest, shown)
                    if shown not in missing or frame.is_corrupt or doubtful:
                        yield from self._shown(stream, run, [frame], missing)
                    else:
                        missing.discard(shown)
                        yield shown, frame
                if number >= last or not missing:
                    break
            if missing:
                rest = kept.fed(stream, self._number, None)
                if stream.in_order:
                    for frame in rest:
                        latest = _next(stream, latest, frame.pts)
                yield from self._shown(stream, run, rest, missing)
        finally:
            kept.context.flush_buffers()
        if missing:
            raise failed(stream, min(missing), "no picture came out of it")

    def close(self) -> None:
        """Drops all sessions; a later ``decode`` makes new ones."""
        self._sessions.clear()

    def _shown(
        self, stream: Stream, run: Run, frames: "list[av.VideoFrame]", missing: set[int]
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        for frame in frames:
            number = frame.pts
            if number == run.first and frame.pict_type != PictureType.I and stream.codec not in MISS_REFERENCES:
                raise failed(stream, number, "the file calls it a keyframe, but it is none")
            if number is None or number not in missing:
                continue
            if frame.is_corrupt:
                raise failed(stream, number, "the picture is damaged")
            missing.discard(number)
            yield number, frame

    def _session(
        self, stream: Stream, entry: int, packet: int, sets: Sets, harmless: re.Pattern[str] | None
    ) -> Session:
        extradata = stream.extradata[entry] if stream.extradata else b""
        key = (stream.codec, extradata, stream.color, harmless)
        kept = self._sessions.get(key)
        if kept is None or (kept.sets and kept.sets != sets):  # what packets brought would stay for others
            kept = self._sessions[key] = open_session(stream, extradata, packet, harmless)
            while len(self._sessions) > MAX_SESSIONS:
                self._sessions.popitem(last=False)
        kept.sets = sets
        self._sessions.move_to_end(key)
        return kept


def _next(stream: Stream, latest: int, shown: int | None) -> int:
    """Where the container's times say that nothing is reordered, each packet's picture follows the one before."""
    if shown is None or shown == latest + 1 or stream.codec not in CODECS:
        return latest if shown is None else shown
    raise failed(stream, shown, "pictures come in another order than the container's times say (no table 'ctts'?)")
