"""Connect to a server: look it up, try each of its addresses, and set up TLS."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from ..errors import ConnectError, TLSMismatchError
from .address import Address, describe_os_error, format_address, resolve
from .connection import Connection
from .tls import new_connection

KEEPALIVE = {
    "TCP_KEEPIDLE": 5,  # seconds without input after which TCP begins to probe the peer
    "TCP_KEEPINTVL": 5,  # seconds between two probes
    "TCP_USER_TIMEOUT": 20_000,  # milliseconds for which sent data may stay unacknowledged
}
"""With these, a vanished peer is detected after 25 s, whether or not anything is being sent to it.
The last one also ends a connection to a peer that reads nothing for that long; our server resumes
reading sooner, within its grace time, unless a maximum rate makes it wait."""

INVALID_NOW = (9, 10)  # it is not valid yet, or has expired
INVALID_HERE = (62, 64)  # it is for another host name or IP address
"""OpenSSL's numbers of problems with a certificate (X509_V_ERR...)."""


class TLSHints(NamedTuple):
    """What to do when TLS fails, in terms of what the user has to change."""

    untrusted: str = "pass it with --tls-ca"
    wrong_host: str = "connect with the --host that it is for"
    not_tls: str = "connect without --tls"


async def connect(
    host: str,
    port: int,
    seconds: float,
    tls: ssl.SSLContext | None = None,
    hints: TLSHints = TLSHints(),  # noqa: B008 (immutable)
) -> Connection:
    """Connect to a server, trying each address of `host` until one succeeds.

    The connection has to be made within `seconds`, and TLS set up within as many more. Raises
    ConnectError with the reason, which is a TLSMismatchError if another attempt is futile.
    """
    where, make = format_address((host, port)), partial(new_connection, tls, host)
    try:
        async with asyncio.timeout(seconds):
            connection = await _connect_to_any(await resolve(host, port), make)
    except TimeoutError:
        raise ConnectError(f"can't reach {where}: no answer within {seconds:g} s") from None
    except OSError as error:
        raise ConnectError(f"can't reach {where}: {describe_os_error(error)}") from None
    _enable_keepalive(connection.transport.get_extra_info("socket"))
    try:
        async with asyncio.timeout(seconds):
            await connection.do_handshake()
    except BaseException as error:
        await connection.aclose()
        if isinstance(error, OSError):
            raise _tls_error(where, error, seconds, hints) from None
        if isinstance(error, ValueError):
            why = f"no certificate can be for the host {host!r}"
            raise TLSMismatchError(f"can't reach {where} by TLS: {why}") from None
        raise
    return connection


def _tls_error(where: str, error: OSError, seconds: float, hints: TLSHints) -> ConnectError:
    """Return the exception for a failed TLS handshake; the text says what to do."""
    failed = f"can't reach {where} by TLS"
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = f"if you trust it, {hints.untrusted}"
        if error.verify_code in INVALID_NOW:
            hint = "check the clock, or have it replaced"
        elif error.verify_code in INVALID_HERE:
            hint = hints.wrong_host
        why = f"its certificate is not trusted ({error.verify_message.rstrip('.')}); {hint}"
        return TLSMismatchError(f"{failed}: {why}")
    if isinstance(error, ssl.SSLError):
        why = describe_os_error(error) or "the handshake failed"
        if error.reason == "WRONG_VERSION_NUMBER":  # OpenSSL's name for "this is not TLS"
            why = f"it does not use TLS; {hints.not_tls}"
        return TLSMismatchError(f"{failed}: {why}")
    is_ours = isinstance(error, TimeoutError) and not error.errno  # not ETIMEDOUT
    why = f"no answer within {seconds:g} s" if is_ours else describe_os_error(error)
    return ConnectError(f"{failed}: {why}; does the server use TLS?")


async def _connect_to_any(addresses: list[Address], make: Callable[[], Connection]) -> Connection:
    loop, problem = asyncio.get_running_loop(), OSError("it has no address")
    for host, port, *ipv6 in addresses:
        zone = f"%{ipv6[1]}" if ipv6 and ipv6[1] else ""  # of a link-local address: its interface
        try:
            _, connection = await loop.create_connection(make, host + zone, port)
            return connection
        except OSError as current:
            problem = current
    raise problem


def _enable_keepalive(connected: socket.socket) -> None:
    """Enable TCP keepalive so that a vanished peer is detected, where the system supports it."""
    with contextlib.suppress(OSError):  # the connection has ended: the next read reports it
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE.items():
            if hasattr(socket, option):
                connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
