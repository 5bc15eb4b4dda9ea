"""Storage that is slow to answer: what will be read is announced, enough of it and not too much."""

import ctypes
import mmap
import os
import time
from pathlib import Path

import pytest

from gpuload import Loader
from gpuload.errors import VideoError
from gpuload.pipeline import feed
from gpuload.store.cache import BlobCache, BlobKey
from gpuload.store.local import LocalFiles
from tests.source import NumberedSource


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
    monkeypatch.setattr(feed, "EXPECTED_BYTES", 1)
    with Loader(source, 1, num_threads=1) as loader:
        list(loader)
    assert not noted.unannounced
    assert noted.most_ahead <= 5  # a batch of two GOPs at most a camera, and one more


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
