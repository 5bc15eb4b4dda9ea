"""What runs in a decode process.

A process of its own, because feeding packets takes the GIL once a packet: beside a busy Python thread of the same
process a decode thread falls to a tenth of its rate. It imports no torch (42 MB instead of 600), unless torchcodec is
what decodes.
"""

import gc
import socket

import av

from gpuload.errors import GpuloadError
from gpuload.pipeline.host import HostWorker
from gpuload.pipeline.wire import is_readable, receive, send
from gpuload.pipeline.work import Go, Unit


def main(fd: int) -> None:
    """Serves one loader over the socket ``fd`` until it hangs up. Answers are ``Done``, or why it cannot begin."""
    av.logging.set_level(None)
    gc.disable()  # it would walk through thousands of kept pictures again and again; forgetting them collects cycles
    connection = socket.socket(fileno=fd)
    try:
        try:
            worker = HostWorker(*receive(connection))
        except GpuloadError as error:  # the loader must not start another one to find out the same
            send(connection, error)
            return
        while True:
            while not is_readable(connection) and worker.decode_ahead():
                pass
            message = receive(connection)
            if isinstance(message, Unit):
                worker.take(message)
            elif isinstance(message, Go):
                for done in worker.go(message):
                    send(connection, done)
            elif message is None:
                worker.forget()
                gc.collect()
            else:
                chunk, num_bytes = message
                _, fds, _, _ = socket.recv_fds(connection, 1, 1)
                worker.map(chunk, fds[0], num_bytes)
                socket.close(fds[0])
    except (EOFError, ConnectionError):
        return
