"""Perform a client's handshake: TLS, the first line, the token and the username."""

import asyncio
import hmac
import ssl

from ..errors import HandshakeError
from ..net.address import describe_os_error
from ..net.connection import Connection
from ..net.tls import PlainPeerError
from ..protocol.blocks import sanitize
from ..protocol.handshake import (
    EXPECTED_CONNECT,
    HANDSHAKE_LIMIT,
    NOT_AUTHORISED,
    TLS_FIRST_BYTE,
    TLS_NOT_SUPPORTED,
    Connect,
    parse_connect,
)
from .settings import Settings

READ_SIZE = 4_096
"""Bytes read at once before a client has joined: the handshake, and little of what follows it."""

NOTHING_IN_COMMON = ("unsupported protocol", "version too low", "no shared cipher")
"""What OpenSSL says if it could agree with the client on nothing."""


async def shake_hands(connection: Connection, settings: Settings) -> tuple[Connect, bytes, int]:
    """Return the CONNECT of an admitted client, what followed it, and the number of bytes read.

    Raises HandshakeError with the reason if the client is refused. It has no timeout.
    """
    try:
        await connection.do_handshake()
    except OSError as error:
        raise HandshakeError(f"TLS failed: {_describe_tls_error(error)}") from None
    line, rest, size = await _first_line(connection, expects_tls=settings.tls is not None)
    connect = parse_connect(line)
    if settings.token is not None:
        offered = (connect.token or "").encode()
        if not hmac.compare_digest(settings.token.encode(), offered):
            await asyncio.sleep(settings.wrong_token_delay)
            raise HandshakeError(NOT_AUTHORISED)
    return connect, rest, size


async def _first_line(connection: Connection, expects_tls: bool) -> tuple[str, bytes, int]:
    """Return the first line that is not blank, what follows it, and the number of bytes read.

    The line has to end within HANDSHAKE_LIMIT bytes, blank lines included.
    """
    data = b""
    while True:
        chunk = await connection.read_chunk()
        if not (data or expects_tls) and chunk.startswith(TLS_FIRST_BYTE):
            raise HandshakeError(TLS_NOT_SUPPORTED)
        data += chunk
        start = 0
        while (end := data.find(b"\n", start, HANDSHAKE_LIMIT)) >= 0:
            if line := sanitize(data[start:end].removesuffix(b"\r")):
                return line, data[end + 1 :], len(data)
            start = end + 1
        if not chunk and connection.lost:
            raise HandshakeError("connection lost")
        if not chunk and (line := sanitize(data[start:])):
            return line, b"", len(data)
        if not chunk or len(data) >= HANDSHAKE_LIMIT:
            raise HandshakeError(EXPECTED_CONNECT)


def _describe_tls_error(error: OSError) -> str:
    """Say which side failed, and how; OpenSSL's own text names a line of its source."""
    if isinstance(error, PlainPeerError):
        return "not TLS: a plain connection"
    if isinstance(error, ConnectionError):
        return "the client closed the connection"
    if not isinstance(error, ssl.SSLError):
        return f"the connection was lost: {describe_os_error(error)}"
    words = describe_os_error(error)
    _, is_alert, alert = words.partition(" alert ")
    if is_alert and ("certificate" in alert or alert == "unknown ca"):
        return "the client does not trust our certificate"
    if is_alert:
        return f"the client gave up: {alert}"
    if words in NOTHING_IN_COMMON:
        return f"the client offers no version or cipher that we accept ({words})"
    return "the client violated TLS" + (f" ({words})" if words else "")
