"""What a decoder complains of where it does not stop: FFmpeg paints over damaged blocks and says so in its log only."""

import re
from typing import Any

import av
import av.logging


def decode_and_listen(
    session: "av.VideoCodecContext", packet: Any, harmless: re.Pattern[str]
) -> "tuple[list[av.VideoFrame], str]":
    """Feeds one packet (None: drains) to a session of one thread: its pictures, and the first error or warning that it
    logs and ``harmless`` does not match; empty if there is none.

    PyAV's log level is raised for the call: what other threads log meanwhile goes to ``logging``.
    """
    level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
    av.logging.set_skip_repeated(False)
    av.logging.set_level(av.logging.WARNING)
    try:
        with av.logging.Capture() as logs:
            pictures = session.decode(packet)
    finally:
        av.logging.set_level(level)
        av.logging.set_skip_repeated(skips)
    bad = (text.strip() for severity, _, text in logs if severity <= av.logging.WARNING and not harmless.match(text))
    return pictures, next(bad, "")
