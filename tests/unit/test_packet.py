"""Packets as FFmpeg's decoders want them."""

import ctypes

import pytest

from gpuload.index.packet import padded_packet

PADDING = 64
"""``AV_INPUT_BUFFER_PADDING_SIZE`` of FFmpeg 8."""


@pytest.mark.parametrize("size", [1, 100, 4096, 1_000_000])
def test_zeros_follow_the_data_whatever_follows_it_where_it_came_from(size: int) -> None:
    data = bytes(range(1, 251)) * (size // 250 + 1)
    for source in (data[:size], memoryview(data + b"\xff" * PADDING)[:size]):
        packet = padded_packet(source, 7)
        assert (packet.pts, packet.dts, packet.size) == (7, 7, size)
        assert ctypes.string_at(packet.buffer_ptr, size + PADDING) == bytes(source) + bytes(PADDING)
