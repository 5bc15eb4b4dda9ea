"""CPU decoding through PyAV: packets to a codec session that outlives its runs."""

from collections import OrderedDict
from collections.abc import Iterator

import av
from av.error import FFmpegError
from av.video.frame import PictureType

from gpuload.decode.base import Run, Stream, failed
from gpuload.index.video import Color

MAX_SESSIONS = 8
"""Codec sessions kept; a dataset rarely has more kinds of streams, and a session holds a few MB of pictures."""

DECODERS = {"av1": "libdav1d"}  # FFmpeg's own `av1` decodes on hardware only
MISS_REFERENCES = frozenset({"h264", "hevc", "vvc", "av1", "vp8", "vp9"})
"""Codecs whose decoders refuse a picture without its references; others (MPEG-4) predict from grey and say nothing."""


class PyavDecoder:
    """Decodes runs with one single-threaded session per codec configuration. Not thread-safe.

    Packets carry their own number as pts, so a picture names the packet that it came from whatever the container's
    timestamps say. Sessions run with one thread each: parallelism comes from independent runs.
    """

    def __init__(self) -> None:
        self._sessions: OrderedDict[tuple[str, bytes, Color], av.VideoCodecContext] = OrderedDict()

    def decode(self, stream: Stream, run: Run) -> Iterator[tuple[int, av.VideoFrame]]:
        """See ``Decoder.decode``."""
        entry = run.entries[0] if run.entries else 0
        session = self._session(stream, entry, run.first)
        missing = set(run.wanted)
        last = max(missing)
        number = run.first
        doubtful = stream.codec not in MISS_REFERENCES
        try:
            for number, data in enumerate(run.packets, run.first):
                if run.entries and run.entries[number - run.first] != entry:
                    # A new sample description is a new coded sequence: finish the old session before the new one.
                    yield from self._shown(stream, run, session.decode(None), missing)
                    session.flush_buffers()
                    entry = run.entries[number - run.first]
                    session = self._session(stream, entry, number)
                packet = av.Packet(data)  # type: ignore[arg-type]  # takes any buffer; its stub says bytes
                packet.pts = packet.dts = number
                for frame in session.decode(packet):  # as _shown does, without a generator a packet
                    shown = frame.pts
                    if shown not in missing or frame.is_corrupt or doubtful:
                        yield from self._shown(stream, run, [frame], missing)
                    else:
                        missing.discard(shown)
                        yield shown, frame
                if number >= last or not missing:
                    break
            if missing:
                yield from self._shown(stream, run, session.decode(None), missing)
        except FFmpegError as error:
            raise failed(stream, number, f"the decoder refused it ({error})") from error
        finally:
            session.flush_buffers()
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

    def _session(self, stream: Stream, entry: int, packet: int) -> "av.VideoCodecContext":
        extradata = stream.extradata[entry] if stream.extradata else b""
        key = (stream.codec, extradata, stream.color)
        if key not in self._sessions:
            try:
                session = av.CodecContext.create(DECODERS.get(stream.codec, stream.codec), "r")
                assert isinstance(session, av.VideoCodecContext)
                session.color_primaries, session.color_trc = stream.color.primaries, stream.color.transfer
                session.colorspace, session.color_range = stream.color.matrix, stream.color.range
                session.extradata = extradata or None
                session.thread_count = 1
                # Without it FFmpeg paints over damaged blocks and hands the result out as a good picture.
                session.options = {"err_detect": "explode"}
                session.open(strict=False)
            except (FFmpegError, ValueError) as error:
                raise failed(stream, packet, f"no usable decoder ({error}); `gpuload doctor` lists codecs") from error
            while len(self._sessions) >= MAX_SESSIONS:
                self._sessions.popitem(last=False)
            self._sessions[key] = session
        self._sessions.move_to_end(key)
        return self._sessions[key]
