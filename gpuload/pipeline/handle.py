"""A decode process as its loader sees it: units in, results out, and what happens when it dies."""

import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from gpuload import ffmpeg
from gpuload.device.arena import Chunk
from gpuload.errors import ConfigError, GpuloadError
from gpuload.pipeline.wire import HEADER, send
from gpuload.pipeline.work import Done, Go, PendingUnit, Unit, join
from gpuload.transform import SlotForm

# The package is entered by its path, without its __init__: that imports torch (550 MB), which a decoder does not need.
# Ctrl-C reaches the whole group, also while modules are imported; the loader decides.
BOOT = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN);"
    "import sys, types; package = types.ModuleType('gpuload'); package.__path__ = [sys.argv[1]];"
    "sys.modules['gpuload'] = package; from gpuload.pipeline.process import main; main(int(sys.argv[2]))"
)

MALLOC = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.top_pad=67108864:"
    "glibc.malloc.trim_threshold=4294967296:glibc.malloc.mmap_threshold=4294967296"
}
"""Pictures come and go by the hundred megabytes. Memory that is kept, in pages of 2 MB, saves 20,000 page faults a
second and some 10 % of the whole (glibc >= 2.35; others ignore it)."""


ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""There is a process for each core: numpy's products must not start a thread for each core in each of them."""


PATIENCE_S = 0.2
"""Time that a process gets to end what it does."""


class WorkerHandle:
    """One helper process with a thread that sends and one that receives.

    ``on_done(handle, result)`` is called in the receiving thread; ``on_death(handle, reason)`` once, when the process
    ends without being asked to.
    """

    def __init__(
        self,
        forms: tuple[SlotForm, ...],
        *,
        backend: str = "pyav",
        most_kept_bytes: int = 0,
        on_done: "Callable[[WorkerHandle, Done], None]",
        on_death: "Callable[[WorkerHandle, str], None]",
    ) -> None:
        self.backend, self.on_device, self.needs_pts = backend, False, backend != "pyav"
        self.streams: set[int] = set()
        self.alive, self.epitaph = True, "the decode process had been ended"
        self.fault: GpuloadError | None = None
        self.load = 0.0
        """Estimated work that was given and not yet done."""
        self.pending: list[PendingUnit] = []
        """Units that it works on, oldest first."""
        self._chunks: set[int] = set()
        self._on_done, self._on_death = on_done, on_death
        self._closing, self._cause = False, ""
        ours, theirs = socket.socketpair()
        # -P: the working folder is no place for modules, unless it is one in the parent's sys.path.
        places = os.pathsep.join(place or os.getcwd() for place in sys.path)
        variables = {**MALLOC, **ONE_THREAD, **os.environ, "PYTHONPATH": places}
        if backend.startswith("torchcodec"):
            try:
                variables = ffmpeg.environment(variables)
            except OSError as error:
                raise ConfigError(f"backend {backend!r}: the links to FFmpeg cannot be written: {error}") from error
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", BOOT, str(Path(__file__).parent.parent), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=variables,
        )
        theirs.close()
        self._connection = ours
        self._outbox: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._outbox.put((backend, forms, most_kept_bytes))
        self._threads = [
            threading.Thread(target=work, name=f"gpuload-{work.__name__}", daemon=True)
            for work in (self._send_all, self._receive_all)
        ]
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:  # no more threads to be had, or Ctrl-C: nobody will ever close what is not made
            self.end()
            self._process.kill()
            self._process.wait()
            ours.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def submit(self, unit: Unit) -> None:
        """Sends a unit, which waits there for its batch's buffer."""
        self._outbox.put(unit)

    def go(self, batch: int, chunk: Chunk, offset: int) -> None:
        """Starts the units of a batch; its buffer is at ``offset`` of ``chunk``, which is mapped there first."""
        if chunk.number not in self._chunks:
            self._chunks.add(chunk.number)
            self._outbox.put(chunk)
        self._outbox.put(Go(batch, chunk.number, offset))

    def forget(self) -> None:
        """Tells the worker to drop its kept pictures and what waits for a buffer."""
        self.streams.clear()  # what it has not been given yet is dropped there too
        self._outbox.put(None)

    def end(self) -> None:
        """Hangs up."""
        self._closing = True
        self.alive = False
        self._outbox.put(StopIteration)
        self._hang_up()

    def close(self, *, spent_s: float = 0.0) -> None:
        """Ends process and threads. Idempotent."""
        self.end()
        try:
            self._process.wait(max(PATIENCE_S - spent_s, 0.0))
        except subprocess.TimeoutExpired:
            self._process.kill()  # in the middle of a run: nothing of it is wanted any more
            self._process.wait()
        for thread in self._threads:
            join(thread, 5.0)
        self._connection.close()

    def _hang_up(self) -> None:
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it hung up first

    def _send_all(self) -> None:
        try:
            while (message := self._outbox.get()) is not StopIteration:
                if isinstance(message, Chunk):
                    send(self._connection, (message.number, message.num_bytes))
                    socket.send_fds(self._connection, [b"f"], [message.fd])
                else:
                    send(self._connection, message)
        except Exception as error:  # noqa: BLE001 - no memory to pickle, say: what waits for an answer must know
            if not self._closing:
                self._cause = f" (nothing could be sent to it: {type(error).__name__}: {error})"
            self._hang_up()  # the receiving thread sees the end and reports it

    def _receive_all(self) -> None:
        try:
            with self._connection.makefile("rb") as stream:  # buffered: one call for a whole message
                while True:
                    stream.read(HEADER.size)
                    message = pickle.load(stream)
                    if isinstance(message, Done):
                        self._on_done(self, message)
                    else:
                        self.fault = message
        except Exception as error:  # noqa: BLE001 - whatever ended it, the batches that wait must know
            if not self._closing:
                # It may still be writing into batches: not before it has ended may their memory become another's.
                try:
                    code: int | None = self._process.wait(PATIENCE_S if isinstance(error, (EOFError, OSError)) else 0.0)
                except subprocess.TimeoutExpired:
                    self._process.kill()
                    self._process.wait()
                    code = None
                self.epitaph = f"the decode process {self.pid} ended{self._cause}"
                if not isinstance(error, (EOFError, OSError)):
                    self.epitaph += f" ({type(error).__name__}: {error})"
                if code is None:
                    self.epitaph += ": it no longer responded"
                else:
                    self.epitaph += f" by signal {-code}" if code < 0 else f" by exit code {code}"
                if code == -signal.SIGKILL:
                    self.epitaph += " (usually out of memory: lower frame_cache_bytes or num_threads)"
                self.alive = False  # what is given from now on is not waited for
                self._on_death(self, self.epitaph)
            self.alive = False
