"""Writes every clip and dataset of a run, on all cores, before anything is measured."""

from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from benchmarks.datasets import LONG
from benchmarks.gpu import backends, tensors
from benchmarks.gpu.clips import Clip, ensure_clip
from benchmarks.gpu.setting import Setting, first_line, say
from benchmarks.gpu.workloads import ON_CPU, TINY_AV1, Workload, ensure_workload, workloads
from gpuload.cores import usable_cores


def write(item: Clip | Workload, folder: Path, times: int) -> str:
    """One clip or dataset; its name."""
    if isinstance(item, Clip):
        ensure_clip(item, folder)
    else:
        ensure_workload(item, folder, times=times)
    return item.name


def measure(setting: Setting) -> None:
    """What takes longest first. What fails is said, and tried again by whoever needs it."""
    items: list[Clip | Workload] = []
    if set(setting.sections) & {"limit", "loading", "rivals"}:
        items += workloads(setting)
    if "host_path" in setting.sections:
        items.append(TINY_AV1 if setting.dry else ON_CPU)
    clips = tensors.clips(dry=setting.dry) if "tensors" in setting.sections else []
    if any(name.startswith("backend ") for name in setting.sections):
        clips += backends.all_clips(setting)
    items += sorted(dict.fromkeys(clips), key=lambda clip: -clip.frames * clip.width * clip.height)
    if setting.dry:
        for item in items:
            write(item, setting.folder, LONG)
        say("written", len(items))
        return
    done = 0
    with ProcessPoolExecutor(usable_cores(), mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(write, item, setting.folder, LONG): item for item in items}
        for future in as_completed(waiting):
            if error := future.exception():
                say(waiting[future].name, {"failed": first_line(error)})
            else:
                done += 1
    size = sum(path.stat().st_size for path in setting.folder.rglob("*.mp4"))
    say("written", {"items": done, "bytes": size})
