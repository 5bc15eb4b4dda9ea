"""What a decoder complains of where it does not stop: FFmpeg paints over damaged blocks and says so in its log only."""

import os
import re
import threading
from typing import Any

import av
import av.logging

_one_at_a_time = threading.Lock()
# Held across a fork: else the child could inherit a lock that none of its threads holds, and a raised log level.
os.register_at_fork(
    before=_one_at_a_time.acquire,
    after_in_parent=_one_at_a_time.release,
    after_in_child=_one_at_a_time.release,
)
CONCEALED = "concealing "
"""Of blocks that were missing; FFmpeg takes it for information."""


def decode_and_listen(
    session: "av.VideoCodecContext", packet: Any, harmless: re.Pattern[str]
) -> "tuple[list[av.VideoFrame], str, bool]":
    """Feeds one packet (None: drains) to a session of one thread.

    Its pictures; the first error or warning that it logs and ``harmless`` does not match, empty if there is none; and
    whether it logs one that ``harmless`` matches.

    PyAV's log level, which is the process's, is raised for the call: what other threads log meanwhile goes to
    ``logging``. A callback that ``av.logging.restore_default_callback`` has set is lost.
    """
    with _one_at_a_time:
        level, skips = av.logging.get_level(), av.logging.get_skip_repeated()
        av.logging.set_skip_repeated(False)
        av.logging.set_level(av.logging.INFO)
        try:
            with av.logging.Capture() as logs:
                pictures = session.decode(packet)
            deaf = av.logging.get_level() != av.logging.INFO
        finally:
            av.logging.set_level(level)
            av.logging.set_skip_repeated(skips)
    if deaf:  # what was not heard may have been damage
        return pictures, "PyAV's log level was changed meanwhile", False
    said = [text.strip() for severity, _, text in logs if severity <= av.logging.WARNING or text.startswith(CONCEALED)]
    bad = [text for text in said if not harmless.match(text)]
    return pictures, bad[0] if bad else "", len(bad) < len(said)
