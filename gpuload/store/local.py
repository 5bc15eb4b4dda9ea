"""Byte ranges of local files. Files stay open: a training loop that holds the GIL makes every system call wait."""

import ctypes
import errno
import os
import sys
from collections import OrderedDict
from collections.abc import Callable
from functools import cache

from gpuload.errors import VideoError
from gpuload.store.cache import BlobKey

MAX_OPEN = 256
"""Files: a batch's, of several cameras, and those of the runs that are announced."""


AT_ONCE = 128 << 10
"""Linux fetches no more for one call than its readahead, which is this by default (``force_page_cache_ra``)."""


class LocalFiles:
    """Reads blobs through file descriptors that it keeps, the least recently used going first. Not thread-safe."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, int] = OrderedDict()

    def read(self, key: BlobKey) -> bytes:
        """The bytes of a blob.

        Raises:
            VideoError: the file is gone or shorter than that.
        """
        try:
            return read_exactly(self._descriptor(key.path), key.path, key.start, key.stop)
        except VideoError:
            if key.path in self._open:  # the file may be another one by now: whoever asks again opens it again
                os.close(self._open.pop(key.path))
            raise

    def expect(self, key: BlobKey) -> None:
        """The bytes will be read soon: Linux fetches many such ranges at once, in the background.

        Without it, a disk or a network that takes a millisecond to answer gives a thousand blobs a second.
        """
        advise = _advice()
        if advise is None:
            return
        try:
            descriptor = self._descriptor(key.path)
        except VideoError:
            return  # only a hint: the read that follows says what is wrong
        for start in range(key.start, key.stop, AT_ONCE):
            advise(descriptor, start, min(AT_ONCE, key.stop - start), os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Closes all files. Idempotent."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _descriptor(self, path: str) -> int:
        if path not in self._open:
            while len(self._open) >= MAX_OPEN:
                os.close(self._open.popitem(last=False)[1])
            try:
                self._open[path] = open_file(path)
            except VideoError as error:
                cause = error.__cause__
                if not (isinstance(cause, OSError) and cause.errno in (errno.EMFILE, errno.ENFILE) and self._open):
                    raise
                self.close()  # the process may have no more files, and others need some, too
                self._open[path] = open_file(path)
        self._open.move_to_end(path)
        return self._open[path]


@cache
def _advice() -> Callable[[int, int, int, int], int] | None:
    """``posix_fadvise`` that keeps the GIL, which is back before anybody could use it; None where there is none.

    ``os.posix_fadvise`` lets it go, and beside a training loop that holds it each call then waits 5 ms.
    """
    if sys.platform != "linux" or sys.maxsize < 1 << 32:
        return None
    function = ctypes.PyDLL(None).posix_fadvise
    function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_int]
    return function


def read_range(path: str, start: int, stop: int) -> bytes:
    """Bytes ``[start, stop)`` of a local file.

    Raises:
        VideoError: the file is gone or shorter than that.
    """
    descriptor = open_file(path)
    try:
        return read_exactly(descriptor, path, start, stop)
    finally:
        os.close(descriptor)


def open_file(path: str) -> int:
    """A descriptor for reading. Raises VideoError where there is none to be had."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise unreadable(path, error) from error


def read_exactly(descriptor: int, path: str, start: int, stop: int) -> bytes:
    """Bytes ``[start, stop)``. Raises VideoError if there are fewer."""
    parts: list[bytes] = []
    at = start
    while at < stop:  # one call as a rule: Linux reads at most 2 GiB at a time
        try:
            part = os.pread(descriptor, stop - at, at)
        except OSError as error:
            raise unreadable(path, error) from error
        if not part:
            raise VideoError(f"{path}: ends at byte {at}, packets go to {stop}: the file is truncated; fetch it again")
        parts.append(part)
        at += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def unreadable(path: str, error: OSError) -> VideoError:
    """The error of a file that the system does not give."""
    return VideoError(f"{path}: cannot be read ({error.strerror}); is the dataset still there?")
