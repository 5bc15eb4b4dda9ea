"""The size that a codec's own headers tell, against the pictures that FFmpeg decodes."""

from pathlib import Path

import av
import pytest

from gpuload.index.picture_size import HEAD_BYTES, coded_size
from tests.videos import decode_all, make_video

ENCODERS = [
    ("libx264", "yuv420p", (130, 98)),
    ("libx264", "yuv422p10le", (130, 97)),
    ("libx264", "yuv444p", (129, 97)),
    ("libx265", "yuv420p", (130, 98)),
    ("libx265", "yuv422p10le", (130, 98)),
    ("libx265", "yuv444p", (129, 97)),
    ("libsvtav1", "yuv420p", (130, 98)),
    ("libsvtav1", "yuv420p10le", (66, 70)),
    ("libvpx-vp9", "yuv420p", (129, 97)),
    ("libvpx-vp9", "yuv444p", (129, 97)),
    ("libvpx-vp9", "yuv422p", (129, 97)),
    ("libvpx-vp9", "gbrp", (129, 97)),
    ("libvpx", "yuv420p", (129, 97)),
]


@pytest.mark.parametrize(
    ("encoder", "pix_fmt", "size", "suffix"),
    [(*one, suffix) for one in ENCODERS for suffix in (".mp4", ".mkv") if (one[0], suffix) != ("libvpx", ".mp4")],
)
def test_size_in_the_headers_of_a_codec(
    tmp_path: Path, encoder: str, pix_fmt: str, size: tuple[int, int], suffix: str
) -> None:
    width, height = size
    path = make_video(tmp_path / f"v{suffix}", codec=encoder, width=width, height=height, frames=3, pix_fmt=pix_fmt)
    assert decode_all(path)[0].shape == (3, height, width)
    assert told(path) == size


def test_fields_count_twice(tmp_path: Path) -> None:
    options = {"x264-params": "interlaced=1"}
    path = make_video(tmp_path / "v.mp4", width=130, height=100, frames=3, options=options)
    assert decode_all(path)[0].shape == (3, 100, 130)
    assert told(path) == (130, 100)


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1", "vp9", "vp8", "mpeg4"])
def test_what_does_not_tell(codec: str) -> None:
    for packet in (b"", b"\0", bytes(30), b"\xff" * 30, bytes(range(64))):
        assert coded_size(codec, b"", packet) is None
        assert coded_size(codec, packet, b"") is None


def told(path: Path) -> tuple[int, int] | None:
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        head = bytes(next(container.demux(video=0)))[:HEAD_BYTES]
        return coded_size(context.codec.canonical_name, bytes(context.extradata or b""), head)
