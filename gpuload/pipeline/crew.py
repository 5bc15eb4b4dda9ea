"""The decode workers of a loader."""

from collections.abc import Callable, Iterator

from gpuload.pipeline.route import Way
from gpuload.pipeline.work import DecodeWorker


class Crew:
    """Workers of every kind that files need; a kind is made when a file first needs it. Used by one thread at a time.

    ``make(way)`` makes one worker, ``count(way)`` says how many there are of a kind.
    """

    def __init__(
        self, make: Callable[[Way], DecodeWorker], count: Callable[[Way], int], route: Callable[[int], Way]
    ) -> None:
        self._make, self._count, self._route = make, count, route
        self._workers: dict[Way, list[DecodeWorker]] = {}
        self.restarted = 0
        """Workers that ended without being asked to, and were replaced."""

    def __iter__(self) -> Iterator[DecodeWorker]:
        return iter([worker for workers in list(self._workers.values()) for worker in workers])

    def able(self, file: int) -> list[DecodeWorker]:
        """Those that decode a file."""
        return self.of(self._route(file))

    def of(self, way: Way) -> list[DecodeWorker]:
        """The workers of one kind, all alive when they are handed out."""
        workers = self._workers.setdefault(way, [])
        for index, worker in enumerate(workers):
            if not worker.alive:
                worker.close()
                self.restarted += 1
                workers[index] = self._make(way)
        while len(workers) < self._count(way):
            workers.append(self._make(way))
        return workers

    def crosses(self, file: int) -> bool:
        """Whether a file's pictures are decoded in host memory."""
        return self._route(file).device == "cpu"

    def drop(self, worker: DecodeWorker) -> None:
        """Ends a worker whose work nobody wants; another one is made when it is needed."""
        worker.close()
        for workers in self._workers.values():
            if worker in workers:
                workers.remove(worker)

    def close(self) -> None:
        """Ends all workers."""
        for worker in self:
            worker.close()
        self._workers.clear()
