"""What a dataset holds and what would decode it: ``gpuload info``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch

from gpuload.datasets import LeRobotDataset
from gpuload.decode.registry import AUTO, Machine, StreamKind, choose, find_machine, kind_of
from gpuload.decode.session import DECODERS
from gpuload.index.video import VideoIndex
from gpuload.sources.base import SampleSource
from gpuload.sources.lerobot_meta import read_meta
from gpuload.sources.lerobot_root import find_root

CHUNK = 1 << 16
"""Samples looked up at once."""


@dataclass(frozen=True, slots=True)
class Camera:
    """One video feature over all its files."""

    key: str
    codec: str
    pixel_format: str
    width: int
    height: int
    files: int
    frames: int
    gop_min: int
    gop_median: int
    gop_max: int
    bytes: int
    decoder: str
    """What would decode it on this machine, with the reason; parted by ``|`` where its files differ."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A dataset at a glance."""

    root: str
    fps: float
    episodes: int
    samples: int
    columns: tuple[tuple[str, str, tuple[int, ...]], ...]
    """Name, dtype and shape of every feature that is no video."""
    cameras: tuple[Camera, ...]
    absent: tuple[str, ...]
    """Cameras that the metadata list and that have no file at all."""


def summarize(path: str, *, video_keys: Sequence[str] | None = None) -> Summary:
    """Open the dataset, index every video file that its samples use, and describe both. Decodes nothing.

    On a machine with a GPU it asks the driver what NVDEC decodes, for which it initialises CUDA.

    Args:
        video_keys: cameras to look at; without it, all that have files.

    Raises:
        DatasetError: the folder cannot be opened as a dataset.
        VideoError: a video file cannot be indexed.
    """
    root = find_root(path)
    listed = read_meta(root).episodes.videos
    absent = tuple(key for key, place in listed.items() if not any((root / file).exists() for file in place.files))
    if video_keys is None:
        video_keys = [key for key in listed if key not in absent]
    dataset = LeRobotDataset(path, video_keys=video_keys)
    source = dataset.source
    files = files_of(source)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    machine = find_machine(device=device, backend=AUTO)
    features = dataset.meta.features
    cameras = []
    for i, field in enumerate(source.video_fields):
        videos = [source.video(file) for file in files[i]]
        kinds = {kind_of(video, is_depth=field.key in dataset.meta.depth_keys) for video in videos}
        decoders = sorted({decoder_of(kind, device=device, machine=machine) for kind in kinds})
        cameras.append(describe(field.key, videos, decoder=" | ".join(decoders)))
    return Summary(
        root=str(path),
        fps=float(dataset.meta.fps),
        episodes=int(dataset.num_episodes),
        samples=len(source),
        columns=tuple(
            (key, str(feature["dtype"]), tuple(int(n) for n in feature["shape"]))
            for key, feature in features.items()
            if feature["dtype"] != "video"
        ),
        cameras=tuple(cameras),
        absent=absent,
    )


def files_of(source: SampleSource) -> list[list[int]]:
    """File numbers of each video field, ascending."""
    found: list[set[int]] = [set() for _ in source.video_fields]
    for start in range(0, len(source), CHUNK):
        refs = source.frames(np.arange(start, min(start + CHUNK, len(source)), dtype=np.int64))
        slot = 0
        for i, field in enumerate(source.video_fields):
            numbers = np.unique(refs.file[:, slot : slot + field.num_offsets])
            found[i] |= {int(number) for number in numbers if number >= 0}
            slot += field.num_offsets
    return [sorted(numbers) for numbers in found]


def describe(key: str, videos: list[VideoIndex], *, decoder: str) -> Camera:
    """One camera from the indexes of its files; the first file names codec and size."""
    if not videos:
        return Camera(key, "none", "", 0, 0, 0, 0, 0, 0, 0, 0, "nothing: no file has a frame of this camera")
    lengths = np.concatenate([np.diff(video.gops, axis=1)[:, 0] for video in videos])
    first = videos[0]
    turned = first.rotation % 180 != 0
    return Camera(
        key=key,
        codec=first.codec,
        pixel_format=first.pixel_format,
        width=first.height if turned else first.width,
        height=first.width if turned else first.height,
        files=len(videos),
        frames=sum(video.num_frames for video in videos),
        gop_min=int(lengths.min()),
        gop_median=int(np.median(lengths)),
        gop_max=int(lengths.max()),
        bytes=sum(Path(video.path).stat().st_size for video in videos),
        decoder=decoder,
    )


def decoder_of(kind: StreamKind, *, device: str, machine: Machine) -> str:
    """What decodes ``kind`` for batches on ``device``, and why, in a sentence."""
    choice = choose(kind, device=device, backend=AUTO, machine=machine)
    if choice.backend != "pyav":
        return f"{choice.backend} on the GPU: {choice.reason}"
    try:
        return f"pyav on the CPU, FFmpeg's {av.Codec(DECODERS.get(kind.codec, kind.codec), 'r').name}: {choice.reason}"
    except av.codec.codec.UnknownCodecError:
        return f"nothing: this FFmpeg has no decoder for {kind.codec}, and on a GPU: {choice.reason}"
