"""What every decode backend must do; a backend's test file subclasses ``DecoderContract`` and says how to make one."""

from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gpuload.decode.base import Decoder, Run
from gpuload.decode.runs import entries, stream_of
from gpuload.errors import DecodeError
from gpuload.index.load import load_index
from gpuload.index.video import VideoIndex
from gpuload.pipeline.direct import read_packets
from tests.videos import decode_all, make_video

CODECS = ("libx264", "libx265", "libsvtav1", "libvpx-vp9")
GOP = 10


def video_of(folder: Path, codec: str) -> tuple[VideoIndex, list[npt.NDArray[np.uint8]]]:
    """A file of three GOPs and its frames, decoded in sequence, by frame number."""
    path = make_video(folder / f"{codec}.mp4", codec=codec, frames=3 * GOP, gop=GOP)
    return load_index(path, cache_dir=folder / "index"), decode_all(path)


def run_of(video: VideoIndex, frames: list[int]) -> Run:
    """The run that decodes ``frames``, which share a start."""
    packets = video.frame_packet[frames].astype(int).tolist()
    (first,) = set(video.frame_start[frames].tolist())
    last = max(packets)
    return Run(
        first,
        read_packets(video, first, last),
        entries(video, first, last),
        frozenset(packets),
        video.pts[first : last + 1].tolist(),
    )


Coded = tuple[VideoIndex, list[npt.NDArray[np.uint8]]]


def coded_videos(*codecs: str) -> Any:
    """The fixture ``coded`` that the contract asks for, of the codecs that the backend decodes."""

    @pytest.fixture(scope="module", params=codecs, name="coded")
    def coded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Coded:
        return video_of(tmp_path_factory.mktemp("videos"), request.param)

    return coded


class DecoderContract(ABC):
    """Laws of ``Decoder``. The test file also says ``coded = coded_videos(…)``."""

    tolerance = 0
    """Largest difference of a sample from the sequential decode: not 0 only where a library converts colour itself."""

    @abstractmethod
    def make(self) -> Decoder:
        """A new decoder."""

    @abstractmethod
    def pixels(self, picture: Any) -> npt.NDArray[np.uint8]:
        """uint8 ``[3, H, W]`` of what the decoder yielded."""

    def check_same(self, found: npt.NDArray[np.uint8], expected: npt.NDArray[np.uint8]) -> None:
        assert found.shape == expected.shape
        assert int(np.abs(found.astype(int) - expected).max()) <= self.tolerance

    def decoded(self, decoder: Decoder, video: VideoIndex, frames: list[int]) -> dict[int, npt.NDArray[np.uint8]]:
        """Pixels by frame number; packets are yielded once each, in presentation order."""
        frame_of = {int(packet): frame for frame, packet in enumerate(video.frame_packet)}
        found = [(frame_of[n], self.pixels(p)) for n, p in decoder.decode(stream_of(video), run_of(video, frames))]
        numbers = [number for number, _ in found]
        assert numbers == sorted(set(numbers))
        return dict(found)

    def test_any_frame_alone(self, coded: Coded) -> None:
        video, expected = coded
        decoder = self.make()
        for frame in np.random.default_rng(0).permutation(len(expected)).tolist():
            found = self.decoded(decoder, video, [frame])
            assert list(found) == [frame]
            self.check_same(found[frame], expected[frame])
        decoder.close()

    def test_some_frames_of_each_start(self, coded: Coded) -> None:
        video, expected = coded
        decoder = self.make()
        for start in np.unique(video.frame_start).tolist():
            frames = np.flatnonzero(video.frame_start == start)[::2].tolist()
            found = self.decoded(decoder, video, frames)
            assert sorted(found) == frames
            for frame in frames:
                self.check_same(found[frame], expected[frame])
        decoder.close()

    def test_pictures_outlive_the_run_and_the_decoder(self, coded: Coded) -> None:
        video, expected = coded
        decoder = self.make()
        frames = np.flatnonzero(video.frame_start == 0).tolist()
        kept = list(decoder.decode(stream_of(video), run_of(video, frames)))
        last = len(expected) - 1
        self.decoded(decoder, video, [last])
        decoder.close()
        for frame, (_, picture) in zip(frames, kept, strict=True):
            self.check_same(self.pixels(picture), expected[frame])

    def test_a_damaged_run_is_an_error_and_the_next_one_exact(self, coded: Coded) -> None:
        video, expected = coded
        decoder = self.make()
        frames = np.flatnonzero(video.frame_start == 0).tolist()
        run = run_of(video, frames)
        packets = [bytes(packet) for packet in run.packets]
        packets[0] = bytes(len(packets[0]))
        damaged = replace(run, packets=packets)
        with pytest.raises(DecodeError, match=Path(video.path).name):
            list(decoder.decode(stream_of(video), damaged))
        self.check_same(self.decoded(decoder, video, frames[:3])[frames[2]], expected[frames[2]])
        decoder.close()

    def test_leaving_a_run_early_does_not_disturb_the_next(self, coded: Coded) -> None:
        video, expected = coded
        decoder = self.make()
        frames = np.flatnonzero(video.frame_start == 0).tolist()
        next(iter(decoder.decode(stream_of(video), run_of(video, frames))))
        found = self.decoded(decoder, video, [len(expected) - 1])
        self.check_same(found[len(expected) - 1], expected[-1])
        decoder.close()
