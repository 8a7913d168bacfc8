"""What asyncio's streams leave to us: reading chunks so that a reset hides nothing, and ending a connection in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import struct
import threading
from typing import Any

from .protocol import BroadcastError

CHUNK_SIZE = 57_344
"""Bytes read at once: one wake-up for some hundred lines, not one each; and with a name of ordinary length before each line it still makes
one block."""

FAREWELL_TIME = 1.0
"""Seconds that the other side has to take the last of what it is owed and to end its own side, before the connection is cut off."""

LOOK_INTERVAL = 0.02
"""Seconds between two looks at what TLS still has to send to a client that leaves: nobody notices that little."""

KEEPALIVE_IDLE = 5
KEEPALIVE_INTERVAL = 5
UNACKNOWLEDGED_LIMIT = 20_000
"""Seconds, seconds, milliseconds: a peer whose cable was pulled is noticed after 25 s, whether something is on its way to it (then by
TCP_USER_TIMEOUT) or nothing is (then by keepalive). It ends a connection to a peer that reads nothing that long, too: our
server's grace time is well below it."""

Address = tuple[Any, ...]


class ConnectError(BroadcastError):
    """The other side could not be reached."""


class ConnectionLostError(BroadcastError):
    """The connection broke: what was under way in either direction may be lost."""


class Connection:
    """One TCP connection, for either side: chunks in, bytes out, an end in order or by reset.

    `lost` is the exception that broke it, None as long as none has.
    """

    __slots__ = (
        "_below",
        "_descriptor",
        "_has_ended",
        "_is_secure",
        "_reader",
        "_remains",
        "_socket",
        "_writer",
        "lost",
        "peer",
        "transport",
    )  # there may be ten thousand of them

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.transport = writer.transport
        self.lost: Exception | None = None
        self._reader = reader
        self._writer = writer
        self._socket: socket.socket = writer.get_extra_info("socket")
        self.peer = show_address(writer.get_extra_info("peername"))  # for people
        self._is_secure = False  # from `start_tls` on
        self._has_ended = False  # from an end in order on
        self._below = writer.transport  # what TLS writes to, where there is any
        self._remains: socket.socket | None = None  # from a reset on: a duplicate that still holds what had arrived
        # Valid while the transport is not closing; None where only the transport may write: under TLS, or where a socket is no file.
        self._descriptor: int | None = self._socket.fileno() if os.name == "posix" else None
        self._have_drain_mean_empty()
        # StreamReader.read raises a reset's exception before it hands out what it holds, so keep the exception from it.
        setattr(reader, "set_exception", self._note_loss)  # noqa: B010 (mypy forbids the assignment)

    def _have_drain_mean_empty(self) -> None:
        # With 0 in place of 1 it would hang over TLS (cpython #102792).
        self.transport.set_write_buffer_limits(high=1)

    async def start_tls(self, context: ssl.SSLContext, seconds: float, server_hostname: str | None = None) -> None:
        """Go on in secrecy; `server_hostname` is for the client. Raises OSError, which ssl.SSLError is, where the two do not come to terms."""
        await self._writer.start_tls(context, server_hostname=server_hostname, ssl_handshake_timeout=seconds)
        self.transport = self._writer.transport
        self._have_drain_mean_empty()
        self._is_secure = True
        self._descriptor = None

    def _note_loss(self, exception: Exception) -> None:
        self.lost = exception.with_traceback(None)  # its frames hold the transport, and this a cycle with all that was read
        # A reset that a write ran into leaves what had arrived before in the kernel, and asyncio closes the socket next.
        if not self._is_secure:  # there it would be ciphertext
            with contextlib.suppress(OSError):
                self._remains = self._socket.dup()
        self._reader.feed_eof()

    @property
    def is_closing(self) -> bool:
        """Whether nothing more can be sent."""
        return self.transport.is_closing()

    async def read_chunk(self) -> bytes:
        """Return what has arrived, CHUNK_SIZE bytes at most; nothing at the end, when `lost` tells a reset from an end in order.

        All that arrived before a reset is returned before the end is.
        """
        chunk = await self._reader.read(CHUNK_SIZE)
        if not chunk and self._remains:
            with contextlib.suppress(OSError):  # the reset itself, once there is nothing left
                chunk = self._remains.recv(CHUNK_SIZE)
        return chunk

    def write(self, data: bytes) -> None:
        """Send bytes after those sent before; without effect once the connection is closing."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def send(self, data: bytes) -> bool:
        """Write; return whether the system has taken everything written so far.

        Where nothing is under way it hands the bytes to the system itself: `transport.write` costs the server 5 to 8 % more a delivery.
        """
        transport = self.transport
        if self._descriptor is not None and not transport.get_write_buffer_size() and not transport.is_closing():
            try:
                sent = os.write(self._descriptor, data)
            except OSError:
                sent = 0  # `write` meets the same, and deals with it
            if sent == len(data):
                return True
            data = data[sent:]
        self.write(data)
        return not transport.get_write_buffer_size()

    async def drain(self) -> None:
        """Return when the system has taken everything written, or the connection is closing."""
        try:
            await self._writer.drain()
        except OSError as problem:
            problem.with_traceback(None)  # it may be `lost`, and its frames hold this connection: a cycle

    @property
    def unsent(self) -> int:
        """Bytes written that the system has not taken yet."""
        return self.transport.get_write_buffer_size() + (self._below.get_write_buffer_size() if self._is_secure else 0)

    async def until_sent(self) -> None:
        """Return when the system has taken everything written, or the connection is closing: `drain` misses TLS's last write."""
        await self.drain()
        while self._is_secure and self.unsent and not self.is_closing:
            await asyncio.sleep(LOOK_INTERVAL)  # asyncio has no event for it

    async def end_in_order(self) -> None:
        """End so that the peer gets everything: drain, say that no more comes, read until it ends too, FAREWELL_TIME at most, close.

        A close with input unread would make the system send a reset, which destroys what the peer has not read yet. Where the peer does not
        take what it is owed, the connection is reset, so that it does not end as if complete.
        """
        is_complete = False
        try:
            async with asyncio.timeout(FAREWELL_TIME):
                await self.until_sent()
                is_complete = not self.is_closing
                if self._is_secure:
                    self.transport.close()  # TLS has no half-close: this says farewell, and what is read ends with the peer's
                else:
                    self.transport.write_eof()
                while await self.read_chunk():
                    pass
        except (TimeoutError, OSError):
            pass  # then it is as complete as it gets
        finally:
            self._has_ended = is_complete and not self._below.get_write_buffer_size()
            if not self._has_ended:
                self.reset()
            elif self._is_secure:
                self._below.abort()  # nothing is left to send but by the system; TLS would wait 30 s for the peer's farewell
            self.close()

    def reset(self) -> None:
        """End at once, in a way that the peer cannot take for an end in order; without effect on a connection that has ended."""
        if not self._has_ended and (self._is_secure or not self.is_closing):
            with contextlib.suppress(OSError):
                # struct linger {on, seconds}: with 0 seconds, a close sends a reset.
                linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.abort()
        self.close()

    def close(self) -> None:
        """Let go of the connection; without effect on one that has ended."""
        self.transport.close()
        # Two cycles, ours and asyncio's: what was read, and a transport, must not wait for the garbage collector.
        vars(self._reader).pop("set_exception", None)
        if self._below.is_closing() and hasattr(self._below, "_read_ready_cb"):  # then it reads no more; TLS may still
            setattr(self._below, "_read_ready_cb", None)  # noqa: B010 (mypy knows no such attribute)
        if self._remains:
            self._remains.close()
            self._remains = None


async def connect(host: str, port: int, seconds: float, tls: ssl.SSLContext | None = None) -> Connection:
    """Reach a server within `seconds`, trying each address of `host` in turn; raise ConnectError with the reason if none answers."""
    where = show_address((host, port))
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await _connect_to_any(await resolve(host, port))
    except TimeoutError:
        raise ConnectError(f"can't reach {where}: no answer within {seconds:g} s") from None
    except OSError as problem:
        raise ConnectError(f"can't reach {where}: {reason(problem)}") from None
    connection = Connection(reader, writer)
    _watch_for_silence(writer.get_extra_info("socket"))
    if tls:
        try:
            await connection.start_tls(tls, seconds, host)
        except OSError as problem:
            connection.transport.abort()
            await asyncio.sleep(0)
            raise ConnectError(f"can't reach {where} by TLS: {_tls_reason(problem)}") from None
    return connection


def _tls_reason(problem: OSError) -> str:
    if isinstance(problem, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({problem.verify_message})"
    if isinstance(problem, ssl.SSLError):
        return f"{(problem.reason or str(problem)).replace('_', ' ').lower()}; does the server use TLS?"
    return f"{reason(problem) or 'it closed the connection'}; does the server use TLS?"


async def _connect_to_any(addresses: list[Address]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    problem = OSError("it has no address")
    for host, port, *_ in addresses:
        try:
            return await asyncio.open_connection(host, port)
        except OSError as current:
            problem = current
    raise problem


def _watch_for_silence(connected: socket.socket) -> None:
    """Have the system tell when the peer has vanished without a word, as far as it can."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
        ("TCP_USER_TIMEOUT", UNACKNOWLEDGED_LIMIT),
    ):
        if hasattr(socket, option):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


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


def reason(problem: OSError) -> str:
    """Return what went wrong, for people: in the system's words, which asyncio wraps in its own, where it named an errno of the system."""
    if problem.errno and not isinstance(problem, socket.gaierror):
        return os.strerror(problem.errno)
    return problem.strerror or str(problem)


def show_address(address: Address | None) -> str:
    """Return a socket's address as host:port, IPv6 hosts in brackets."""
    if not address:
        return "an unknown address"
    host, port, *_ = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
