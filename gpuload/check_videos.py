"""The part of the validator that looks at video files."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from gpuload.errors import GpuloadError
from gpuload.findings import NAMES, Clip, Episode, Finding, Folder, Times, first_line, ranges
from gpuload.index.load import load_index
from gpuload.index.mp4_boxes import DAMAGED
from gpuload.index.video import VideoIndex
from gpuload.sources.lerobot_frames import nearest_frames, overlapping, row_times
from gpuload.sources.lerobot_meta import read_feature


def check_videos(
    folder: Folder,
    episodes: list[Episode],
    times: Mapping[int, Times],
    sound: list[tuple[Path, int]],
    *,
    tolerance_s: float,
) -> Iterator[Finding]:
    """Every mp4 against the features and the timestamps that ask for its frames. Those that have an index are added to
    ``sound``, with how many frames they have."""
    users: dict[tuple[str, Path], list[tuple[int, Clip]]] = {}
    for episode in episodes:
        for clip in episode.clips:
            users.setdefault((clip.camera, clip.path), []).append((episode.number, clip))
    counts = Counter(camera for camera, _ in users)
    absent = {camera for camera, n in counts.items() if n > 1} - {camera for camera, path in users if path.is_file()}
    for camera in sorted(absent):
        paths = sorted(path for other, path in users if other == camera)
        others = sorted(set(counts) - absent)
        text = f"camera {camera} has no file at all: this one is missing and {len(paths) - 1} more"
        yield folder.error(paths[0], text, f"fetch them, remove the camera from info.json, or load video_keys={others}")
    for (camera, path), clips in sorted(users.items()):
        if camera in absent:
            continue
        if not path.is_file():
            hit = ranges([number for number, _ in clips])
            yield folder.error(path, f"is missing; camera {camera} of episodes {hit} needs it")
            continue
        try:
            index = load_index(str(path))
        except (GpuloadError, OSError) as cause:
            said = first_line(cause).removeprefix(f"{path.absolute()}: ").removeprefix(f"{path}: ")
            text, _, advice = said.partition(DAMAGED)
            yield folder.error(path, text, advice or "fetch or encode the file again")
            continue
        ends = int((index.pos + index.size).max()) if index.contiguous and len(index.pos) else 0
        if ends > path.stat().st_size:
            yield folder.error(path, f"is truncated: packets reach byte {ends}, it has {path.stat().st_size}")
        yield from check_stream(folder, path, camera, index)
        pts_s, claimed = index.pts_s, list[tuple[int, int, int]]()
        for number, clip in clips:
            if number not in times:
                continue
            asked_s, frames = find_frames(folder, clip, times[number], pts_s, tolerance_s=tolerance_s)
            yield from check_clip(folder, clip, number, pts_s, asked_s, frames, tolerance_s=tolerance_s)
            yield from check_span(folder, clip, number, len(times[number]))
            shown = frames[frames >= 0]
            if len(shown):
                claimed.append((int(shown.min()), int(shown.max()), number))
        yield from check_overlaps(folder, path, claimed)
        sound.append((path, index.num_frames))


def check_stream(folder: Folder, path: Path, camera: str, index: VideoIndex) -> Iterator[Finding]:
    """Size, codec and frame rate of a file against ``info.json``."""
    feature = read_feature(folder.root / "meta" / "info.json", camera, folder.features[camera])
    stated, (height, width) = feature.height_width, index.shown_size
    if stated not in (None, (height, width)):
        text = f"is {width}x{height}, info.json says {stated[1]}x{stated[0]} for {camera}"
        yield folder.warning(path, text, f"correct the shape of {camera} in meta/info.json: policies are built by it")
    codec = str(feature.info.get("video.codec") or index.codec).lower()
    if index.codec not in (NAMES.get(codec, codec), codec.partition("_")[0]):  # h264_nvenc
        text = f"is {index.codec}, info.json says {codec} for {camera}"
        yield folder.warning(path, text, "correct video.codec in meta/info.json")
    if index.codec not in av.codecs_available:
        yield folder.error(path, f"this FFmpeg has no decoder for {index.codec}", "encode the file again, as h264")
    if index.num_frames > 1 and math.isfinite(folder.fps):
        step_s = float(np.median(np.diff(index.pts_s)))
        if step_s <= 0 or abs(1 / step_s - folder.fps) > 0.01 * folder.fps:
            rate = "no rate" if step_s <= 0 else f"{1 / step_s:.4g} frames/s"
            yield folder.error(path, f"has {rate}, info.json says fps {folder.fps:g}", "correct fps in meta/info.json")


def find_frames(
    folder: Folder, clip: Clip, stamps: Times, pts_s: npt.NDArray[np.float64], *, tolerance_s: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int32]]:
    """Seconds in the file of an episode's rows that have a time, and the frame of each; -1: there is none."""
    rows = np.flatnonzero(np.isfinite(stamps))
    times = row_times(stamps[rows], rows, fps=folder.fps)
    asked_s = times.seconds + clip.from_s
    return asked_s, nearest_frames(asked_s, pts_s, tolerance_s + times.slack_s)


def check_clip(
    folder: Folder,
    clip: Clip,
    episode: int,
    pts_s: npt.NDArray[np.float64],
    asked_s: npt.NDArray[np.float64],
    frames: npt.NDArray[np.int32],
    *,
    tolerance_s: float,
) -> Iterator[Finding]:
    """Every timestamp of an episode has a frame within the tolerance."""
    lost = np.flatnonzero(frames < 0)
    if len(lost) and len(pts_s):
        text = f"episode {episode}: {len(lost)} of {len(asked_s)} timestamps have no frame within {tolerance_s} s, the "
        text += f"first is {asked_s[lost[0]]:.4f} s; frames go from {pts_s[0]:.4f} s to {pts_s[-1]:.4f} s"
        yield folder.error(clip.path, text, "fetch the file again, or raise tolerance_s if all are off by a little")


def check_span(folder: Folder, clip: Clip, episode: int, length: int) -> Iterator[Finding]:
    """``to_timestamp`` lies as far from ``from_timestamp`` as the rows are long; only tools that cut videos use it."""
    if clip.to_s is None or not math.isfinite(folder.fps):
        return
    said, real = clip.to_s - clip.from_s, length / folder.fps
    if not abs(said - real) <= 1.5 / folder.fps:
        text = f"episode {episode} of {clip.camera} lasts {said:.4f} s by its timestamps, {real:.4f} s by its rows"
        yield folder.warning(folder.root / "meta" / "episodes", text, "correct to_timestamp")


def check_overlaps(folder: Folder, path: Path, claimed: list[tuple[int, int, int]]) -> Iterator[Finding]:
    """No frame belongs to two episodes, unless somebody wants it so: first and last frame of each, and its number."""
    shared = overlapping(claimed)
    if shared:
        text = f"episodes {ranges(sorted(shared))} show frames of other episodes by their from_timestamps"
        yield folder.warning(path, text, "correct from_timestamp in meta/episodes, if that is not meant")
