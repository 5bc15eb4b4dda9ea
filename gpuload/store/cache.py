"""The blob cache: encoded bytes of GOPs, read once, counted while in use, within a byte budget."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import NamedTuple

from gpuload.errors import CacheFull


class BlobKey(NamedTuple):  # hashed a dozen times for a GOP: a dataclass does that in Python
    """Bytes ``[start, stop)`` of one file; for packets without a byte range a made-up name, 0 and their total size."""

    path: str
    start: int
    stop: int


Reader = Callable[[BlobKey], bytes]


class _Entry:
    __slots__ = ("data", "error", "holds", "is_idle", "next_use")

    def __init__(self, *, holds: int = 0, next_use: float = 0.0) -> None:
        self.data: bytes | None = None
        self.error: BaseException | None = None
        self.holds, self.next_use = holds, next_use
        self.is_idle = False


class Lease:
    """A counted hold on blobs; ``data`` stays as long as it is not released. Release twice is release once."""

    __slots__ = ("_cache", "data", "keys")

    def __init__(self, cache: "BlobCache", keys: Sequence[BlobKey], data: Sequence[bytes]) -> None:
        self._cache: BlobCache | None = cache
        self.keys = keys
        self.data = data

    def release(self) -> None:
        release_all([self])

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def release_all(leases: Iterable[Lease]) -> None:
    """Releases leases, those of one cache at once."""
    keys: dict[BlobCache, list[BlobKey]] = {}
    for lease in leases:
        cache, lease._cache = lease._cache, None
        if cache is not None:
            keys.setdefault(cache, []).extend(lease.keys)
    for cache, held in keys.items():
        cache._release(held)


class BlobCache:
    """Thread-safe. A leased blob is never evicted; what is needed furthest ahead goes first (Belady)."""

    def __init__(self, capacity_bytes: int, read: Reader, expect: Callable[[BlobKey], None] | None = None) -> None:
        """``read`` gives the bytes of a blob; ``expect`` is told which ones it will be asked for soon."""
        self.capacity_bytes = capacity_bytes
        self._read, self._expect = read, expect
        self._entries: dict[BlobKey, _Entry] = {}
        self._expected: set[BlobKey] = set()
        """Announced, and not acquired since."""
        self._idle: list[tuple[float, int, BlobKey]] = []
        """Heap of (-next use, tie breaker, key); a key that is held or gone by now is passed over when it comes up."""
        self._idle_bytes = 0
        self._ties = itertools.count()
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)  # slower to enter than its lock: Python
        self.used_bytes = 0
        self.bytes_read = 0

    @property
    def leased(self) -> int:
        """Blobs that are held now."""
        with self._changed:
            return sum(entry.holds > 0 for entry in self._entries.values())

    @property
    def is_half_empty(self) -> bool:
        """No more than half of the budget is held."""
        return 2 * (self.used_bytes - self._idle_bytes) <= self.capacity_bytes

    def forget(self) -> None:
        """Drops what nobody holds: what it was kept for will not come."""
        with self._changed:
            for key in [key for key, entry in self._entries.items() if entry.is_idle]:
                self._drop(key)
            self._idle.clear()
            self._expected.clear()

    def expect(self, key: BlobKey) -> None:
        """Tells where blobs come from that this one will be acquired soon. Nothing is held; it never fails."""
        with self._lock:
            is_new = key not in self._entries and key not in self._expected
            self._expected.add(key)
        if self._expect is not None and is_new:
            self._expect(key)

    def acquire(
        self,
        key: BlobKey,
        *,
        next_use: float = float("inf"),
        timeout_s: float | None = 60.0,
        read: Reader | None = None,
    ) -> Lease:
        """``acquire_all`` of one blob; cheaper where it is new and there is room, as most are."""
        num_bytes = key.stop - key.start
        with self._lock:
            is_simple = key not in self._entries and self.used_bytes + num_bytes <= self.capacity_bytes
            if is_simple:
                self._entries[key] = _Entry(holds=1, next_use=next_use)
                self.used_bytes += num_bytes
                self._expected.discard(key)
        if not is_simple:
            return self.acquire_all([key], next_use=next_use, timeout_s=timeout_s, read=read)
        try:
            data = (read or self._read)(key)
        except BaseException as error:
            # In no variable: the error's traceback would hold the entry, which holds the error.
            self._entries[key].error = error
            self._release((key,))
            raise
        with self._lock:
            self._entries[key].data = data
            self.bytes_read += len(data)
            self._changed.notify_all()
        return Lease(self, (key,), (data,))

    def acquire_all(
        self,
        keys: Iterable[BlobKey],
        *,
        next_use: float = float("inf"),
        timeout_s: float | None = 60.0,
        read: Reader | None = None,
    ) -> Lease:
        """Holds all of ``keys`` or none; reads what is missing, each blob once however many ask.

        ``next_use``: position at which they are wanted again after this; furthest is evicted first.
        ``timeout_s`` 0: do not wait for others to release. ``read``: instead of the cache's own.

        Raises:
            CacheFull: they are larger than the budget, or nothing was released in time. What the reader raises.
        """
        wanted = tuple(dict.fromkeys(keys))
        mine = self._reserve(wanted, next_use, timeout_s)
        try:
            for key in mine:
                data = (read or self._read)(key)
                with self._changed:
                    self._entries[key].data = data
                    self.bytes_read += len(data)
                    self._changed.notify_all()
            with self._changed:
                if len(mine) < len(wanted):  # others are reading some of it
                    self._changed.wait_for(
                        lambda: all(self._entries[k].data is not None or self._entries[k].error for k in wanted)
                    )
                    for key in wanted:
                        error = self._entries[key].error
                        if error is not None:
                            raise error
                return Lease(self, wanted, [self._entries[k].data or b"" for k in wanted])
        except BaseException as error:
            with self._changed:
                for key in mine:
                    if self._entries[key].data is None:
                        self._entries[key].error = error
            self._release(wanted)
            raise

    def _reserve(self, wanted: tuple[BlobKey, ...], next_use: float, timeout_s: float | None) -> list[BlobKey]:
        total = sum(k.stop - k.start for k in wanted)
        if total > self.capacity_bytes:
            raise CacheFull(
                f"{wanted[0].path}: one decode needs {total} bytes at once, "
                f"blob_cache_bytes is {self.capacity_bytes}; raise it"
            )
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while True:
                missing = [k for k in wanted if k not in self._entries]
                need = sum(k.stop - k.start for k in missing)
                if self._make_room(need, wanted):
                    break
                left = None if deadline is None else deadline - time.monotonic()
                if (left is not None and left <= 0) or not self._changed.wait(left):
                    raise CacheFull(
                        f"{wanted[0].path}: nothing was released within {timeout_s} s; "
                        f"blob_cache_bytes is {self.capacity_bytes}; raise it"
                    )
            for key in missing:
                self._entries[key] = _Entry()
            self.used_bytes += need
            self._expected.difference_update(wanted)
            for key in wanted:
                entry = self._entries[key]
                if entry.is_idle:
                    entry.is_idle = False
                    self._idle_bytes -= key.stop - key.start
                entry.holds += 1
                entry.next_use = max(entry.next_use, next_use)  # who comes late, for a worker that died, knows less
            return missing

    def _make_room(self, need: int, wanted: tuple[BlobKey, ...]) -> bool:
        over = self.used_bytes + need - self.capacity_bytes
        if over <= 0:
            return True
        spared = frozenset(wanted)
        kept = sum(k.stop - k.start for k in spared if (e := self._entries.get(k)) is not None and e.is_idle)
        if self._idle_bytes - kept < over:
            return False
        again = []
        while over > 0:
            item = heapq.heappop(self._idle)
            entry = self._entries.get(item[2])
            if entry is None or not entry.is_idle or entry.next_use != -item[0]:
                continue
            if item[2] in spared:
                again.append(item)
                continue
            over -= item[2].stop - item[2].start
            self._drop(item[2])
        for item in again:
            heapq.heappush(self._idle, item)
        return True

    def _release(self, keys: Sequence[BlobKey]) -> None:
        with self._changed:
            for key in keys:
                entry = self._entries[key]
                entry.holds -= 1
                # Nobody will ask again, or nobody can be served: do not keep it.
                if not entry.holds and (entry.next_use == float("inf") or entry.error is not None):
                    self._drop(key)
                elif not entry.holds:
                    entry.is_idle = True
                    self._idle_bytes += key.stop - key.start
                    heapq.heappush(self._idle, (-entry.next_use, next(self._ties), key))
            self._changed.notify_all()

    def _drop(self, key: BlobKey) -> None:
        num_bytes = key.stop - key.start
        self.used_bytes -= num_bytes
        self._idle_bytes -= num_bytes if self._entries.pop(key).is_idle else 0
