"""Sockets: what the tests and the benchmarks share."""

from __future__ import annotations

import socket
import struct


def reset_on_close(connected: socket.socket) -> None:
    """Make closing this socket reset its connection, whatever is still unsent or unread."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
