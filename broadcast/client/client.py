"""BroadcastClient: connect to a server, send, and iterate over what arrives."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import KW_ONLY, dataclass
from typing import Self

from ..errors import ConnectError, ConnectionLostError, RefusedError, TLSMismatchError
from ..net.address import format_address
from ..net.connection import Connection
from ..net.dial import connect
from ..net.tls import ALERT
from ..protocol import handshake
from ..protocol.blocks import REPLACEMENT_GROWTH, sanitize
from ..protocol.commands import HEARTBEAT_INTERVAL
from ..protocol.framing import ENDING, LINE_LIMIT, LineSplitter, TooLong, encode
from ..protocol.messages import Incoming, ServerError, parse_incoming
from ..protocol.names import NAME_BYTES, SENDER_LIMIT, check_username
from ..protocol.notices import Event
from .heartbeat import SILENT_HEARTBEATS, Heartbeat

CONNECT_TIMEOUT = 10.0
"""Seconds for each of connecting, the TLS handshake and the server's answer: a loaded server
answers within one, and a person waits no longer than ten."""

LEAVE_TIME = 10.0
r"""Seconds after `\exit` for the server to send what is pending and to close the connection."""

ABORT_TIME = 0.3
"""Seconds to wait for the server when an exception closes the client: enough if it responds."""

EXIT = encode("\\exit")

REASON_LIMIT = 256
"""Characters of a server's reason that an error repeats: several times what our server sends, but
short enough for a prompt."""


@dataclass(eq=False, repr=False)
class BroadcastClient:
    r"""A client, connected within `async with BroadcastClient(port=8888, user="bob") as client:`.

    `async for message in client:` yields what arrives, in order: a Message, a Notice or a
    ServerError. It ends when the server closes the connection gracefully, and raises
    ConnectionLostError when the connection breaks, in both cases after all that had arrived. The
    answers to heartbeats are left out; those to a `\ping word` of the caller's own are a Pong.

    `heartbeat`: seconds between heartbeats, None to leave `keep_alive` to the caller.
    `connect_timeout`: seconds. `line_limit`: bytes that the server accepts in a line; the lines it
    sends may be three times as long. `tls`: a context that says which certificates to trust; None
    for plain TCP. `token`: the word that the server requires.

    Raises UsernameError for a bad `user`. Entering raises ConnectError if the server cannot be
    reached, TLSMismatchError if it never can with this `tls`, RefusedError if it refuses.
    """

    host: str = handshake.DEFAULT_HOST
    port: int = handshake.DEFAULT_PORT
    user: str = handshake.DEFAULT_USERNAME  # the server may tell of another after SUCCESS
    _: KW_ONLY
    heartbeat: float | None = HEARTBEAT_INTERVAL
    connect_timeout: float = CONNECT_TIMEOUT
    line_limit: int = LINE_LIMIT
    tls: ssl.SSLContext | None = None
    token: str | None = None

    def __post_init__(self) -> None:
        check_username(self.user)
        self.address = format_address((self.host, self.port))
        self.bytes_received = 0  # over all connections
        self._splitter: LineSplitter  # of the connection
        self._heartbeats = Heartbeat()  # of the connection
        self._heartbeat_task: asyncio.Task[None] | None = None  # of the connection
        self._lines: deque[str] = deque()  # received, but not returned yet
        self._read_lock = asyncio.Lock()
        self._connecting = asyncio.Lock()  # while `connect` or `close` runs
        self._connection: Connection | None = None  # from `connect` to `close`

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_exception: object) -> None:
        await self.close(LEAVE_TIME if kind is None else ABORT_TIME)

    async def connect(self) -> None:
        """Connect and join, or leave nothing open.

        Raises ConnectError or RefusedError, ConnectionLostError if the answer is a line that is too
        long, and RuntimeError if this client has been connected and not closed since.
        """
        async with self._connecting:
            if self._connection is not None:
                raise RuntimeError("the client is connected already: close it first")
            self._lines.clear()
            self._splitter = LineSplitter(REPLACEMENT_GROWTH * self.line_limit + NAME_BYTES)
            self._heartbeats = Heartbeat()
            connection = await connect(self.host, self.port, self.connect_timeout, self.tls)
            self._connection = connection
            try:
                async with asyncio.timeout(self.connect_timeout):
                    await self._join(connection)
            except BaseException as problem:
                self._connection = None
                await connection.aclose()
                if isinstance(problem, TimeoutError):
                    why = "does not answer: is it a broadcast server?"
                    raise ConnectError(f"{self.address} {why}") from None
                raise
            if self.heartbeat is not None:
                self._heartbeat_task = asyncio.create_task(self.keep_alive(self.heartbeat))

    async def _join(self, connection: Connection) -> None:
        connection.send(handshake.Connect(self.user, self.token).encode())
        while not self._lines:
            data = await self._read()
            if data.startswith(ALERT) and not self.tls:
                raise TLSMismatchError(f"{self.address} uses TLS; connect with --tls")
            if not data:
                hint = "" if self.tls else "; does it want --tls?"
                raise ConnectError(f"{self.address} closed the connection without an answer{hint}")
        answer = self._lines.popleft()
        if answer != handshake.SUCCESS:
            refusal = parse_incoming(answer)
            if not isinstance(refusal, ServerError):
                raise RefusedError(f"{self.address} does not speak this protocol")
            if refusal.text in handshake.TEMPORARY_REFUSALS:
                raise ConnectError(f"{self.address} is temporarily unavailable: {refusal.text}")
            hint = ""
            if refusal.text == handshake.NOT_AUTHORISED:
                problem = "it wants a token" if self.token is None else "the token is wrong"
                hint = f"; {problem}: see --token-file"
            raise RefusedError(f"{self.address} refuses: {refusal.text[:REASON_LIMIT]}{hint}")
        if self._lines:
            self._note_name(parse_incoming(self._lines[0]))

    @property
    def is_connected(self) -> bool:
        """Whether lines can be sent."""
        return self._connection is not None and not self._connection.is_closing

    async def send(self, text: str) -> None:
        r"""Send a message, or a command if it begins with `\`; wait until it is written.

        Raises ValueError if the text contains a line ending, ConnectionLostError if the connection
        no longer accepts lines.
        """
        if "\n" in text or "\r" in text:
            raise ValueError("a message is one line: it can't have a line ending in it")
        await self.send_lines(encode(text))

    async def send_lines(self, lines: bytes) -> None:
        """Send whole encoded lines, each with its line ending, and wait until they are written."""
        self._heartbeats.count_lines(lines)
        await self._send(lines)

    async def _send(self, lines: bytes) -> None:
        connection = self._require_connection()
        connection.send(lines)
        await connection.drain()
        if connection.is_closing:
            raise self._lost_error()

    async def leave(self, lines: bytes = EXIT) -> None:
        r"""Send `\exit`: the server sends what is pending, to be received, and then closes.

        `lines`: whole encoded lines to send instead, of which the last is the command. Heartbeats
        end: one to a server that has closed draws a reset, which destroys what is in transit.
        """
        self._stop_heartbeat()
        await self.send_lines(lines)

    async def receive(self) -> list[Incoming]:
        """Wait for at least one line; return all that have arrived, none at the connection's end.

        Raises ConnectionLostError if the connection broke.
        """
        await self._wait_received()
        received = list(map(parse_incoming, self._lines))
        self._lines.clear()
        if received:
            self._note_name(received[0])
        return received

    def __aiter__(self) -> AsyncIterator[Incoming]:
        return self

    async def __anext__(self) -> Incoming:
        await self._wait_received()
        if not self._lines:
            raise StopAsyncIteration
        self._note_name(incoming := parse_incoming(self._lines.popleft()))
        return incoming

    async def keep_alive(self, seconds: float) -> None:
        r"""Send a heartbeat, `\ping <word>`, at this interval until the connection is lost.

        A server that answers them is lost when nothing is received for SILENT_HEARTBEATS of them.
        """
        received = -1
        with contextlib.suppress(ConnectionLostError):  # receiving reports it
            while True:
                await asyncio.sleep(seconds)
                # While nobody reads what arrives, the server is not to blame for it.
                is_silent = self.bytes_received == received and self._read_lock.locked()
                received = self.bytes_received
                if self._heartbeats.is_lost(seconds, silent=is_silent):
                    self._give_up(f"nothing received for {SILENT_HEARTBEATS * seconds:g} s")
                await self._send(self._heartbeats.next_line())

    def _give_up(self, reason: str) -> None:
        """Break the connection; receiving reports that with this reason."""
        connection = self._require_connection()
        connection.lost = TimeoutError(reason)
        connection.reset()

    async def close(self, seconds: float = LEAVE_TIME) -> None:
        r"""Send `\exit`, wait at most `seconds` for the server to close, and close.

        If a connection is just being made, this waits for it first.
        """
        async with self._connecting:
            connection, self._connection = self._connection, None
            self._stop_heartbeat()
            if connection is None:
                return
            try:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        connection.send(EXIT)
                        await connection.drain()
                        async with self._read_lock:  # another task may still be receiving
                            while await connection.read_chunk():
                                pass
            finally:
                await connection.aclose()

    def _stop_heartbeat(self) -> None:
        if self._heartbeat_task:
            self._heartbeat_task.cancel()

    async def _wait_received(self) -> None:
        """Wait until lines have arrived, or the connection has ended."""
        while not self._lines and await self._read():
            pass
        if not self._lines and self._connection and self._connection.lost:
            raise self._lost_error()

    async def _read(self) -> bytes:
        """Read a chunk, add its lines to `_lines`, and return it; it is empty at the end."""
        async with self._read_lock:
            data = await self._require_connection().read_chunk()
        self.bytes_received += len(data)
        for chunk in self._splitter.feed(data):
            if isinstance(chunk, TooLong):
                why = "sent a line that is longer than this protocol allows"
                raise ConnectionLostError(f"{self.address} {why}")
            lines = map(sanitize, chunk.replace(ENDING, b"\n").split(b"\n"))
            is_answer = self._heartbeats.is_answer
            self._lines.extend(line for line in lines if line and not is_answer(line))
        return data

    def _note_name(self, incoming: Incoming) -> None:
        """Note the name that the server has assigned, if this is the notice that tells it."""
        if incoming.event is Event.RENAMED and len(name := incoming.name or "") <= SENDER_LIMIT:
            self.user = name

    def _require_connection(self) -> Connection:
        if self._connection is None:
            raise ConnectionLostError(f"not connected to {self.address}")
        return self._connection

    def _lost_error(self) -> ConnectionLostError:
        lost = self._connection.lost if self._connection else None
        reason = f" ({lost})" if isinstance(lost, TimeoutError) else ""
        return ConnectionLostError("lost the connection to ", f"{self.address}{reason}")
