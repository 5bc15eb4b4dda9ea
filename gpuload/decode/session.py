"""Codec sessions of PyAV: what FFmpeg is asked for, and what it says of damage."""

import re
from dataclasses import dataclass
from typing import Any

import av
from av.error import FFmpegError

from gpuload.decode.base import Stream, failed
from gpuload.decode.concealed import decode_and_listen
from gpuload.index.packet import padded_packet

DECODERS = {"av1": "libdav1d"}  # FFmpeg's own `av1` decodes on hardware only
MISS_REFERENCES = frozenset({"h264", "hevc", "vvc", "av1", "vp8", "vp9"})
"""Codecs whose decoders refuse a picture without its references; others (MPEG-4) predict from grey and say nothing."""
HARMLESS = re.compile(r"SEI type \d+ size \d+ truncated|Skipping invalid undecodable NALU: (39|40)$")
"""Complaints about what no picture is made of: messages (SEI) of H.264, and of HEVC, whose numbers these are."""
ENTERED = re.compile(HARMLESS.pattern + r"|mmco: unref short failure")
"""Also harmless in a run that begins in the middle of a sequence: a reference that was never decoded is given up."""


@dataclass(slots=True)
class Session:
    """One codec session of one thread, kept between runs."""

    context: "av.VideoCodecContext"
    harmless: re.Pattern[str] | None
    """Complaints that it passes over; None: it stops at any."""
    has_complained: bool = False
    """Of something harmless, when it was fed last."""
    sets: tuple[bytes, ...] = ()
    """Parameter sets that packets brought last and the container does not have: they stay, also for other runs."""

    def fed(self, stream: Stream, number: int, packet: "av.Packet[Any] | None") -> "list[av.VideoFrame]":
        """Pictures that come out when packet ``number`` goes in; None drains it.

        Raises:
            DecodeError: the decoder complains. FFmpegError: it stops.
        """
        if self.harmless is None:
            return self.context.decode(packet)
        pictures, complaint, self.has_complained = decode_and_listen(self.context, packet, self.harmless)
        if complaint:
            raise failed(stream, number, f"the decoder complains ({complaint})")
        return pictures

    def led(self, data: bytes | memoryview, number: int) -> "list[av.VideoFrame]":
        """Feeds a leading picture that nobody wants and that cannot be right: whatever the decoder says of it.

        Pictures before it that come out.
        """
        try:
            return self.context.decode(padded_packet(data, number))
        except FFmpegError:
            return []  # it lacks its references


def told_size(stream: Stream) -> tuple[int, int]:
    """The container's size, where decoders heed it: FFV1, say, has no other, and FFmpeg's H.264 decoder cuts by it what
    rounding to macroblocks has added; else zeros."""
    heeded = stream.codec == "h264" or stream.codec not in MISS_REFERENCES
    return (stream.width, stream.height) if heeded else (0, 0)


def open_session(stream: Stream, extradata: bytes, packet: int, harmless: re.Pattern[str] | None) -> Session:
    """A session of one thread.

    Raises:
        DecodeError: there is no such decoder, or it refuses the configuration.
    """
    try:
        context = av.CodecContext.create(DECODERS.get(stream.codec, stream.codec), "r")
        assert isinstance(context, av.VideoCodecContext)
        context.color_primaries, context.color_trc = stream.color.primaries, stream.color.transfer
        context.colorspace, context.color_range = stream.color.matrix, stream.color.range
        context.extradata = extradata or None
        context.thread_count = 1
        if told_size(stream) != (0, 0):
            context.width, context.height = stream.width, stream.height
        if stream.tag:
            context.codec_tag = stream.tag
        if stream.coded_bits:
            context.bits_per_coded_sample = stream.coded_bits
        if stream.codec == "rawvideo":
            context.pix_fmt = stream.pixel_format
        options = {}
        if harmless is None:  # else FFmpeg paints over damaged blocks and hands the result out as a good picture
            options["err_detect"] = "explode"
        if stream.codec == "h264":  # streams that do not tell by how much they reorder lose no picture for it
            options["strict"] = "1"
        context.options = options
        context.open(strict=False)
    except (FFmpegError, ValueError) as error:
        raise failed(stream, packet, f"no usable decoder ({error}); `gpuload doctor` lists codecs") from error
    return Session(context, harmless)
