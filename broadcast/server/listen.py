"""Listen on every address of a host, on one port."""

import errno
import os
import socket
from contextlib import ExitStack

from ..net.address import Address, resolve

PORT_TRIES = 20
"""Attempts to find a port that is free on all addresses of a host."""

LISTEN_BACKLOG = 4096
"""Connections that the system queues until they are accepted: what Linux allows by default."""


async def listen(host: str, port: int, reuse_port: bool = False) -> list[socket.socket]:
    """Return a listening socket for each address of `host`, all on the same port.

    With `reuse_port`, other processes may listen on it, too, and share its connections.

    Raises OSError with the reason.
    """
    addresses = await resolve(host, port, flags=socket.AI_PASSIVE)
    for _ in range(PORT_TRIES):
        try:
            return _listen_on_all(addresses, port, reuse_port)
        except OSError as problem:
            if port or problem.errno != errno.EADDRINUSE:
                raise
            # The port is free on one address but not on another.
    raise OSError("no port is free on all its addresses")


def _listen_on_all(addresses: list[Address], port: int, reuse_port: bool) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    with ExitStack() as opened:
        for address in addresses:
            if listening := _listen_on(address, port, reuse_port):
                sockets.append(opened.enter_context(listening))
                port = listening.getsockname()[1]
        if not sockets:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        opened.pop_all()
    return sockets


def _listen_on(address: Address, port: int, reuse_port: bool) -> socket.socket | None:
    """Return a socket that listens on an address, or None if it does not exist.

    There is no IPv6 address if the system has disabled IPv6.
    """
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        where = (address[0], port, *address[2:])
        return socket.create_server(where, family=family, reuse_port=reuse_port)
    except ValueError as problem:  # the system has no SO_REUSEPORT
        raise OSError(str(problem)) from None
    except OSError as problem:
        if problem.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            return None
        raise
