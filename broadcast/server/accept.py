"""Make a connection of what a listener has accepted."""

import asyncio
import errno
import socket
import ssl

from ..net.connection import SEND_BUFFER, Connection, break_cycle
from ..net.tls import new_connection

DESCRIPTOR_RETRY_DELAY = 1.0
"""Seconds until another attempt if no descriptor is free, as in asyncio after a failed accept."""

NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
"""The errors that mean that: the process has too many, or the system."""


async def open_connection(accepted: socket.socket, tls: ssl.SSLContext | None) -> Connection:
    """Return the connection of an accepted socket, or close it; `tls` is None for plain TCP.

    Raises OSError if the peer has disconnected.
    """
    try:
        accepted.setblocking(False)
        loop = asyncio.get_running_loop()
        _, connection = await loop.connect_accepted_socket(lambda: new_connection(tls), accepted)
    except BaseException:
        accepted.close()
        raise
    connection.limit_send_buffer(SEND_BUFFER)
    return connection


async def take_over(writer: asyncio.StreamWriter, tls: ssl.SSLContext | None) -> Connection:
    """Return the connection of what asyncio has accepted, as soon as a descriptor is free for it.

    The streams that come with it are closed: they form a cycle, and read ahead without a bound.
    """
    try:
        while (accepted := _duplicate(writer.get_extra_info("socket"))) is None:
            await asyncio.sleep(DESCRIPTOR_RETRY_DELAY)
    finally:
        writer.close()
        break_cycle(writer.transport)
    return await open_connection(accepted, tls)


def _duplicate(accepted: socket.socket) -> socket.socket | None:
    """Return a duplicate of a socket, or None if no descriptor is free."""
    try:
        return accepted.dup()
    except OSError as problem:
        if problem.errno not in NO_DESCRIPTOR:
            raise
        return None
