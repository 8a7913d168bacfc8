"""Look up host names without blocking the event loop, and format addresses and errors."""

import asyncio
import ipaddress
import os
import socket
import ssl
from typing import Any

from ..system.threads import call_in_thread

Address = tuple[Any, ...]
"""A socket address as the socket module defines it: host, port and, for IPv6, two more items."""


IPV6_PREFIX_LENGTH = 64
"""Leading bits of an IPv6 address that name a network: one subscriber usually has a whole /64."""


async def resolve(host: str, port: int, *, flags: int = 0) -> list[Address]:
    """Return the socket addresses of `host`, without duplicates; an empty host is every interface.

    Raises OSError if there is none. The lookup runs in a daemon thread, because the event loop's
    own executor is joined at exit, which a slow lookup would delay.
    """

    def look_up() -> list[Address]:
        try:
            found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=flags)
        except ValueError:  # such as a label of more than 63 characters
            raise OSError("not a host name") from None
        return list(dict.fromkeys(address for *_, address in found))

    return await asyncio.wrap_future(call_in_thread(look_up))


def describe_os_error(problem: OSError) -> str:
    """Return the reason for an error in the system's words, without those of asyncio and `ssl`.

    An error of OpenSSL may have none: then the text is empty.
    """
    if isinstance(problem, ssl.SSLError):
        reason = getattr(problem, "reason", None)  # an error made in Python has no such attribute
        return (reason or "").replace("_", " ").lower()
    if problem.errno and not isinstance(problem, socket.gaierror):
        return os.strerror(problem.errno)
    return problem.strerror or str(problem)


def format_address(address: Address | None) -> str:
    """Return an address as host:port, with an IPv6 host in brackets."""
    if not address:
        return "an unknown address"
    host, port, *_ = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def network_of(peer: str) -> str:
    """Return a peer's IPv4 address or IPv6 network, to which limits for one subscriber apply."""
    host = peer.rpartition(":")[0]
    if not host.startswith("["):
        return host
    address = ipaddress.IPv6Address(host[1:-1].partition("%")[0])
    return f"[{int(address) >> (address.max_prefixlen - IPV6_PREFIX_LENGTH):x}]"
