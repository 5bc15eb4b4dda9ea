"""torchcodec keeps the laws of a decoder, on the CPU, with the FFmpeg of PyAV's wheel and no other."""

import logging
import os
import subprocess
import sys
from dataclasses import replace
from importlib import util
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch

from gpuload import loader
from gpuload.decode.base import Decoder, Run
from gpuload.decode.pyav import PyavDecoder
from gpuload.decode.runs import stream_of
from gpuload.decode.torchcodec import TorchcodecDecoder, unusable
from gpuload.errors import ConfigError, DecodeError
from gpuload.ffmpeg import bundled_libraries, environment
from gpuload.index.load import load_index
from gpuload.index.video import Color, VideoIndex
from gpuload.pipeline import route
from gpuload.pipeline.direct import read_packets
from gpuload.pipeline.lane import DeviceWorker
from gpuload.pipeline.share import Sharing
from gpuload.pipeline.work import Done
from tests.boxes import joined
from tests.contracts.decoder import CODECS, DecoderContract, coded_videos, run_of
from tests.integration.test_lying_files import sets_of
from tests.source import NumberedSource
from tests.videos import decode_all, make_video

IS_PREPARED = bundled_libraries() is not None and environment(os.environ) == dict(os.environ)
"""Whether this process was started so that torchcodec finds PyAV's FFmpeg."""
if util.find_spec("torchcodec") is None:
    pytest.skip("torchcodec is not installed: pip install 'torchcodec>=0.17'", allow_module_level=True)

FILE = Path(__file__)
SHADES = ("colorspace", "color_range", "color_primaries", "color_trc")
FORMATS = (
    ("libx264", "yuvj420p", 96, 64), ("libx264", "yuv422p", 96, 65), ("libx264", "yuv444p", 97, 65),
    ("libx264", "yuv420p10le", 96, 64), ("libx264", "gray", 96, 64), ("libx264rgb", "rgb24", 96, 64),
    ("libx265", "gray12le", 96, 64), ("libx265", "yuv420p12le", 98, 66), ("libsvtav1", "yuv420p10le", 96, 64),
    ("libvpx-vp9", "gbrp", 96, 64), ("libvpx-vp9", "yuv420p", 97, 65), ("libvpx", "yuv420p", 97, 65),
)  # fmt: skip


def pixels_of(picture: Any) -> npt.NDArray[np.uint8]:
    packed: npt.NDArray[np.uint8] = picture.to_ndarray(format="rgb24")
    return packed.transpose(2, 0, 1)


def planes_of(picture: av.VideoFrame) -> list[npt.NDArray[np.uint8]]:
    """Bytes of each plane, without the padding of its rows."""
    samples = 2 if picture.format.components[0].bits > 8 else 1
    return [
        np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width * samples]
        for plane in picture.planes
    ]


def whole(video: VideoIndex) -> Run:
    """Every packet of a file in one run, every picture wanted."""
    count = len(video.pos)
    return Run(0, read_packets(video, 0, count - 1), video.entry.tolist(), frozenset(range(count)), video.pts.tolist())


def test_every_reason_against_it_says_what_to_do() -> None:
    if IS_PREPARED:
        assert unusable() is None
    else:
        assert "gpuload env" in (unusable() or "gpuload env")  # none where the system has an FFmpeg
    assert "no usable GPU" in (unusable("cuda") or "no usable GPU") or "gpuload env" in (unusable("cuda") or "")


if not IS_PREPARED:  # torchcodec finds PyAV's FFmpeg only in a process that was started for it

    def test_the_contract_holds_in_a_process_started_with_pyavs_ffmpeg() -> None:
        variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
        run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(FILE)]
        done = subprocess.run(
            run,
            env=environment(variables),
            cwd=FILE.parents[2],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=170,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        assert " passed" in done.stdout, done.stdout

else:
    coded = coded_videos(*CODECS)

    class TestPackets(DecoderContract):
        def make(self) -> Decoder:
            return TorchcodecDecoder()

        def pixels(self, picture: Any) -> npt.NDArray[np.uint8]:
            return pixels_of(picture)

    class TestOneCall(DecoderContract):
        def make(self) -> Decoder:
            return TorchcodecDecoder(one_call=True)

        def pixels(self, picture: Any) -> npt.NDArray[np.uint8]:
            assert picture.format.name == "rgb24"
            return pixels_of(picture)

    def test_it_uses_pyavs_ffmpeg_and_no_other() -> None:
        TorchcodecDecoder()
        with open("/proc/self/maps") as maps:
            mapped = {Path(line.split(None, 5)[5].strip()) for line in maps if "/libavcodec" in line}
        (library,) = (one for one in mapped if "dali" not in one.parts)  # DALI, if another test came first, has its own
        assert library.parent == bundled_libraries()

    @pytest.mark.parametrize(("codec", "pixel_format", "width", "height"), FORMATS)
    def test_planes_and_colour_are_those_of_pyav(
        codec: str, pixel_format: str, width: int, height: int, tmp_path: Path
    ) -> None:
        name = "video.mkv" if codec == "libvpx" else "video.mp4"
        path = make_video(
            tmp_path / name, codec=codec, pix_fmt=pixel_format, width=width, height=height, frames=6, gop=3
        )
        video = load_index(path, cache_dir=tmp_path)
        for told in (video.color, Color(9, 14, 9, 2)):
            stream, run = replace(stream_of(video), color=told), run_of(video, [0, 1, 2])
            expected, found = (list(d.decode(stream, run)) for d in (PyavDecoder(), TorchcodecDecoder()))
            assert [number for number, _ in found] == [number for number, _ in expected]
            for (_, ours), (_, theirs) in zip(found, expected, strict=True):
                assert isinstance(ours, av.VideoFrame)
                assert isinstance(theirs, av.VideoFrame)
                assert ours.format.name == theirs.format.name
                assert len(ours.planes) == len(theirs.planes)
                assert all(map(np.array_equal, planes_of(ours), planes_of(theirs)))
                assert [getattr(ours, shade) for shade in SHADES] == [getattr(theirs, shade) for shade in SHADES]

    @pytest.mark.parametrize("one_call", [False, True])
    def test_a_run_may_have_several_sample_descriptions(one_call: bool, tmp_path: Path) -> None:
        parts = [
            make_video(tmp_path / f"{name}.mp4", frames=8, gop=4, options=options)
            for name, options in (("a", {}), ("b", {"x264-params": "cabac=0:bframes=1:ref=1"}))
        ]
        video = load_index(joined(*parts), cache_dir=tmp_path)
        assert len(set(video.extradata)) == 2
        expected = [frame for part in parts for frame in decode_all(part)]
        found = list(TorchcodecDecoder(one_call=one_call).decode(stream_of(video), whole(video)))
        assert [number for number, _ in found] == video.frame_packet.tolist()
        assert all(np.array_equal(pixels_of(p), e) for (_, p), e in zip(found, expected, strict=True))

    def test_parameter_sets_that_packets_bring_stay_in_their_run(tmp_path: Path) -> None:
        params = {"x264-params": "chroma-qp-offset=12"}
        plain = make_video(tmp_path / "plain.mp4", gop=10, frames=30, tint=True)
        other = make_video(tmp_path / "other.mp4", gop=10, frames=30, tint=True, options=params)
        brings = tmp_path / "brings.mp4"  # the same configuration as the first, the second's packets
        with av.open(str(plain)) as a, av.open(str(other)) as b, av.open(str(brings), "w") as new:
            stream = new.add_stream_from_template(a.streams.video[0])
            sets = sets_of(bytes(b.streams.video[0].codec_context.extradata or b""))
            for packet in (p for p in b.demux(video=0) if p.size):
                copy = av.Packet(sets + bytes(packet) if packet.is_keyframe else bytes(packet))
                copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
                copy.duration, copy.is_keyframe, copy.stream = packet.duration, packet.is_keyframe, stream
                new.mux(copy)
        decoder = TorchcodecDecoder()
        for path in (plain, brings, plain, brings):
            video = load_index(path, cache_dir=tmp_path / path.stem)
            assert video.extradata == load_index(plain, cache_dir=tmp_path / "plain").extradata
            expected = decode_all(path)
            found = list(decoder.decode(stream_of(video), run_of(video, list(range(10, 20)))))
            assert all(np.array_equal(pixels_of(p), e) for (_, p), e in zip(found, expected[10:20], strict=True))

    def test_irregular_times_change_nothing(tmp_path: Path) -> None:
        video = load_index(make_video(tmp_path / "video.mp4", frames=12, gop=12), cache_dir=tmp_path)
        run = run_of(video, [5, 11])
        odd = replace(run, pts=[time**3 - (1 << 60) for time in run.pts])
        found = [[number for number, _ in TorchcodecDecoder().decode(stream_of(video), r)] for r in (run, odd)]
        assert found[0] == found[1] == video.frame_packet[[5, 11]].tolist()

    def test_a_picture_without_its_references_is_an_error_not_a_neighbour(tmp_path: Path) -> None:
        path = make_video(tmp_path / "video.mp4", codec="libx265", frames=30, gop=10)
        video = load_index(path, cache_dir=tmp_path)
        keys = video.keyframes
        own = keys[np.searchsorted(keys, video.frame_packet, "right") - 1]
        leading = int(np.flatnonzero(video.frame_start != own)[0])
        first, packet = int(own[leading]), int(video.frame_packet[leading])
        pts = video.pts[first : packet + 1].tolist()
        run = Run(first, read_packets(video, first, packet), (), frozenset([packet]), pts)
        for one_call in (False, True):
            with pytest.raises(DecodeError, match=f"packet {packet} .*no picture"):
                list(TorchcodecDecoder(one_call=one_call).decode(stream_of(video), run))

    def test_what_fits_no_mp4_is_refused_with_the_reason(tmp_path: Path) -> None:
        video = load_index(make_video(tmp_path / "video.ts", frames=4), cache_dir=tmp_path)
        with pytest.raises(ConfigError, match=r"video\.ts.*Annex B"):
            list(TorchcodecDecoder().decode(stream_of(video), whole(video)))
        with pytest.raises(ConfigError, match=r"Run\.pts"):
            list(TorchcodecDecoder().decode(stream_of(video), replace(whole(video), pts=())))

    def test_what_it_refuses_pyav_decodes_where_nobody_asked_for_it(
        tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        video = load_index(make_video(tmp_path / "video.ts", frames=8, gop=4), cache_dir=tmp_path)
        decoder = TorchcodecDecoder(falls_back=True)
        with caplog.at_level(logging.WARNING):
            found = [dict(decoder.decode(stream_of(video), whole(video))) for _ in range(2)]
        assert len([line for line in caplog.messages if "Annex B" in line]) == 1
        wanted = decode_all(tmp_path / "video.ts")
        for pictures in found:
            assert list(pictures) == video.frame_packet.tolist()
            assert all(np.array_equal(pixels_of(p), w) for p, w in zip(pictures.values(), wanted, strict=True))
        damaged = replace(whole(video), packets=[bytes(len(packet)) for packet in whole(video).packets])
        caplog.clear()
        for one in (decoder, TorchcodecDecoder(falls_back=True)):
            with caplog.at_level(logging.WARNING), pytest.raises(DecodeError):
                list(one.decode(stream_of(video), damaged))
        assert not caplog.messages, "of a damaged run nobody says that the CPU decodes it"

    @pytest.mark.parametrize("falls_back", [False, True])
    def test_a_gpu_decoder_that_is_none_is_told_or_replaced(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, falls_back: bool
    ) -> None:
        """torchcodec puts the planes that its CPU decoder makes on the GPU, and says so only when it is asked."""
        reason = "[CUDA] Fallback status: Falling back due to: Video not supported"

        class Status:
            status_known = True

            def __str__(self) -> str:
                return reason

        class OnTheCpu:
            def __init__(self, data: object, *, device: str, output_dtype: torch.dtype) -> None:
                assert (device, output_dtype) == ("cuda:0", torch.uint8)
                self.cpu_fallback = Status()

        monkeypatch.setattr("gpuload.decode.torchcodec.unusable", lambda device: None)
        monkeypatch.setattr("gpuload.decode.torchcodec.device_trouble", lambda device, error: None)
        monkeypatch.setattr("torchcodec.decoders.VideoDecoder", OnTheCpu)
        video = load_index(make_video(tmp_path / "video.mp4", frames=6, gop=3), cache_dir=tmp_path)
        decoder = TorchcodecDecoder("cuda:0", falls_back=falls_back)
        if not falls_back:
            with pytest.raises(
                ConfigError, match=r"video\.mp4: cuda:0 does not decode this h264 stream.*not supported"
            ):
                list(decoder.decode(stream_of(video), whole(video)))
            return
        with caplog.at_level(logging.WARNING):
            found = dict(decoder.decode(stream_of(video), whole(video)))
        assert decoder.fell_back
        assert any("Video not supported" in line for line in caplog.messages)
        wanted = decode_all(tmp_path / "video.mp4")
        for frame, packet in enumerate(video.frame_packet.tolist()):
            assert np.array_equal(pixels_of(found[packet]), wanted[frame])

    def test_what_another_decoder_did_verifies_and_measures_nothing(tmp_path: Path) -> None:
        video = load_index(make_video(tmp_path / "video.ts", frames=8, gop=4), cache_dir=tmp_path)
        sharing, stream = Sharing(wanted=True), stream_of(video)
        worker = DeviceWorker(TorchcodecDecoder(falls_back=True), torch.device("cpu"), sharing, lambda: True)
        done = Done(0)
        assert len(list(worker.decoded(stream, whole(video), done))) == 8
        assert not done.is_measured
        assert done.frames_fallen_back == 8
        assert sharing.is_to_verify(stream), "nothing has been compared"

    def test_pictures_of_one_call_reach_their_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # On the device ``cpu``, in threads as on a GPU.
        monkeypatch.setattr(loader, "finishing_device", torch.device)
        monkeypatch.setattr(route.Router, "way", lambda self, file: route.Way("torchcodec-rgb", "cuda"))
        source = NumberedSource(tmp_path, episodes=2, frames=6, cameras=1, pix_fmt="yuv444p", tint=True)
        pictures = [decode_all(path) for path in source.paths]
        with loader.Loader(
            source, 4, shuffle="block", num_threads=1, backend="torchcodec-rgb", device="cpu"
        ) as loading:
            seen = []
            for batch in loading:
                for row, sample in enumerate(batch["index"].tolist()):
                    refs = source.frames(np.array([sample]))
                    for t in range(len(source.offsets)):
                        expected = pictures[refs.file[0, t]][refs.frame[0, t]].astype(int)
                        assert np.abs(batch["cam0"][row, t].numpy().astype(int) - expected).max() <= 1
                    seen.append(sample)
        assert sorted(seen) == list(range(len(source)))
