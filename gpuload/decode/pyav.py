"""CPU decoding through PyAV: packets to a codec session that outlives its runs."""

import re
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator

import av
from av.error import FFmpegError
from av.video.frame import PictureType

from gpuload.decode.base import Run, Stream, entry_point, failed
from gpuload.decode.session import ENTERED, HARMLESS, MISS_REFERENCES, Session, open_session, told_size
from gpuload.errors import DecodeError
from gpuload.index.nal import CODECS, HELD_BACK, entry_of, is_reference, is_sliced, may_bring_sets
from gpuload.index.packet import padded_packet
from gpuload.index.video import Color

MAX_SESSIONS = 8
"""Codec sessions kept; a dataset rarely has more kinds of streams, and a session holds a few MB of pictures."""

WHOLE = (PictureType.I, PictureType.NONE)
"""Kinds of a picture that refers to no other; decoders of codecs that have nothing else do not say."""

Key = tuple[str, str, int, bytes, Color, tuple[int, int], re.Pattern[str] | None]
Sets = tuple[bytes, ...]


class PyavDecoder:
    """Decodes runs with one single-threaded session per codec configuration. Not thread-safe.

    Packets carry their own number as pts, so a picture names the packet that it came from whatever the container's
    timestamps say. Sessions run with one thread each: parallelism comes from independent runs.
    """

    fell_back = False

    def __init__(self) -> None:
        self._sessions: OrderedDict[Key, Session] = OrderedDict()
        self._number = 0
        """Packet that was fed last."""
        self._unsure = 0
        """Packet up to which pictures that nobody wants may be damaged: the run did not begin with what they need."""

    def decode(self, stream: Stream, run: Run) -> Iterator[tuple[int, av.VideoFrame]]:
        """See ``Decoder.decode``."""
        point = entry_point(stream, run)
        missing, sets = set(run.wanted), point.sets if point is not None else ()
        entered = (
            stream.codec == "h264"
            and point is not None
            and (point.kind == "open" or (run.first == 0 and point.kind in HELD_BACK))
        )
        refused: DecodeError | None = None
        self._unsure = run.first + run.leading
        if point is not None and point.kind not in ("clean", "open"):
            self._unsure += len(run.packets)
        if not (entered and run.leading):
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
        last = max(missing)
        fed: deque[int] | None = deque() if stream.in_order and stream.codec in CODECS else None
        doubtful = stream.codec not in MISS_REFERENCES
        settling: Settling | None = None
        if not stream.in_order and stream.codec in CODECS and is_sliced(stream.codec, extradata, run.packets[0]):
            settling = Settling(lambda frame: self._spoils(frame, stream, run, missing))
        brings_sets = stream.codec in CODECS
        is_entering = not run.first
        shown: int | None = -1
        stopped, self._number = self._number, run.first
        try:
            for index, data in enumerate(run.packets):
                if not len(data):
                    continue
                number = self._number = run.first + index
                if 0 < index <= run.leading and harmless is ENTERED:
                    if is_reference(extradata, data):  # its place among the references counts, not what it shows
                        yield from self._shown(stream, run, kept.led(data, number), missing)
                    continue
                if fed is not None:
                    fed.append(number)
                if settling is not None:
                    settling.feed(number)
                if run.entries and run.entries[index] != entry:
                    # A new sample description is a new coded sequence: finish the old session before the new one.
                    rest = kept.fed(stream, number, None)
                    _check_order(stream, fed, rest)
                    if settling is not None:
                        rest = settling.settle(rest, is_end=True)
                        settling.feed(number)
                    yield from self._shown(stream, run, rest, missing)
                    kept.context.flush_buffers()
                    entry = run.entries[index]
                    extradata = stream.extradata[entry]
                    sets = entry_of(stream.codec, extradata, data).sets if brings_sets else ()
                    kept = self._session(stream, entry, number, sets, harmless)
                elif index and brings_sets and may_bring_sets(stream.codec, extradata, data):
                    kept.sets = tuple(dict.fromkeys((*kept.sets, *entry_of(stream.codec, extradata, data).sets)))
                packet = padded_packet(data, number)
                # PNG and its like add a picture to the one before unless they are told that it stands alone.
                packet.is_keyframe = not index
                frames = kept.fed(stream, number, packet)
                if frames and is_entering and fed is not None:
                    while len(fed) > 1 and fed[0] != frames[0].pts:
                        fed.popleft()  # a file that begins at no random access point: they were not right yet
                is_entering = is_entering and not frames
                if refused is not None and number == stopped and not kept.has_complained:
                    raise refused
                _check_order(stream, fed, frames)
                if settling is not None:
                    frames = settling.settle(frames)
                for frame in frames:  # as _shown does, without a generator a packet
                    if frame.pts == shown:
                        raise failed(stream, number, "two pictures came out of one packet; re-mux the file")
                    shown = frame.pts
                    if shown not in missing or frame.is_corrupt or doubtful:
                        yield from self._shown(stream, run, [frame], missing)
                    else:
                        missing.discard(shown)
                        yield shown, frame
                if number >= last or not missing:
                    break
            if missing:
                rest = kept.fed(stream, self._number, None)
                _check_order(stream, fed, rest)
                if settling is not None:
                    rest = settling.settle(rest, is_end=True)
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
            if number == run.first and frame.pict_type not in WHOLE and stream.codec not in MISS_REFERENCES:
                raise failed(stream, number, "the file calls it a keyframe, but it is none")
            if self._spoils(frame, stream, run, missing):
                raise failed(stream, number or run.first, "the picture is damaged")
            if number is None or number not in missing:
                continue
            missing.discard(number)
            yield number, frame

    def _spoils(self, frame: av.VideoFrame, stream: Stream, run: Run, missing: set[int]) -> bool:
        """Whether a picture is damaged, and wanted or one that others may refer to."""
        number = frame.pts
        if not frame.is_corrupt or number is None or number in missing:
            return frame.is_corrupt
        if number <= self._unsure:
            return False
        which = stream.extradata[run.entries[number - run.first] if run.entries else 0] if stream.extradata else b""
        return stream.codec != "h264" or is_reference(which, run.packets[number - run.first])

    def _session(
        self, stream: Stream, entry: int, packet: int, sets: Sets, harmless: re.Pattern[str] | None
    ) -> Session:
        extradata = stream.extradata[entry] if stream.extradata else b""
        key = (stream.codec, stream.tag, stream.coded_bits, extradata, stream.color, told_size(stream), harmless)
        kept = self._sessions.get(key)
        if kept is None or (kept.sets and kept.sets != sets):  # what packets brought would stay for others
            kept = self._sessions[key] = open_session(stream, extradata, packet, harmless)
            while len(self._sessions) > MAX_SESSIONS:
                self._sessions.popitem(last=False)
        kept.sets = sets
        self._sessions.move_to_end(key)
        return kept


class Settling:
    """Pictures in the order in which they are shown, each held until all that were fed before it have come out.

    Of a picture in several slices a lost one is painted over, and a mark on that picture alone tells. It may be shown
    after pictures that refer to it.
    """

    def __init__(self, spoils: Callable[[av.VideoFrame], bool]) -> None:
        """``spoils``: whether a picture makes those fed after it useless."""
        self._spoils = spoils
        self._inside: set[int] = set()
        self._held: deque[av.VideoFrame] = deque()

    def feed(self, number: int) -> None:
        """A packet goes in."""
        self._inside.add(number)

    def settle(self, frames: "list[av.VideoFrame]", *, is_end: bool = False) -> "list[av.VideoFrame]":
        """What may be handed out now that ``frames`` have come; behind one that spoils others comes nothing."""
        for frame in frames:
            self._inside.discard(frame.pts or 0)
            if self._spoils(frame):
                first = min(self._inside, default=frame.pts or 0)
                sound = [one for one in self._held if (one.pts or 0) < min(first, frame.pts or 0)]
                self._held.clear()
                return [*sound, frame]
            self._held.append(frame)
        if is_end:
            self._inside.clear()
        settled = []
        oldest = min(self._inside, default=None)
        while self._held and (oldest is None or (self._held[0].pts or 0) < oldest):
            settled.append(self._held.popleft())
        return settled


def _check_order(stream: Stream, fed: deque[int] | None, frames: "list[av.VideoFrame]") -> None:
    """Where the container's times say that nothing is reordered, pictures come in the order of the packets."""
    if fed is None:
        return
    for frame in frames:
        if fed.popleft() != frame.pts:
            cause = "pictures come in another order than the container's times say (no table 'ctts'?)"
            raise failed(stream, frame.pts or 0, cause)
