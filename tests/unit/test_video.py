"""``Video`` as a sequence of pictures, and which stream of a file it is."""

import pickle
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch

from gpuload import ConfigError, FrameNotFound, Video
from gpuload.index.load import load_index
from tests.videos import decode_all, frame_number, make_video, numbered_picture

av_open = av.open
Pictures = list[npt.NDArray[np.uint8]]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("video")
    return make_video(folder / "v.mp4", frames=33, codec="libx264", gop=10, options={"bf": "2"})


@pytest.fixture(scope="module")
def pictures(path: Path) -> Pictures:
    return decode_all(path)


def test_it_is_a_sequence_of_pictures(path: Path, pictures: Pictures) -> None:
    video = Video(path)
    assert len(video) == len(pictures) == 33
    assert np.array_equal(video[7].numpy(), pictures[7])
    assert np.array_equal(video[-1].numpy(), pictures[-1])
    for piece in (slice(3, 20, 4), slice(None, None, -5), slice(-4, None), slice(5, 5)):
        assert [frame_number(picture.numpy()) for picture in video[piece]] == list(range(33))[piece]
    with pytest.raises(IndexError, match="33 of 33"):
        video[33]


@pytest.mark.parametrize("gop", [1, 10, 250])
def test_iterating_gives_every_picture_once_and_lets_others_be_asked_for(tmp_path: Path, gop: int) -> None:
    path = make_video(tmp_path / "v.mp4", frames=33, codec="libx264", gop=gop, options={"bf": "2"})
    expected, video = decode_all(path), Video(path)
    for number, picture in enumerate(video):
        assert np.array_equal(picture.numpy(), expected[number])
        if number % 7 == 3:
            assert np.array_equal(video[32 - number].numpy(), expected[32 - number])
    assert number == 32


def test_a_container_without_byte_ranges_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_video(tmp_path / "v.ts", frames=40, codec="libx264", gop=5)
    video = Video(path)
    assert not video.index.contiguous
    opened: list[str] = []

    def counted(name: str) -> av.container.InputContainer:
        opened.append(name)
        return av_open(name)

    monkeypatch.setattr("gpuload.store.packets.av.open", counted)
    assert [frame_number(picture.numpy()) for picture in video] == list(range(40))
    assert len(opened) == 1


def test_open_gops_are_iterated_in_order_of_presentation(tmp_path: Path) -> None:
    path = make_video(
        tmp_path / "v.mp4", frames=40, codec="libx265", gop=10, options={"x265-params": "open-gop=1:log-level=0"}
    )
    assert [frame_number(picture.numpy()) for picture in Video(path)] == list(range(40))


def test_a_frame_is_shown_until_the_next_one(path: Path, pictures: Pictures) -> None:
    video = Video(path)
    step_s = 1 / 30
    times_s = [0.0, step_s * 0.99, step_s, step_s * 5.5, step_s * 32.9]
    assert [frame_number(picture.numpy()) for picture in video.frames_at(times_s)] == [0, 0, 1, 5, 32]
    for outside in (-0.001, step_s * 33.01, float("nan")):
        with pytest.raises(FrameNotFound, match=r"v\.mp4: nothing is shown at"):
            video.frames_at([0.0, outside])
        with pytest.raises(IndexError):  # as torchcodec's decoder
            video.frames_at([outside])
    assert video.fps == pytest.approx(30)


@pytest.mark.parametrize("numbers", [[0.3], [True, False], ["1"], [[1]], [float("nan")]])
def test_only_whole_numbers_are_frames(path: Path, numbers: list[object]) -> None:
    with pytest.raises(ConfigError, match="frame numbers"):
        Video(path).frames(numbers)  # type: ignore[arg-type]  # that is the point


def test_whole_numbers_may_be_of_any_type(path: Path, pictures: Pictures) -> None:
    for numbers in (np.array([2.0, 5.0]), torch.tensor([2, 5]), (2, 5), np.array([2, 5], np.uint8)):
        assert np.array_equal(Video(path).frames(numbers).numpy(), np.stack([pictures[2], pictures[5]]))  # type: ignore[arg-type]
    assert Video(path).frames([]).shape == (0, 3, *pictures[0].shape[1:])


def test_bytes_are_no_path(path: Path) -> None:
    with pytest.raises(ConfigError, match="bytes"):
        Video(path.read_bytes())  # type: ignore[arg-type]  # that is the point


def test_a_pickle_opens_the_file_again(path: Path, pictures: Pictures) -> None:
    video = Video(path)
    _ = video[3]
    data = pickle.dumps(video)
    assert len(data) < 1000
    assert np.array_equal(pickle.loads(data)[3].numpy(), pictures[3])


# several streams -----------------------------------------------------------------------------------------------------


def write_two(path: Path, *, default: int) -> Path:
    """Two video streams: 20 pictures of 64x48 whose numbers begin at 0, 30 of 128x96 whose numbers begin at 100."""
    with av.open(str(path), "w") as container:
        streams = []
        for number, (width, height) in enumerate(((64, 48), (128, 96))):
            stream = container.add_stream("libx264", rate=30)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.options = {"g": "10", "preset": "ultrafast", "crf": "10"}
            stream.time_base = stream.codec_context.time_base = Fraction(1, 30)
            stream.disposition = av.stream.Disposition.default if number == default else av.stream.Disposition(0)
            streams.append(stream)
        for number in range(30):
            for which, stream in enumerate(streams):
                if which == 0 and number >= 20:
                    continue
                picture = numbered_picture(number + 100 * which, stream.width, stream.height)
                frame = av.VideoFrame.from_ndarray(picture, format="gray").reformat(format="yuv420p")
                frame.pts, frame.time_base = number, Fraction(1, 30)
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("default", [0, 1])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_of_several_streams_it_is_the_one_that_ffmpeg_finds_best(tmp_path: Path, suffix: str, default: int) -> None:
    path = write_two(tmp_path / f"two.{suffix}", default=default)
    with av.open(str(path)) as container:
        best = container.streams.best("video")
        assert isinstance(best, av.VideoStream)
        number, expected = best.index, [frame.to_ndarray(format="rgb24") for frame in container.decode(best)]
    if suffix == "mp4":
        assert number == default
    video = Video(path)
    assert video.index.stream == number
    assert load_index(path).stream == number  # from the cache
    assert len(video) == len(expected)
    for got, wanted in zip(video, expected, strict=True):
        assert np.array_equal(got.numpy(), wanted.transpose(2, 0, 1))
