"""Encoded packets in the form that FFmpeg's decoders ask for."""

from typing import Any

import av


def padded_packet(data: bytes | memoryview, number: int) -> "av.Packet[Any]":
    """A copy of the data that carries ``number`` as its times.

    Decoders read up to 64 bytes beyond the data, and zeros must be there (``AV_INPUT_BUFFER_PADDING_SIZE``).
    ``av.Packet(data)`` borrows the caller's memory, where anything may follow, or nothing.
    """
    packet: av.Packet[Any] = av.Packet(len(data))
    packet.update(data)  # type: ignore[arg-type]  # takes any buffer; its stub says bytes
    packet.pts = packet.dts = number
    return packet
