"""What asyncio's transports leave to us: reading chunks so that a reset hides nothing, and ending a connection in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import struct
from collections.abc import Callable, Iterable

from .addresses import Address, reason, resolve, show_address
from .protocol import BroadcastError

CHUNK_SIZE = 57_344
"""Bytes handed out at once: one wake-up for some hundred lines, not one each; and with a name of ordinary length before each line it still makes
one block."""

READ_SIZE = 2 * CHUNK_SIZE
"""Bytes that the system is asked for at once: a batch full. With one chunk, readers slower than the server cost it 20 % more a delivery."""

PIECE_SIZE = 4096
"""Bytes of a batch that asyncio gets to send, when the system took a part of it, so that it tells when there is room for the rest: that need not be
copied then, 128 KB for each client that lags on 3.11."""

NO_DESCRIPTOR = -1
"""In place of a file's: writing to it fails as writing to a closed one does."""

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


class ConnectError(BroadcastError):
    """The other side could not be reached."""


class ConnectionLostError(BroadcastError):
    """The connection broke: what was under way in either direction may be lost."""


class Connection(asyncio.BufferedProtocol):
    """One TCP connection, for either side: chunks in, bytes out, an end in order or by reset.

    `lost` is the exception that broke it, None as long as none has. `is_under_way` tells whether the system has not taken everything written
    yet; when it has, or never will, `on_taken` is called. What arrives while somebody waits for it in `read_chunk` is offered to `on_chunk`
    first: where that returns True it has dealt with it, and the wait goes on.

    It is asyncio's protocol for its transport. A StreamReader in between costs a message 15 to 20 us more (3 % with a hundred receivers, a
    sixth with one): it is given 256 KiB, which the system maps anew each time, and copies twice. And it raises a reset's exception before
    it hands out what had arrived.
    """

    __slots__ = (
        "_accepted",
        "_below",
        "_buffer",
        "_chunks",
        "_descriptor",
        "_has_ended",
        "_input_ended",
        "_is_secure",
        "_reading_paused",
        "_remains",
        "_rest",
        "_socket",
        "_taken",
        "_waiter",
        "is_under_way",
        "lost",
        "on_chunk",
        "on_taken",
        "peer",
        "transport",
    )  # there may be ten thousand of them

    transport: asyncio.Transport  # from `connection_made` on, as are those without a value in the constructor
    _below: asyncio.Transport
    _socket: socket.socket

    def __init__(self, buffer: memoryview) -> None:
        """`buffer`, of READ_SIZE, may be shared by all connections of an event loop: it holds nothing from one call to the next."""
        self.peer = ""  # for people
        self.lost: Exception | None = None
        self._buffer = buffer
        self.on_chunk: Callable[[bytes], bool] | None = None
        self._chunks: list[bytes] = []  # arrived and not read yet: twice READ_SIZE at most
        self._input_ended = False  # once there will be no more of them
        self._waiter: asyncio.Future[None] | None = None  # while somebody reads and there is nothing: done when that has changed
        self._reading_paused = False  # while some arrived though others were not read yet
        self.is_under_way = False
        self.on_taken: Callable[[], None] | None = None
        self._taken: asyncio.Event | None = None  # while something is under way and somebody waits for its end
        self._rest: bytes | memoryview = b""  # while something is under way: what follows it, PIECE_SIZE having been given to asyncio
        self._is_secure = False  # from `start_tls` on
        self._has_ended = False  # from an end in order on
        self._remains: socket.socket | None = None  # from a reset on: a duplicate that still holds what had arrived
        self._accepted: asyncio.StreamWriter | None = None  # of a server's connection: what `accept` took over from
        # Where `send` may write by itself; there is none while something is under way, once it is closing, under TLS, where a socket is no file.
        self._descriptor = NO_DESCRIPTOR

    @classmethod
    def accept(cls, writer: asyncio.StreamWriter, buffer: memoryview) -> Connection:
        """Take over from asyncio's streams, which `asyncio.start_server` makes; nothing has been read yet when it calls back."""
        connection = cls(buffer)
        connection._accepted = writer  # it would close the transport if it were collected before
        replaced = writer.transport.get_protocol()
        writer.transport.set_protocol(connection)
        replaced.connection_lost(None)  # it would wait for this for ever, in a cycle with the writer
        connection.connection_made(writer.transport)
        return connection

    # --- what asyncio calls ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = self._below = transport  # the latter: what TLS writes to, where there is any
        self._socket = transport.get_extra_info("socket")
        self.peer = show_address(transport.get_extra_info("peername"))
        transport.set_write_buffer_limits(high=0)  # so that "paused" means that anything at all is under way
        self._take_descriptor()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.take_in(self._buffer[:nbytes])

    def take_in(self, data: memoryview) -> None:
        """Offer what arrived to `on_chunk`, or keep it until it is read and have no more come meanwhile."""
        if self._chunks:
            self._reading_paused = True
            self.transport.pause_reading()
        for start in range(0, len(data), CHUNK_SIZE):
            chunk = bytes(data[start : start + CHUNK_SIZE])
            if self.on_chunk and self._waiter and not self._waiter.done() and self.on_chunk(chunk):
                continue
            self._chunks.append(chunk)
            self._wake_reader()

    def eof_received(self) -> bool:
        self._input_ended = True
        self._wake_reader()
        return not self._is_secure  # keep the other direction open, which TLS can't

    def pause_writing(self) -> None:
        self.is_under_way = True
        self._descriptor = NO_DESCRIPTOR

    def resume_writing(self) -> None:
        # Not at once: asyncio is in the middle of a write, and one of ours that met a reset there would have it call `connection_lost` twice.
        asyncio.get_running_loop().call_soon(self._go_on_sending)

    def _go_on_sending(self) -> None:
        if self.is_closing or self.transport.get_write_buffer_size():
            return  # `connection_lost` comes, or came, or `resume_writing` again
        self.is_under_way = False
        self._take_descriptor()
        rest, self._rest = self._rest, b""
        if not rest or self.send(rest):
            self._tell_taken()

    def _take_descriptor(self) -> None:
        if os.name == "posix" and not self._is_secure:
            self._descriptor = self._socket.fileno()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc:
            self.lost = exc.with_traceback(None)  # its frames hold the transport, and this a cycle with all that was read
            # A reset that a write ran into leaves what had arrived before in the kernel, and asyncio closes the socket next.
            if not self._input_ended and not self._is_secure:  # there it would be ciphertext
                with contextlib.suppress(OSError):
                    self._remains = self._socket.dup()
        self.is_under_way = False
        self._descriptor = NO_DESCRIPTOR
        self._rest = b""
        self._tell_taken()
        self.eof_received()

    def _tell_taken(self) -> None:
        if self._taken:
            self._taken.set()
            self._taken = None
        if self.on_taken:
            self.on_taken()

    def _wake_reader(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    # --- what we call ---

    async def start_tls(self, context: ssl.SSLContext, seconds: float, server_hostname: str | None = None) -> None:
        """Go on in secrecy; `server_hostname` is for the client. Raises OSError, which ssl.SSLError is, where the two do not come to terms."""
        self._is_secure = True
        self._descriptor = NO_DESCRIPTOR
        transport = await asyncio.get_running_loop().start_tls(
            self.transport,
            _Plaintext(self),
            context,
            server_side=self._accepted is not None,
            server_hostname=server_hostname,
            ssl_handshake_timeout=seconds,
        )
        if transport is None:
            raise ConnectionResetError  # asyncio's word for: closed before it had begun
        self.transport = transport
        self.transport.set_write_buffer_limits(high=1)  # with 0 it would never call `resume_writing` (cpython #102792)

    @property
    def is_closing(self) -> bool:
        """Whether nothing more can be sent."""
        return self.transport.is_closing()

    async def read_chunk(self) -> bytes:
        """Return what has arrived, CHUNK_SIZE bytes at most; nothing at the end, when `lost` tells a reset from an end in order.

        All that arrived before a reset is returned before the end is.
        """
        while not self._chunks and not self._input_ended:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._chunks:
            chunk = self._chunks.pop(0)
            if self._reading_paused and not self._chunks and not self.is_closing:  # closed, TLS's transport fails
                self._reading_paused = False
                self.transport.resume_reading()
            return chunk
        if self._remains:
            with contextlib.suppress(OSError):  # the reset itself, once there is nothing left
                return self._remains.recv(CHUNK_SIZE)
        return b""

    def write(self, data: bytes | memoryview) -> None:
        """Send bytes after those sent before; without effect once the connection is closing."""
        if not self.transport.is_closing():
            rest, self._rest = self._rest, b""
            if rest:
                self.transport.write(rest)
            self.transport.write(data)

    def send(self, data: bytes | memoryview) -> bool:
        """Write; return whether the system has taken everything written so far. `data` is kept until it has, not copied."""
        return not send_to_all((self,), data)

    def _send_on(self, data: bytes | memoryview, sent: int) -> bool:
        """Send what `send_to_all` has not, and return as `send` does."""
        if self._descriptor == NO_DESCRIPTOR:
            self.write(data)
            return not self.is_under_way
        rest = memoryview(data)[sent:]
        self.write(rest[:PIECE_SIZE])
        if self.is_under_way:
            self._rest = rest[PIECE_SIZE:]
        else:  # there is room by now, or the connection is closing
            self.write(rest[PIECE_SIZE:])
        return not self.is_under_way

    async def drain(self) -> None:
        """Return when the system has taken everything written, or the connection is gone."""
        if self.is_under_way:
            self._taken = self._taken or asyncio.Event()
            await self._taken.wait()

    @property
    def unsent(self) -> int:
        """Bytes written that the system has not taken yet."""
        below = self._below.get_write_buffer_size() if self._is_secure else 0
        return len(self._rest) + self.transport.get_write_buffer_size() + below

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
                if not self._is_secure:
                    self.transport.write_eof()
                elif is_complete:
                    self.transport.close()  # TLS has no half-close: this says farewell, and what is read ends with the peer's
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
        if not self._has_ended and (self.transport is not self._below or not self.is_closing):
            with contextlib.suppress(OSError):
                # struct linger {on, seconds}: with 0 seconds, a close sends a reset.
                linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.abort()
        self.close()

    def close(self) -> None:
        """Let go of the connection; without effect on one that has ended."""
        self._descriptor = NO_DESCRIPTOR
        self._input_ended = True
        self.transport.close()
        # A cycle of asyncio's: a transport must not wait for the garbage collector.
        if self._below.is_closing() and hasattr(self._below, "_read_ready_cb"):  # then it reads no more; TLS may still
            setattr(self._below, "_read_ready_cb", None)  # noqa: B010 (mypy knows no such attribute)
        if self._remains:
            self._remains.close()
            self._remains = None


class _Plaintext(asyncio.Protocol):
    """What TLS calls in a connection's place: where a BufferedProtocol does not read all at once, TLS drops the rest when the peer ends."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def data_received(self, data: bytes) -> None:
        self._connection.take_in(memoryview(data))

    def eof_received(self) -> bool:
        return self._connection.eof_received()

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)


def send_to_all(connections: Iterable[Connection], data: bytes | memoryview) -> list[Connection]:
    """`send` the same to each; return those whose system has not taken everything.

    The bytes go to the system from here where nothing is under way: `transport.write` costs the server 5 to 8 % more a delivery, and a method
    called for each connection 5 to 6 %.
    """
    behind = []
    write, size = os.write, len(data)
    for connection in connections:
        try:
            sent = write(connection._descriptor, data)
        except OSError:
            sent = 0
        if sent != size and not connection._send_on(data, sent):
            behind.append(connection)
    return behind


async def connect(host: str, port: int, seconds: float, tls: ssl.SSLContext | None = None) -> Connection:
    """Reach a server within `seconds`, trying each address of `host` in turn; raise ConnectError with the reason if none answers."""
    where = show_address((host, port))
    try:
        async with asyncio.timeout(seconds):
            connection = await _connect_to_any(await resolve(host, port))
    except TimeoutError:
        raise ConnectError(f"can't reach {where}: no answer within {seconds:g} s") from None
    except OSError as problem:
        raise ConnectError(f"can't reach {where}: {reason(problem)}") from None
    _watch_for_silence(connection._socket)
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


async def _connect_to_any(addresses: list[Address]) -> Connection:
    connection = Connection(memoryview(bytearray(READ_SIZE)))
    problem = OSError("it has no address")
    for host, port, *_ in addresses:
        try:
            await asyncio.get_running_loop().create_connection(lambda: connection, host, port)
            return connection
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
