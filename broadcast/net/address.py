"""Hosts and ports: looked up without holding anybody up, and shown to people."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from typing import Any

Address = tuple[Any, ...]
"""A socket's, as the socket module has it: host, port and, of IPv6, two more."""


async def resolve(host: str, port: int, *, flags: int = 0) -> list[Address]:
    """Return the socket addresses of `host`, each once, an empty one being every interface; raise OSError where there is none.

    It asks in a thread that nobody joins: the loop's own executor is joined at exit, which a look-up of some seconds would hold up.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Address]] = loop.create_future()

    def settle(addresses: list[Address], problem: OSError | None) -> None:
        if answer.cancelled():
            return
        if problem:
            answer.set_exception(problem)
        else:
            answer.set_result(addresses)

    def look_up() -> None:
        addresses, problem = [], None
        try:
            found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=flags)
            addresses = list(dict.fromkeys(address for *_, address in found))
        except OSError as exception:
            problem = exception
        except ValueError:  # such as a label of more than 63 characters
            problem = OSError("not a host name")
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, addresses, problem)

    threading.Thread(target=look_up, daemon=True).start()
    return await answer


def describe_os_error(problem: OSError) -> str:
    """Return what went wrong, for people: in the system's words, which asyncio wraps in its own, where it named an errno of the system."""
    if problem.errno and not isinstance(problem, socket.gaierror):
        return os.strerror(problem.errno)
    return problem.strerror or str(problem)


def format_address(address: Address | None) -> str:
    """Return a socket's address as host:port, IPv6 hosts in brackets."""
    if not address:
        return "an unknown address"
    host, port, *_ = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
