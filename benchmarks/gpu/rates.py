"""Frames a second of several decoders at once, each in a thread of its own with a stream of its own."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import torch

from benchmarks.gil import busy
from benchmarks.gpu.candidates import make
from benchmarks.gpu.coded import Coded
from gpuload.device.stream import DeviceStream

PATIENCE_S = 60.0
"""Until every session has decoded its first run."""
Step = Callable[[], int]


def session_of(name: str, device: str, coded: Sequence[Coded], seed: int) -> tuple[Step, Callable[[], None]]:
    """``(step, close)``: a step decodes a random run and says how many pictures came out of it. All of them are made,
    and none is kept."""
    decoder, draw = make(name, device), random.Random(seed)
    choices = [(one.stream, run) for one in coded for run in one.runs]

    def step() -> int:
        stream, run = draw.choice(choices)
        return sum(1 for _ in decoder.decode(stream, run))

    return step, decoder.close


def rate(
    name: str,
    device: str,
    coded: Sequence[Coded],
    *,
    sessions: int,
    seconds: float,
    beside: str = "",
    meet: Callable[[], object] = lambda: None,
) -> float:
    """Frames a second of all sessions together; each is counted until its own last run has ended on the GPU.

    ``beside``: ``thread`` or ``process``, where pure Python runs without pause meanwhile. ``meet`` is called once, when
    every session is ready or one has failed: to wait for other processes that measure at the same time.

    Raises:
        Exception: the first one of any session.
    """
    ready, go, stop = threading.Barrier(sessions + 1), threading.Event(), threading.Event()
    where = torch.device(device)
    begin = 0.0

    def work(seed: int) -> float:
        try:
            stream = DeviceStream(where)
            with stream.active():
                step, close = session_of(name, device, coded, seed)
                step()
                stream.synchronize()
        except BaseException:
            ready.abort()  # nobody needs to wait for this one
            raise
        try:
            ready.wait(PATIENCE_S)
            go.wait()
            count = 0
            with stream.active():
                while not stop.is_set():
                    count += step()
                stream.synchronize()
            return count / (time.perf_counter() - begin)
        finally:
            close()

    with ThreadPoolExecutor(sessions) as pool:
        futures = [pool.submit(work, seed) for seed in range(sessions)]
        try:
            ready.wait(PATIENCE_S)
        except threading.BrokenBarrierError:
            stop.set()
            go.set()
            meet()
            raise _first_error([future.exception() for future in futures]) from None
        meet()
        with busy(beside) if beside else nullcontext():
            if beside:
                time.sleep(min(1.0, seconds))  # a process needs a moment to begin
            begin = time.perf_counter()
            go.set()
            time.sleep(seconds)
            stop.set()
            return sum(future.result() for future in futures)


def _first_error(errors: Sequence[BaseException | None]) -> BaseException:
    found = [error for error in errors if error is not None]
    real = [error for error in found if not isinstance(error, threading.BrokenBarrierError)]
    return next(iter([*real, *found]), RuntimeError(f"a session was not ready after {PATIENCE_S:.0f} s"))
