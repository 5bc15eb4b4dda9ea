"""What the GPU's decoders can do at best: every engine busy with random GOPs, nothing planned, converted or kept.

Sessions are spread over one process or several: several do not share an interpreter lock, and so say whether the
limit of one process is NVDEC's or Python's. The best of everything tried is the limit that loaders are held against.
"""

import multiprocessing
import os
import queue
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from benchmarks.gpu.rates import rate
from benchmarks.gpu.setting import Setting, first_line, say
from benchmarks.gpu.workloads import coded_of, ensure_once, workloads

PLANES = ("torchcodec", "pyav_cuda", "pynvvideocodec")
"""Candidates that give planes: those that convert colours do more than decode."""
SAFE = ("torchcodec",)
"""Tried where no earlier section says which ones work: a process that crashes ends the section."""
START_S = 600.0
"""How long a process waits for the others of a job: those with few processes come first, and take minutes together."""


@dataclass(frozen=True, slots=True)
class Job:
    """One measurement: so many processes, each with so many sessions."""

    workload: str
    root: str
    candidate: str
    processes: int
    sessions: int

    @property
    def label(self) -> str:
        return f"{self.candidate} {self.processes}x{self.sessions}"


def proven(setting: Setting) -> list[str]:
    """Candidates of planes that an earlier section saw bit-equal wherever they decode; the safe ones if none looked."""
    earlier = setting.earlier()
    found = []
    for name in PLANES:
        checks = {
            key: value for key, value in earlier.get(f"backend {name}", {}).items() if str(key).startswith("planes ")
        }
        decoded = [value for value in checks.values() if "of" in value]
        if decoded and all(value["equal"] == value["of"] for value in decoded):
            found.append(name)
    looked = any(f"backend {name}" in earlier for name in PLANES)
    return found if looked and found else list(SAFE)


def plan_jobs(setting: Setting) -> list[Job]:
    """The most telling shape of every workload first: what there is no time for is left out at the end."""
    shapes = [(1, 7), (1, 14), (2, 7), (4, 4), (1, 8), (1, 16), (7, 2), (1, 4)]
    if setting.dry:
        shapes = [(1, 1), (2, 1)]
    elif setting.quick:
        shapes = shapes[:3]
    roots = {workload.name: str(ensure_once(workload, setting.folder)) for workload in workloads(setting)}
    candidates = proven(setting)
    return [
        Job(workload, root, candidate, processes, sessions)
        for processes, sessions in shapes
        for workload, root in roots.items()
        for candidate in candidates
    ]


def measure(setting: Setting) -> None:
    """Runs every job, and says the best of each workload."""
    jobs = plan_jobs(setting)
    context = multiprocessing.get_context("spawn")
    count = max(job.processes for job in jobs)
    meets = {number: context.Barrier(number) for number in {job.processes for job in jobs}}
    results = context.Queue()
    arguments = (setting.device, jobs, setting.seconds, setting.deadline_s, meets, results)
    workers = [context.Process(target=work, args=(number, *arguments), daemon=True) for number in range(count)]
    for worker in workers:
        worker.start()
    found: dict[tuple[str, str], list[Any]] = {}
    best: dict[str, tuple[float, str]] = {}
    try:
        for _ in range(sum(job.processes for job in jobs)):
            number, value = next_result(results, workers, setting.left_s)
            job = jobs[number]
            parts = found.setdefault((job.workload, job.label), [])
            parts.append(value)
            if len(parts) < job.processes:
                continue
            errors = [part for part in parts if isinstance(part, str)]
            total = 0.0 if errors else sum(parts)
            say(f"{job.workload}: {job.label}", {"failed": errors[0]} if errors else round(total))
            if total > best.get(job.workload, (0.0, ""))[0]:
                best[job.workload] = total, job.label
                say(f"{job.workload}: limit", {"frames_per_s": round(total), "by": job.label})
    except TimeoutError as error:
        say("left out", str(error))
    finally:
        for worker in workers:
            worker.join(timeout=1.0)
            if worker.is_alive():
                worker.kill()


def next_result(
    results: "Queue[tuple[int, Any]]", workers: Sequence[multiprocessing.process.BaseProcess], left_s: float
) -> tuple[int, Any]:
    """What a worker says next.

    Raises:
        TimeoutError: nothing came until the deadline, or a worker has ended early.
    """
    end = time.monotonic() + left_s
    while time.monotonic() < end:
        try:
            return results.get(timeout=1.0)
        except queue.Empty:
            codes = [worker.exitcode for worker in workers]
            if any(codes):
                raise TimeoutError(f"a process ended early: exit codes {codes}") from None
    raise TimeoutError("no time was left")


def work(
    number: int,
    device: str,
    jobs: Sequence[Job],
    seconds: float,
    deadline_s: float,
    meets: Mapping[int, Barrier],
    results: "Queue[tuple[int, Any]]",
) -> None:
    """One process: its share of every job, all of them at the same time."""
    os.environ["OMP_NUM_THREADS"] = "1"
    loaded: dict[str, Any] = {}
    for index, job in enumerate(jobs):
        if time.time() > deadline_s - seconds - 2:
            return
        if number >= job.processes:
            continue
        if job.root not in loaded:
            loaded[job.root] = coded_of(Path(job.root))
        meet = partial(meets[job.processes].wait, START_S)
        try:
            meet()  # nobody makes sessions while others still measure the job before
            found = rate(job.candidate, device, loaded[job.root], sessions=job.sessions, seconds=seconds, meet=meet)
            results.put((index, found))
        except Exception as error:  # noqa: BLE001 - any library's any failure: the next job may do well
            results.put((index, first_line(error)))
