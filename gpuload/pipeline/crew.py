"""The decode workers of a loader."""

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial

import torch

from gpuload.decode.create import create
from gpuload.errors import LoaderClosed
from gpuload.pipeline.handle import WorkerHandle
from gpuload.pipeline.lane import DeviceLane
from gpuload.pipeline.route import Router, Way
from gpuload.pipeline.share import CodecDepth, Sharing, depth_of
from gpuload.pipeline.work import DecodeWorker, Done, release
from gpuload.transform import SlotForm

HOST = Way("pyav", "cpu")

LANES_PER_ENGINE = 2
"""Threads that feed one NVDEC engine. While one makes a run ready, waits for a surface or is in Python, the other's
packets keep the engine busy: a session of torchcodec 0.17 has one picture under way (``ulNumOutputSurfaces = 1``)."""


class Crew:
    """Workers of every kind that files need; a kind is made when a file first needs it. Used by one thread at a time.

    ``num_processes`` processes decode on the CPU and may keep ``kept_bytes`` of pictures in all; on ``device`` each
    NVDEC engine gets two threads, which decode ahead up to ``device_room()`` bytes of pictures in all.
    ``on_done(worker, result)`` and ``on_death(worker, reason)`` are called in threads of the workers.
    """

    def __init__(
        self,
        router: Router,
        forms: tuple[SlotForm, ...],
        *,
        device: torch.device | None,
        num_processes: int,
        kept_bytes: int,
        device_room: Callable[[], int],
        on_done: Callable[[DecodeWorker, Done], None],
        on_death: Callable[[DecodeWorker, str], None],
    ) -> None:
        self._router, self._forms, self._device = router, forms, device
        self._num_processes, self._kept_bytes, self._device_room = num_processes, kept_bytes, device_room
        self._on_done, self._on_death = on_done, on_death
        self._workers: dict[Way, list[DecodeWorker]] = {}
        self._closed = False
        self.sharing = Sharing(wanted=router.is_free)
        self._allowed: frozenset[CodecDepth] = frozenset()
        self.restarted = 0
        """Workers that ended without being asked to, and were replaced."""

    def __iter__(self) -> Iterator[DecodeWorker]:
        return iter([worker for workers in list(self._workers.values()) for worker in workers])

    def __len__(self) -> int:
        return sum(map(len, list(self._workers.values())))

    def pick(self, file: int, packets: int, given: Callable[[DecodeWorker], float]) -> DecodeWorker:
        """Who will be done first with a run of so many packets of a file; ``given(worker)`` is work that its load does
        not show yet."""
        way = self._router.way(file)
        workers = self.of(way)
        if way.device == "cpu" or not self.may_cross(file):
            return min(workers, key=lambda w: w.load + given(w))
        depth, pixels = depth_of(*self._router.coding(file)), packets * self._router.pixels(file)
        load_s = {on_device: self.sharing.load_s(on_device) for on_device in (False, True)}
        run_s = {on_device: self.sharing.run_s(on_device, depth, pixels) for on_device in (False, True)}
        return min(
            [*workers, *self.of(HOST)],
            key=lambda w: (w.load + given(w)) * load_s[w.on_device] + run_s[w.on_device],
        )

    def of(self, way: Way) -> list[DecodeWorker]:
        """The workers of one kind; those that have died since are made anew.

        Raises:
            GpuloadError: why such workers cannot begin here.
        """
        workers = self._workers.setdefault(way, [])
        for index, worker in enumerate(workers):
            if not worker.alive:
                if worker.fault is not None:
                    raise worker.fault.anew()
                worker.close()
                self.restarted += 1
                workers[index] = self._make(way)
        while len(workers) < self._count(way):
            workers.append(self._make(way))
        return workers

    def _count(self, way: Way) -> int:
        return self._num_processes if way.device == "cpu" else LANES_PER_ENGINE * self._router.num_engines()

    def settle(self) -> None:
        """What may be shared from now on; the same for everything of one batch."""
        self._allowed = self.sharing.allowed()

    def may_cross(self, file: int) -> bool:
        """Whether a file's pictures may be decoded in host memory."""
        return not self.is_on_device(file) or depth_of(*self._router.coding(file)) in self._allowed

    def is_on_device(self, file: int) -> bool:
        """Whether a file's pictures, most of them at least, are kept in device memory."""
        return self._router.way(file).device != "cpu"

    def leave(self, lock: threading.Condition) -> None:
        """Drops the epoch. Workers that still decode for it are ended: a new one starts sooner than they finish."""
        lost = [worker for worker in self if worker.pending or not worker.alive]
        _close(lost)
        for workers in self._workers.values():
            workers[:] = [worker for worker in workers if worker not in lost]
        self.give_up([*lost, *self], lock)
        for worker in [*lost, *self]:
            worker.load = 0.0
            worker.forget()

    def give_up(self, workers: Iterable[DecodeWorker], lock: threading.Condition) -> None:
        """Releases the leases of pending units, so that a result that comes later counts nothing down."""
        for worker in workers:
            with lock:
                left, worker.pending = worker.pending, []
            release(left)

    def close(self) -> None:
        """Ends all workers; no more are made."""
        self._closed = True
        _close(list(self))

    def _make(self, way: Way) -> DecodeWorker:
        if self._closed:
            raise LoaderClosed("the loader was closed while it was iterated")
        if way.device == "cpu":
            return WorkerHandle(
                self._forms,
                backend=way.backend,
                most_kept_bytes=self._kept_bytes // self._count(way),
                on_done=self._on_done,
                on_death=self._on_death,
            )
        assert self._device is not None
        return DeviceLane(
            partial(create, way.backend, str(self._device), falls_back=self._router.is_free),
            self._device,
            backend=way.backend,
            sharing=self.sharing,
            room=lambda: self._device_room() // self._count(way),
            on_done=self._on_done,
            on_death=self._on_death,
        )


def _close(workers: Collection[DecodeWorker]) -> None:
    """Side by side: the patience with each is counted from one moment."""
    begin = time.monotonic()
    for worker in workers:
        worker.end()
    for worker in workers:
        worker.close(spent_s=time.monotonic() - begin)
