"""Storage that is slow to answer: what will be read is announced, enough of it and not too much."""

import ctypes
import mmap
import os
import resource
import time
from pathlib import Path

import numpy as np
import pytest

from gpuload import Loader
from gpuload.errors import VideoError
from gpuload.pipeline import dealer
from gpuload.store.cache import BlobCache, BlobKey
from gpuload.store.local import LocalFiles
from tests.source import NumberedSource
from tests.videos import decode_all, make_video


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> NumberedSource:
    return NumberedSource(tmp_path_factory.mktemp("readahead"), episodes=4, cameras=2, offsets=(-1, 0))


class Noted:
    """What a loader's files were asked for, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.expected: list[BlobKey] = []
        self.read: list[BlobKey] = []
        self.unannounced: list[BlobKey] = []
        self.most_ahead = 0
        expect, read = LocalFiles.expect, LocalFiles.read

        def expecting(files: LocalFiles, key: BlobKey) -> None:
            self.expected.append(key)
            self.most_ahead = max(self.most_ahead, len(self.expected) - len(self.read))
            expect(files, key)

        def reading(files: LocalFiles, key: BlobKey) -> bytes:
            self.read.append(key)
            if not any(e.path == key.path and e.start <= key.start and key.stop <= e.stop for e in self.expected):
                self.unannounced.append(key)
            return read(files, key)

        monkeypatch.setattr(LocalFiles, "expect", expecting)
        monkeypatch.setattr(LocalFiles, "read", reading)


@pytest.mark.parametrize("shuffle", ["global", "block", False])
def test_every_read_of_an_epoch_was_announced_once(
    source: NumberedSource, monkeypatch: pytest.MonkeyPatch, shuffle: str | bool
) -> None:
    noted = Noted(monkeypatch)
    with Loader(source, 8, num_threads=1, shuffle=shuffle) as loader:
        assert len(list(loader)) == 20
    assert not noted.unannounced
    assert len(noted.expected) == len(noted.read) == 4 * 2 * 4  # files x GOPs
    assert noted.most_ahead > 8  # not only what comes next


def test_no_more_is_announced_than_is_allowed(source: NumberedSource, monkeypatch: pytest.MonkeyPatch) -> None:
    noted = Noted(monkeypatch)
    monkeypatch.setattr(dealer, "EXPECTED_BYTES", 1)
    with Loader(source, 1, num_threads=1) as loader:
        list(loader)
    assert not noted.unannounced
    assert noted.most_ahead <= 5  # a batch of two GOPs at most a camera, and one more


@pytest.mark.parametrize("suffix", ["mp4", "ts"])
def test_what_is_decoded_again_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    many = NumberedSource(tmp_path, episodes=3, cameras=1, offsets=(0,))
    if suffix == "ts":  # whose packets are no ranges of bytes
        many.paths = [
            make_video(path.with_suffix(".ts"), frames=40, width=96, height=64, gop=10) for path in many.paths
        ]
    pictures = [decode_all(path) for path in many.paths]
    noted = Noted(monkeypatch)
    with Loader(many, 4, num_threads=1, shuffle="global", frame_cache_bytes=40_000) as loader:
        for batch in loader:
            for sample, picture in zip(batch["index"].tolist(), batch["cam0"], strict=True):
                assert np.array_equal(picture.numpy(), pictures[sample // 40][sample % 40])
        stats, cache = loader.stats, loader._prefetcher._cache
    assert stats.amplification > 1.5
    total = sum(int(many.video(number).size.sum()) for number in range(3))
    assert total * 0.9 < stats.bytes_read <= total * (1 if suffix == "ts" else 1.1)
    if suffix == "mp4":
        assert len(noted.read) == len(set(noted.read)) == 3 * 4
        assert noted.expected == noted.read
    assert cache.used_bytes == 0


def test_what_was_kept_for_an_epoch_that_was_left_goes(source: NumberedSource) -> None:
    with Loader(source, 4, num_threads=1, shuffle="global", frame_cache_bytes=40_000) as loader:
        cache = loader._prefetcher._cache
        iterator = iter(loader)
        most = 0
        for _ in range(10):
            next(iterator)
            most = max(most, cache.used_bytes)
        assert most
        loader._prefetcher.stop()
        assert cache.used_bytes == cache.leased == 0
        next(iter(loader))
    assert cache.used_bytes == 0


def is_in_memory(memory: mmap.mmap, place: int) -> bool:
    """Whether a page of a mapped file is in the page cache; does not bring it there."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + place
    answer = ctypes.c_ubyte()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(1), ctypes.byref(answer)):
        raise OSError(ctypes.get_errno(), "mincore")
    return bool(answer.value & 1)


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system takes no advice on files")
def test_what_is_announced_comes_into_memory_by_itself(tmp_path: Path) -> None:
    path, place = tmp_path / "cold.bin", 3 << 20
    path.write_bytes(os.urandom(1 << 22))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if is_in_memory(memory, place):
            pytest.skip("this file system keeps everything in memory")
        files = LocalFiles()
        files.expect(BlobKey(str(path), place, place + 4096))
        deadline = time.monotonic() + 10
        while not is_in_memory(memory, place) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert is_in_memory(memory, place)
        assert not is_in_memory(memory, 0)
        files.close()


def test_to_announce_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    files, key = LocalFiles(), BlobKey(str(tmp_path / "gone.mp4"), 0, 10)
    cache = BlobCache(100, files.read, files.expect)
    cache.expect(key)
    with pytest.raises(VideoError, match=r"gone\.mp4"):
        cache.acquire_all([key])
    assert cache.used_bytes == 0


def test_a_process_that_may_open_no_more_files_lets_go_of_its_own(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.bin" for number in range(80)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 10)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/dev/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 40, limits[1]))
    try:
        files = LocalFiles()
        for _ in range(2):
            assert [files.read(BlobKey(str(path), 0, 10))[0] for path in paths] == list(range(80))
            assert len(files._open) < 80
        files.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
