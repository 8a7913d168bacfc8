"""Bind to every address of a host, on one port."""

from __future__ import annotations

import contextlib
import errno
import os
import socket

from ..errors import ListenError
from ..net.address import Address, describe_os_error, format_address, resolve

PORT_TRIES = 20
"""Attempts to find a port that is free on all addresses of a host."""


async def bind(host: str, port: int) -> list[socket.socket]:
    """Return a bound socket for each address of `host`, all on the same port.

    Raises ListenError with the reason.
    """
    where = format_address((host or "*", port))
    try:
        addresses = await resolve(host, port, flags=socket.AI_PASSIVE)
    except OSError as problem:
        raise ListenError(f"can't listen on {where}: {describe_os_error(problem)}") from None
    for _ in range(PORT_TRIES):
        with contextlib.ExitStack() as opened:
            sockets: list[socket.socket] = []
            try:
                for address in addresses:
                    free = sockets[0].getsockname()[1] if sockets else port
                    if bound := _bind_one(address, free):
                        sockets.append(opened.enter_context(bound))
            except OSError as problem:
                if port == 0 and problem.errno == errno.EADDRINUSE:
                    continue  # the port is free on one address but not on another
                raise ListenError(
                    f"can't listen on {where}: {describe_os_error(problem)}"
                ) from None
            if not sockets:
                raise ListenError(f"can't listen on {where}: {os.strerror(errno.EADDRNOTAVAIL)}")
            opened.pop_all()
            return sockets
    raise ListenError(f"can't listen on {where}: no port is free on all its addresses")


def _bind_one(address: Address, port: int) -> socket.socket | None:
    """Return a socket bound to an address, or None if it does not exist (IPv6 may be disabled)."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    bound: socket.socket | None = None
    try:
        bound = socket.socket(family, socket.SOCK_STREAM)
        if os.name == "posix":  # on Windows, the option would let two programs share a port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((address[0], port, *address[2:]))
    except OSError as problem:
        if bound:
            bound.close()
        if problem.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            return None
        raise
    return bound
