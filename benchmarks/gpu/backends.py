"""One way of decoding: first whether its planes are the CPU's, then how fast it is. A section for each."""

import random
from collections.abc import Iterator, Sequence
from itertools import product

from benchmarks.gpu.candidates import make, obstacle, synchronize, why_not
from benchmarks.gpu.clips import SIZES, Clip, ensure_clip, plane_clips, rate_clip
from benchmarks.gpu.coded import Coded, is_rgb, load_coded, reference_frames, rgb_difference, same_planes
from benchmarks.gpu.rates import rate
from benchmarks.gpu.setting import Setting, first_line, say
from gpuload.decode.registry import RGB, Machine, find_machine

SESSIONS = (1, 2, 4, 7, 8, 14, 16)
FEW = (1, 7, 14)
CODECS = ("h264", "hevc", "av1", "vp9")
GOPS = (30, 2, 250)
STATED = 4.0
"""Levels by which a library's own RGB may differ from swscale's on average; none was seen on a GPU yet. On the CPU
torchcodec's is swscale's for 8 bits, and 1 level away on average, 12 at most, for 10 bits."""
BESIDE = "beside busy Python"


def measure(setting: Setting, name: str) -> None:
    """Planes of every clip, then the rates, the most telling ones first."""
    if reason := why_not(name, setting.device):
        say("unusable", reason)
        return
    machine = find_machine(device=setting.device, backend="torchcodec")
    for clip in plane_clips(dry=setting.dry):
        say(f"planes {clip.name}", check_planes(setting, name, clip, machine))
    for clip, sessions, beside in cells(setting):
        label = f"rate {clip.name}"
        try:
            coded = load_coded(ensure_clip(clip, setting.folder), own_only=True)
            if reason := obstacle(name, coded.video, setting.device, machine):
                say(label, {"cannot": reason})
                continue
            say(label, rates_of(setting, name, coded, sessions, beside))
        except Exception as error:  # noqa: BLE001 - any library's any failure: the next cell may do well
            say(label, {"failed": first_line(error)})


def rates_of(setting: Setting, name: str, coded: Coded, sessions: Sequence[int], beside: bool) -> dict[str, object]:
    """Frames/s by number of sessions, as far as time allows and until one fails."""
    todo = [(n, "") for n in sessions]
    if beside:
        todo += [(n, "thread") for n in ((1,) if setting.dry else (7, 14))]
    rates: dict[str, object] = {}
    for n, busy_in in todo:
        if setting.left_s < 3 * setting.seconds + 3:
            return {**rates, "left out": "no time was left"}
        try:
            found = rate(name, setting.device, [coded], sessions=n, seconds=setting.seconds, beside=busy_in)
        except Exception as error:  # noqa: BLE001 - any library's any failure: fewer sessions have worked
            return {**rates, "failed": f"{n} sessions: {first_line(error)}"}
        rates[f"{n} {BESIDE}" if busy_in else str(n)] = round(found)
    return rates


def cells(setting: Setting) -> Iterator[tuple[Clip, tuple[int, ...], bool]]:
    """``(clip, sessions, also beside busy Python)``, the default subset of everything that could be asked:

    H.264 and HEVC at 640x480 and 1080p with GOP 30 at every number of sessions, alone and beside busy Python; the other
    GOPs and sizes, VP9 and AV1, at 1, 7 and 14 sessions. ``--quick``: the former at 1, 7 and 14, and nothing else.
    """
    if setting.dry:
        for codec in ("h264", "vp9"):
            yield rate_clip(codec, SIZES[0], 30, dry=True), (1, 2), codec == "vp9"
        return
    full = FEW if setting.quick else SESSIONS
    for size, codec in product(SIZES[:2], CODECS[:2]):
        yield rate_clip(codec, size, 30), full, True
    if setting.quick:
        return
    for codec in CODECS[2:]:
        yield rate_clip(codec, SIZES[0], 30), FEW, False
    for codec, gop in product(CODECS[:2], GOPS[1:]):
        yield rate_clip(codec, SIZES[0], gop), FEW, False
    for codec, size in product(CODECS[:2], SIZES[2:]):
        yield rate_clip(codec, size, 30), FEW, False
    yield rate_clip("av1", SIZES[0], 2), FEW, False


def all_clips(setting: Setting) -> list[Clip]:
    """Every clip of this section, once."""
    return list(dict.fromkeys([*plane_clips(dry=setting.dry), *(clip for clip, _, _ in cells(setting))]))


def check_planes(setting: Setting, name: str, clip: Clip, machine: Machine) -> dict[str, object]:
    """Every picture of a clip against a sequential decode on the CPU, its runs out of order through one session."""
    try:
        path = ensure_clip(clip, setting.folder)
        coded, expected = load_coded(path), reference_frames(path)
        if reason := obstacle(name, coded.video, setting.device, machine):
            return {"cannot": reason}
        frame_of, decoder = coded.frame_of_packet, make(name, setting.device)
        equal, different, largest, total = 0, [], 0.0, 0.0
        for run in random.Random(0).sample(coded.runs, len(coded.runs)):
            pictures = list(decoder.decode(coded.stream, run))
            synchronize(setting.device)
            for packet, picture in pictures:
                frame = frame_of[packet]
                if is_rgb(picture):
                    levels = rgb_difference(picture, expected[frame])
                    largest, mean = max(largest, float(levels.max())), float(levels.mean())
                    total += mean
                    equal += mean <= STATED
                elif same_planes(picture, expected[frame]):
                    equal += 1
                else:
                    different.append(frame)
        decoder.close()
        seen = equal + len(different)
        result: dict[str, object] = {"equal": equal, "of": len(expected), "different": sorted(different)[:8]}
        if name in RGB:
            result = {"of": len(expected), "max": largest, "mean": round(total / max(len(expected), 1), 3)}
            result |= {"mean_stated": STATED, "within": equal}
        elif seen < len(expected):
            result["missing"] = len(expected) - seen
        return result
    except Exception as error:  # noqa: BLE001 - any library's any failure: the next clip may do well
        return {"failed": first_line(error)}
