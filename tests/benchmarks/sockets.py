"""Sockets: what the tests and the benchmarks share."""

from __future__ import annotations

import asyncio
import socket
import struct


async def connect_to(port: int, receive_buffer: int = 0) -> socket.socket:
    """Return a non-blocking socket that is connected to a port of this machine.

    With a small receive buffer, a client that does not read lags immediately.
    """
    connecting = socket.socket()
    connecting.setblocking(False)
    if receive_buffer:
        connecting.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    await asyncio.get_running_loop().sock_connect(connecting, ("127.0.0.1", port))
    return connecting


def reset_on_close(connected: socket.socket) -> None:
    """Make closing this socket reset its connection, whatever is still unsent or unread."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
