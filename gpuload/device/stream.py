"""A CUDA stream, or nothing of the kind: the same code runs on the CPU, where all is done when a call returns."""

import contextlib
import logging
import mmap
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch

from gpuload.picture import DevicePicture

logger = logging.getLogger(__name__)


class DeviceStream:
    """Work on one device in order, beside what other streams do. Use from one thread."""

    def __init__(self, device: torch.device) -> None:
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            # High priority: torch hands out 32 normal streams in turn, and training may get the very same one.
            self._stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]

    def active(self) -> AbstractContextManager[object]:
        """Makes it the current stream: allocations, copies and launches go there."""
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def record(self) -> torch.cuda.Event | None:
        """An event after everything given so far; None where there is nothing to wait for."""
        return None if self._stream is None else self._stream.record_event()

    def wait(self, event: torch.cuda.Event | None) -> None:
        """What is given from now on runs after the event."""
        if self._stream is not None and event is not None:
            self._stream.wait_event(event)

    def keeps(self, tensor: torch.Tensor) -> None:
        """Keeps memory of another stream from being used again before this one has done what it was given so far."""
        if self._stream is not None:
            tensor.record_stream(self._stream)

    def reads(self, picture: DevicePicture) -> None:
        """The same of a picture's planes."""
        for plane in picture.planes:
            self.keeps(plane)

    def synchronize(self) -> None:
        """Waits for everything given so far; for the end of a stream's life only."""
        if self._stream is not None:
            self._stream.synchronize()


def receive(tensors: list[torch.Tensor], event: torch.cuda.Event | None, device: torch.device) -> None:
    """Makes tensors of another stream safe on the stream that is current in this thread."""
    if event is None:
        return
    current = torch.cuda.current_stream(device)
    current.wait_event(event)
    for tensor in tensors:
        tensor.record_stream(current)


def pinning(device: torch.device | None) -> Callable[[mmap.mmap], Callable[[], None]] | None:
    """Page-locks a mapping, so that the device can copy from it while other work runs; what it returns takes that back.
    None where no device copies from host memory.
    """
    if device is None or device.type != "cuda":
        return None

    works = True

    def pin(memory: mmap.mmap) -> Callable[[], None]:
        nonlocal works
        if not works:
            return lambda: None
        address = np.frombuffer(memory, np.uint8).ctypes.data
        runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        try:
            with torch.cuda.device(device):
                torch.cuda.check_error(runtime.cudaHostRegister(address, len(memory), 0))
        except RuntimeError as error:  # some sandboxes cannot: copies are right all the same, but wait
            works = False
            with contextlib.suppress(RuntimeError), torch.cuda.device(device):
                torch.ones(1, device=device)  # clears the runtime's pending error, which the next launch would raise
            logger.warning("host memory cannot be page-locked (%s): copies to %s will be slower", error, device)
            return lambda: None

        def unpin() -> None:
            # The device: this may run in a thread that has none yet, and would get a context on the first one.
            # The error: a context that is lost has nothing page-locked any more.
            with contextlib.suppress(RuntimeError), torch.cuda.device(device):
                torch.cuda.check_error(runtime.cudaHostUnregister(address))

        return unpin

    return pin
