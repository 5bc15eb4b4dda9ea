"""Recordings that begin, end or change their configuration in the middle of things."""

import logging
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from gpuload.errors import VideoError
from gpuload.index.chroma import may_interlace
from gpuload.index.load import load_index
from gpuload.index.nal import units_of
from gpuload.video import Video
from tests.integration.test_exact import assert_all_frames_exact
from tests.integration.test_lying_files import patched
from tests.videos import decode_all, keyframes, make_video, remuxed


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("frames", [60, 200])
def test_a_stream_that_is_refreshed_bit_by_bit_begins_where_its_pictures_are_right(
    tmp_path: Path, suffix: str, frames: int
) -> None:
    whole = make_video(tmp_path / "whole.mp4", gop=15, frames=frames, options={"intra-refresh": "1", "bf": "0"})
    path = remuxed(whole, tmp_path / f"v{suffix}", first=keyframes(whole)[1])  # the first is the only IDR picture
    assert 0 < len(decode_all(path)) < len(load_index(path).pos)
    assert_all_frames_exact(path)


def test_a_stream_that_begins_with_a_picture_that_nothing_marks(tmp_path: Path) -> None:
    """An open GOP without its recovery point: FFmpeg shows the first picture, and then none for a while."""
    options = {"x264-params": "open-gop=1:bframes=2:b-adapt=0"}
    whole = make_video(tmp_path / "whole.mp4", gop=15, frames=60, options=options)

    def unmarked(number: int, data: bytes, key: bool) -> tuple[bytes, bool]:
        kept = (unit for unit in units_of("h264", b"\1\0\0\0\xff\xe0\0", data) if unit[0] & 31 != 6)
        return b"".join(len(unit).to_bytes(4, "big") + bytes(unit) for unit in kept), key

    path = remuxed(whole, tmp_path / "v.mp4", unmarked, first=keyframes(whole)[1])
    shown = len(decode_all(path))
    assert 0 < shown < len(load_index(path).pos)
    assert_all_frames_exact(path)


def test_damage_behind_a_refresh_hides_no_frame(tmp_path: Path) -> None:
    whole = make_video(tmp_path / "whole.mp4", gop=15, frames=100, options={"intra-refresh": "1", "bf": "0"})
    begin = keyframes(whole)[1]

    def broken(number: int, data: bytes, key: bool) -> tuple[bytes, bool]:
        return bytes(len(data)) if number == begin + 50 else data, key

    sound = remuxed(whole, tmp_path / "a.mp4", first=begin)
    damaged = remuxed(whole, tmp_path / "b.mp4", broken, first=begin)
    assert len(Video(damaged)) == len(Video(sound))


@pytest.mark.parametrize("kept", [0.93, 0.80])
def test_a_fragmented_recording_that_was_cut_off(tmp_path: Path, kept: float, caplog: pytest.LogCaptureFixture) -> None:
    options = {"movflags": "frag_keyframe+empty_moov"}
    path = make_video(tmp_path / "v.mp4", gop=10, frames=60, options={"bf": "0"}, container_options=options)
    wanted = decode_all(path)
    data = path.read_bytes()
    cut = data[: int(len(data) * kept)]
    if kept < 0.9:  # within the tables of a fragment
        cut = data[: data.rindex(b"moof") + 20]
    path.write_bytes(cut)
    with caplog.at_level(logging.WARNING):
        video = Video(path)
    assert "left out" in caplog.text
    assert 40 < len(video) < 60
    assert np.array_equal(video.frames(range(len(video))).numpy(), np.stack(wanted[: len(video)]))


def test_a_fragment_in_the_middle_that_points_beyond_the_end_is_refused(tmp_path: Path) -> None:
    """Without its packets all frames behind them would have other numbers."""
    options = {"movflags": "frag_keyframe+empty_moov"}
    path = make_video(tmp_path / "v.mp4", gop=10, frames=60, options={"bf": "0"}, container_options=options)
    data = bytearray(path.read_bytes())
    third = [at for at in range(len(data)) if data[at : at + 4] == b"trun"][2]
    flags = int.from_bytes(data[third + 5 : third + 8], "big")
    assert flags & 0x201 == 0x201  # data offset, and sizes, which are the first or second column
    first = third + 16 + 4 * bool(flags & 4) + 4 * bool(flags & 0x100)
    data[first : first + 4] = (1 << 29).to_bytes(4, "big")
    path.write_bytes(data)
    with pytest.raises(VideoError, match="truncated"):
        load_index(path)


def test_a_file_of_nothing_but_empty_packets_has_none(tmp_path: Path) -> None:
    def empty(data: bytearray) -> None:
        table = data.index(b"stsz")
        data[table + 16 : table + 16 + 4 * 20] = bytes(4 * 20)

    with pytest.raises(VideoError, match="no packets"):
        load_index(patched(make_video(tmp_path / "v.mp4", gop=10, frames=20), empty))


def test_packets_without_bytes_are_no_pictures(tmp_path: Path) -> None:
    """One that nothing refers to becomes padding of the one before it, and its own place is empty."""
    params = {"x264-params": "bframes=2:b-pyramid=none:b-adapt=0"}
    path = make_video(tmp_path / "v.mp4", gop=10, frames=20, options=params)
    video = load_index(path)

    def empty(data: bytearray) -> None:
        number = next(i for i in range(4, 18) if data[int(video.pos[i]) + 4] >> 5 == 0)
        begin, size = int(video.pos[number]), int(video.size[number])
        data[begin : begin + size] = (size - 4).to_bytes(4, "big") + b"\x0c" + b"\xff" * (size - 6) + b"\x80"
        table = data.index(b"stsz") + 16
        before = struct.unpack_from(">I", data, table + 4 * (number - 1))[0]
        struct.pack_into(">II", data, table + 4 * (number - 1), before + size, 0)

    patched(path, empty)
    assert len(decode_all(path)) == 19
    assert_all_frames_exact(path)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_av1_keyframes_that_lack_their_sequence_header(tmp_path: Path, suffix: str) -> None:
    options = {"preset": "10", "svtav1-params": "pred-struct=1:keyint=16"}
    whole = make_video(tmp_path / "whole.mp4", codec="libsvtav1", gop=16, frames=50, options=options)

    def strip(number: int, data: bytes, key: bool) -> tuple[bytes, bool]:
        return b"".join(unit for kind, unit in units(data) if kind != 1 or not number), key

    path = remuxed(whole, tmp_path / f"v{suffix}", strip, opaque=True)
    assert load_index(path).keyframes.tolist() == [0]
    assert_all_frames_exact(path)


def test_a_new_configuration_in_the_middle_of_flv(tmp_path: Path) -> None:
    """As when a sender connects again: with another chroma offset nobody would complain."""
    first, second = (
        make_video(tmp_path / name, gop=10, frames=20, tint=True, options={"bf": "0", "x264-params": params})
        for name, params in (("a.flv", ""), ("b.flv", "chroma-qp-offset=10"))
    )
    joined = bytearray(first.read_bytes()[:13])
    for path, later_ms in ((first, 0), (second, 20 * 34)):
        for tag in tags(path.read_bytes()):
            if tag[0] != 9 or (not later_ms and tag[12] == 2):  # no video, or the end of the sequence
                continue
            moved = int.from_bytes(tag[4:7], "big") + later_ms
            joined += tag[:4] + moved.to_bytes(3, "big") + tag[7:] + len(tag).to_bytes(4, "big")
    path = tmp_path / "joined.flv"
    path.write_bytes(joined)
    assert len(load_index(path).extradata) == 2
    assert len(decode_all(path)) == 40
    assert_all_frames_exact(path)


def test_files_behind_each_other_whose_times_begin_anew(tmp_path: Path) -> None:
    path = make_video(tmp_path / "v.ts", gop=10, frames=15, options={"bf": "0"})
    path.write_bytes(2 * path.read_bytes())
    with pytest.raises(VideoError, match="begin anew"):
        load_index(path)


def test_frames_of_equal_time_are_no_new_beginning(tmp_path: Path) -> None:
    """Milliseconds are too coarse for some cameras."""
    path = tmp_path / "v.mkv"
    with (
        av.open(str(make_video(tmp_path / "v.avi", codec="mjpeg", gop=1, frames=6, pix_fmt="yuvj420p"))) as old,
        av.open(str(path), "w") as new,
    ):
        stream = new.add_stream_from_template(old.streams.video[0])
        for time_ms, packet in zip((0, 33, 33, 66, 99, 99), old.demux(video=0), strict=False):
            packet.pts = packet.dts = time_ms
            packet.time_base, packet.stream = Fraction(1, 1000), stream
            new.mux(packet)
    assert load_index(path).frame_pts.tolist() == [0, 33, 33, 66, 99, 99]
    assert_all_frames_exact(path)


def test_a_box_that_claims_more_than_what_holds_it(tmp_path: Path) -> None:
    def enlarge(data: bytearray) -> None:
        at = data.index(b"udta") - 4
        struct.pack_into(">I", data, at, struct.unpack_from(">I", data, at)[0] + 40)

    assert_all_frames_exact(patched(make_video(tmp_path / "v.mp4", gop=10, frames=20), enlarge))


@pytest.mark.parametrize("params", ["interlace=tff", "interlace=0"])
def test_hevc_says_whether_it_is_interlaced(tmp_path: Path, params: str) -> None:
    options = {"x265-params": f"log-level=error:{params}"}
    path = make_video(tmp_path / "v.mp4", codec="libx265", frames=4, options=options)
    with av.open(str(path)) as container:
        told = next(container.decode(video=0)).interlaced_frame
    assert may_interlace("hevc", load_index(path).extradata[0]) == told == ("tff" in params)
    assert_all_frames_exact(path)


def test_two_pictures_in_one_packet_are_told(tmp_path: Path) -> None:
    options = {"preset": "10", "svtav1-params": "pred-struct=1:keyint=16"}
    whole = make_video(tmp_path / "whole.mkv", codec="libsvtav1", gop=16, frames=20, options=options)
    with av.open(str(whole)) as container:
        packets = [bytes(p) for p in container.demux(video=0) if p.size]

    def join(number: int, data: bytes, key: bool) -> tuple[bytes, bool]:
        return data + packets[6] if number == 5 else data, key

    path = remuxed(whole, tmp_path / "v.mkv", join, opaque=True)
    with pytest.raises(VideoError, match="two pictures"):
        Video(path).frames(range(20))


def units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """``obu_type`` and bytes of each OBU of a packet (AV1 5.3)."""
    offset = 0
    while offset < len(data):
        begin = offset
        head, offset = data[offset], offset + 1 + (data[offset] >> 2 & 1)
        size, shift = 0, 0
        while True:
            byte, offset = data[offset], offset + 1
            size |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        offset += size
        yield head >> 3 & 15, data[begin:offset]


def tags(data: bytes) -> Iterator[bytes]:
    """The tags of an FLV file, each without the size that follows it."""
    offset = 13
    while offset + 15 <= len(data):
        size = 11 + int.from_bytes(data[offset + 1 : offset + 4], "big")
        yield data[offset : offset + size]
        offset += size + 4
