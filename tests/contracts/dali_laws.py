"""DALI keeps the laws of a decoder, on the CPU: VP9 and VP8, within a stated error. ``test_dali.py`` runs this file."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gpuload.decode.base import Decoder
from gpuload.decode.dali import TOLERANCE, DaliDecoder, unusable
from gpuload.decode.runs import stream_of
from gpuload.errors import ConfigError
from gpuload.index.load import load_index
from tests.contracts.decoder import DecoderContract, coded_videos, run_of
from tests.videos import decode_all, make_video

coded = coded_videos("libvpx-vp9")


def pixels_of(picture: Any) -> npt.NDArray[np.uint8]:
    packed: npt.NDArray[np.uint8] = picture.to_ndarray(format="rgb24")
    return packed.transpose(2, 0, 1)


class TestDali(DecoderContract):
    tolerance = TOLERANCE

    def make(self) -> Decoder:
        return DaliDecoder()

    def pixels(self, picture: Any) -> npt.NDArray[np.uint8]:
        return pixels_of(picture)


@pytest.mark.parametrize(
    ("codec", "suffix", "pixel_format"), [("libvpx", "mkv", "yuv420p"), ("mjpeg", "mp4", "yuvj420p")]
)
def test_its_other_cpu_codecs_within_the_same_error(codec: str, suffix: str, pixel_format: str, tmp_path: Path) -> None:
    path = make_video(tmp_path / f"video.{suffix}", codec=codec, frames=12, gop=6, pix_fmt=pixel_format)
    video, expected = load_index(path, cache_dir=tmp_path), decode_all(path)
    for frame in (0, 5, 11):
        ((number, picture),) = DaliDecoder().decode(stream_of(video), run_of(video, [frame]))
        assert number == video.frame_packet[frame]
        assert np.abs(pixels_of(picture).astype(int) - expected[frame]).max() <= TOLERANCE


def test_every_reason_against_it_says_what_to_do(tmp_path: Path) -> None:
    assert unusable(codec="vp9") is None
    assert "no CPU decoder for h264" in (unusable(codec="h264") or "")
    video = load_index(make_video(tmp_path / "video.mp4", frames=4), cache_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"video\.mp4.*h264"):
        list(DaliDecoder().decode(stream_of(video), run_of(video, [0])))
