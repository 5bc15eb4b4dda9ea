"""Values over a socket between a loader and a decode process: pickled, length first."""

import pickle
import socket
import struct
from typing import Any

HEADER = struct.Struct("<Q")
"""The length."""


def send(connection: socket.socket, value: object) -> None:
    """One value."""
    data = pickle.dumps(value, protocol=5)
    header = HEADER.pack(len(data))
    sent = connection.sendmsg([header, data])  # one call: each may have to wait for the GIL afterwards
    if sent < len(header) + len(data):
        connection.sendall((header + data)[sent:])


def is_readable(connection: socket.socket) -> bool:
    """Whether something has come, be it the end."""
    try:
        connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    return True


def receive(connection: socket.socket) -> Any:
    """One value.

    Raises:
        EOFError: the other side is gone.
    """
    (length,) = HEADER.unpack(_exactly(connection, HEADER.size))
    return pickle.loads(_exactly(connection, length))


def _exactly(connection: socket.socket, length: int) -> bytearray:
    data = bytearray(length)
    view = memoryview(data)
    got = 0
    while got < length:
        n = connection.recv_into(view[got:])
        if not n:
            raise EOFError("the connection was closed")
        got += n
    return data
