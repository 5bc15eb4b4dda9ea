"""Laws of the blob cache: counted, all or none, one read a blob, never over its budget, furthest use goes first."""

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from gpuload.errors import CacheFull
from gpuload.store.cache import BlobCache, BlobKey, Lease, release_all


def key(number: int, size: int = 10) -> BlobKey:
    return BlobKey("file", number * 1000, number * 1000 + size)


class Reads:
    """A reader that counts: blob ``n`` holds its own start, repeated."""

    def __init__(self) -> None:
        self.of = Counter[BlobKey]()
        self.broken: set[BlobKey] = set()
        self.gate = threading.Event()
        self.gate.set()
        self._lock = threading.Lock()

    def __call__(self, wanted: BlobKey) -> bytes:
        with self._lock:
            self.of[wanted] += 1
        self.gate.wait(10)
        if wanted in self.broken:
            raise OSError(f"cannot read {wanted.start}")
        return content(wanted)


def content(wanted: BlobKey) -> bytes:
    return bytes([wanted.start // 1000 % 256]) * (wanted.stop - wanted.start)


@pytest.fixture
def reads() -> Reads:
    return Reads()


def test_a_leased_blob_outlives_pressure(reads: Reads) -> None:
    cache = BlobCache(30, reads)
    with cache.acquire_all([key(0), key(1)], next_use=9.0) as lease:
        for number in range(2, 12):
            cache.acquire_all([key(number)], next_use=1.0).release()
        assert list(lease.data) == [content(key(0)), content(key(1))]
        assert cache.acquire_all([key(0)]).data[0] == content(key(0))
        assert reads.of[key(0)] == 1


def test_what_is_needed_furthest_ahead_goes_first(reads: Reads) -> None:
    cache = BlobCache(30, reads)
    for number, next_use in ((0, 5.0), (1, 50.0), (2, 20.0)):
        cache.acquire_all([key(number)], next_use=next_use).release()
    cache.acquire_all([key(3)], next_use=1.0).release()
    before = dict(reads.of)
    for number in (0, 2, 3):
        cache.acquire_all([key(number)], next_use=1.0).release()
    assert dict(reads.of) == before
    cache.acquire_all([key(1)]).release()
    assert reads.of[key(1)] == 2


def test_what_nobody_asks_for_again_goes_at_once(reads: Reads) -> None:
    cache = BlobCache(100, reads)
    lease = cache.acquire_all([key(0), key(1)])
    lease.release()
    lease.release()
    assert cache.used_bytes == 0
    assert cache.leased == 0


def test_all_or_none(reads: Reads) -> None:
    cache = BlobCache(30, reads)
    held = cache.acquire_all([key(0), key(1)])
    with pytest.raises(CacheFull, match="blob_cache_bytes is 30"):
        cache.acquire_all([key(2), key(3)], timeout_s=0.0)
    assert cache.used_bytes == 20
    assert reads.of[key(2)] == 0
    held.release()
    assert len(cache.acquire_all([key(2), key(3)], timeout_s=0.0).data) == 2
    with pytest.raises(CacheFull, match="raise it"):
        cache.acquire_all([key(4, 31)])


def test_what_is_asked_for_is_not_evicted_to_make_room_for_it(reads: Reads) -> None:
    cache = BlobCache(30, reads)
    for number, next_use in ((0, 90.0), (1, 1.0), (2, 2.0)):
        cache.acquire_all([key(number)], next_use=next_use).release()
    cache.acquire_all([key(0), key(3)], timeout_s=0.0).release()
    assert reads.of[key(0)] == 1


def test_a_waiter_goes_on_when_something_is_released(reads: Reads) -> None:
    cache = BlobCache(20, reads)
    held = cache.acquire_all([key(0), key(1)])
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cache.acquire_all, [key(2)])
        time.sleep(0.05)
        assert not waiting.done()
        held.release()
        assert waiting.result(5).data[0] == content(key(2))


@pytest.mark.parametrize("alone", [False, True])
def test_one_read_however_many_ask(reads: Reads, alone: bool) -> None:
    cache = BlobCache(100, reads)
    reads.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        ask = (lambda: cache.acquire(key(7))) if alone else (lambda: cache.acquire_all([key(7)]))
        leases = [pool.submit(ask) for _ in range(8)]
        time.sleep(0.05)
        reads.gate.set()
        assert all(lease.result(5).data[0] == content(key(7)) for lease in leases)
    assert reads.of[key(7)] == 1
    assert cache.bytes_read == 10


def test_a_failed_read_reaches_every_waiter_and_is_forgotten(reads: Reads) -> None:
    cache = BlobCache(100, reads)
    reads.broken.add(key(1))
    reads.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        leases = [pool.submit(cache.acquire_all, [key(0), key(1)]) for _ in range(4)]
        time.sleep(0.05)
        reads.gate.set()
        for lease in leases:
            with pytest.raises(OSError, match="cannot read 1000"):
                lease.result(5)
    assert cache.used_bytes == 0
    assert cache.leased == 0
    reads.broken.clear()
    assert cache.acquire_all([key(1)]).data[0] == content(key(1))


def test_a_failed_read_of_one_blob_reaches_every_waiter_and_is_forgotten(reads: Reads) -> None:
    cache = BlobCache(100, reads)
    reads.broken.add(key(1))
    reads.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        leases = [pool.submit(cache.acquire, key(1)) for _ in range(4)]
        time.sleep(0.05)
        reads.gate.set()
        for lease in leases:
            with pytest.raises(OSError, match="cannot read 1000"):
                lease.result(5)
    assert (cache.used_bytes, cache.leased) == (0, 0)
    reads.broken.clear()
    assert cache.acquire(key(1)).data[0] == content(key(1))


def test_one_blob_makes_room_for_itself_or_waits(reads: Reads) -> None:
    cache = BlobCache(20, reads)
    cache.acquire(key(0), next_use=1.0).release()
    held = cache.acquire(key(1))
    assert cache.acquire(key(2)).data[0] == content(key(2))  # in the place of blob 0
    with pytest.raises(CacheFull, match="blob_cache_bytes is 20"):
        cache.acquire(key(0), timeout_s=0.0)
    held.release()
    cache.acquire(key(0), timeout_s=0.0)
    assert reads.of[key(0)] == 2


def test_many_leases_are_released_at_once(reads: Reads) -> None:
    cache = BlobCache(100, reads)
    leases = [cache.acquire(key(number)) for number in range(4)]
    leases[0].release()
    release_all(leases)
    release_all(leases)
    assert (cache.used_bytes, cache.leased) == (0, 0)


def test_many_threads_never_exceed_the_budget_nor_lose_a_byte(reads: Reads) -> None:
    cache, most = BlobCache(400, reads), [0]

    def work(seed: int) -> None:
        draw = random.Random(seed)
        held: list[Lease] = []
        for _ in range(300):
            wanted = [key(draw.randrange(60), draw.choice([10, 20])) for _ in range(draw.randrange(1, 4))]
            try:
                next_use = draw.choice([draw.random(), float("inf")])
                if len(wanted) == 1:
                    lease = cache.acquire(wanted[0], next_use=next_use, timeout_s=0.01)
                else:
                    lease = cache.acquire_all(wanted, next_use=next_use, timeout_s=0.01)
            except CacheFull:
                while held:
                    held.pop().release()
                continue
            assert list(lease.data) == [content(k) for k in dict.fromkeys(wanted)]
            most[0] = max(most[0], cache.used_bytes)
            held.append(lease)
            if len(held) > 3:
                held.pop(draw.randrange(len(held))).release()
        while held:
            held.pop().release()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert most[0] <= 400
    assert cache.leased == 0
    assert cache.used_bytes <= 400
    cache.acquire_all([key(500, 400)], timeout_s=0.0).release()  # everything idle can go
    assert cache.used_bytes == 0


def test_eviction_does_not_slow_down_with_the_number_of_blobs(reads: Reads) -> None:
    def seconds(entries: int) -> float:
        cache = BlobCache(entries * 10, reads)
        for number in range(entries):
            cache.acquire_all([key(number)], next_use=float(number)).release()
        begin = time.perf_counter()
        for number in range(entries, entries + 1000):
            cache.acquire_all([key(number)], next_use=float(number)).release()
        return time.perf_counter() - begin

    assert min(seconds(16_000) for _ in range(3)) < 10 * min(seconds(100) for _ in range(3))
