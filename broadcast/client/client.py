"""BroadcastClient: connect, send, iterate over what arrives, heartbeat; no terminal in it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from .. import protocol
from ..errors import ConnectError, ConnectionLostError, RefusedError
from ..net.address import format_address
from ..net.connection import Connection
from ..net.dial import connect
from ..protocol import Connect, Incoming, LineSplitter, TooLong

DEFAULT_HEARTBEAT = 30.0
"""Seconds: a tenth of the time after which our server gives up a silent client, and seldom enough to cost it nothing."""

CONNECT_TIME = 10.0
"""Seconds for each of the connection, TLS and the server's answer: a server under load answers in one, a person waits no longer than ten."""

LEAVE_TIME = 10.0
"""Seconds from `\\exit` within which the server has to have sent what it owes and closed."""

CUT_SHORT_TIME = 0.3
"""Seconds for the same when the client is closed because of an exception: enough for a server that is there."""

REASON_LIMIT = 256
"""Characters of a reason given by the server that an error repeats: several times what ours says,
and little enough for a prompt."""


class BroadcastClient:
    """A client in this process: `async with BroadcastClient(port=8888, user="Attila") as client:` is connected while the body runs.

    `async for message in client:` gives what arrives, in order: a Message, a Notice or a ServerError. It ends when the server ends the
    connection in order, and raises ConnectionLostError when it breaks; what had arrived is given before either.

    `heartbeat`: seconds between two signs of life, None to leave `keep_alive` to the caller. `connect_timeout`: seconds. `line_limit`: bytes
    that the server accepts in a line; what it sends may be three times as long. `tls`: a context that says whom to trust; None for plain
    TCP. `token`: the word that the server asks for.

    Raises UsernameError for a bad `user`; on entering ConnectError where the server can't be reached, RefusedError where it refuses.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8888,
        user: str = "anonymous",
        *,
        heartbeat: float | None = DEFAULT_HEARTBEAT,
        connect_timeout: float = CONNECT_TIME,
        line_limit: int = protocol.LINE_LIMIT,
        tls: ssl.SSLContext | None = None,
        token: str | None = None,
    ) -> None:
        self.user = protocol.check_username(
            user
        )  # as asked for; as given, once the first line after SUCCESS has been received
        self.address = format_address((host, port))
        self._host = host
        self._port = port
        self._heartbeat = heartbeat
        self._connect_timeout = connect_timeout
        self._tls = tls
        self._token = token
        self._limit = (
            protocol.REPLACEMENT_GROWTH * line_limit + protocol.NAME_BYTES
        )  # bytes in a line from the server
        self._cutter = LineSplitter(self._limit)
        self.bytes_received = 0  # over all connections
        self._lines: deque[str] = deque()  # arrived, not given out yet
        self._turn = asyncio.Lock()  # held by who reads from the connection
        self._name_may_follow = False  # from SUCCESS to the line after it
        self._connection: Connection | None = None  # from `connect` to `close`
        self._heart: asyncio.Task[None] | None = None  # likewise, where `heartbeat` is given

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close(LEAVE_TIME if exception is None else CUT_SHORT_TIME)

    async def connect(self) -> None:
        """Connect and shake hands. Raises ConnectError, RefusedError, or ConnectionLostError where the answer breaks off; nothing is left open
        then."""
        self._lines.clear()
        self._cutter = LineSplitter(self._limit)
        self._name_may_follow = False
        self._connection = await connect(self._host, self._port, self._connect_timeout, self._tls)
        try:
            async with asyncio.timeout(self._connect_timeout):
                await self._shake_hands(self._connection)
        except BaseException as problem:
            await _close(self._connection)
            self._connection = None
            if isinstance(problem, TimeoutError):
                raise ConnectError(
                    f"{self.address} does not answer: is it a broadcast server?"
                ) from None
            raise
        if self._heartbeat is not None:
            self._heart = asyncio.create_task(self.keep_alive(self._heartbeat))

    async def _shake_hands(self, connection: Connection) -> None:
        connection.send(Connect(self.user, self._token).encode())
        while not self._lines:
            if not await self._read():
                hint = "" if self._tls else "; does it want --tls?"
                raise ConnectError(f"{self.address} closed the connection without an answer{hint}")
        answer = self._lines.popleft()
        if answer != protocol.SUCCESS:
            said = protocol.parse_incoming(answer)
            if isinstance(said, protocol.ServerError):
                if said.text in protocol.PASSING_REFUSALS:
                    raise ConnectError(f"{self.address} is not to be had now: {said.text}")
                raise RefusedError(f"{self.address} refuses: {said.text[:REASON_LIMIT]}")
            raise RefusedError(f"{self.address} does not speak this protocol")
        self._name_may_follow = True

    @property
    def is_connected(self) -> bool:
        """Whether something can be sent."""
        return self._connection is not None and not self._connection.is_closing

    async def send(self, text: str) -> None:
        r"""Send a message to all others, or a command where it begins with `\`; return when the system has taken it.

        Raises ValueError for a text with a line ending in it, ConnectionLostError where nothing more can be sent.
        """
        if "\n" in text or "\r" in text:
            raise ValueError("a message is one line: it can't have a line ending in it")
        await self.send_lines(protocol.encode(text))

    async def send_lines(self, lines: bytes) -> None:
        """Send whole lines, as they are on the wire, each ended by LF; otherwise as `send`."""
        connection = self._connected()
        connection.send(lines)
        await connection.drain()
        if connection.is_closing:
            raise self._lost()

    async def leave(self) -> None:
        r"""Send `\exit`: the server sends what it still owes, which can be received, and ends the connection."""
        await self.send("\\exit")

    async def receive(self) -> list[Incoming]:
        """Return all that has arrived by now, in order, waiting for at least one; nothing when the server has ended the connection.

        Raises ConnectionLostError when it broke.
        """
        await self._until_received()
        arrived = [self._interpret(line) for line in self._lines]
        self._lines.clear()
        return arrived

    def __aiter__(self) -> AsyncIterator[Incoming]:
        return self

    async def __anext__(self) -> Incoming:
        await self._until_received()
        if not self._lines:
            raise StopAsyncIteration
        return self._interpret(self._lines.popleft())

    async def keep_alive(self, seconds: float) -> None:
        r"""Send a sign of life, `\ping`, every so many seconds, until nothing more can be sent."""
        with contextlib.suppress(ConnectionLostError):  # whoever receives is told
            while True:
                await asyncio.sleep(seconds)
                await self.send("\\ping")

    async def close(self, seconds: float = LEAVE_TIME) -> None:
        r"""Leave: send `\exit`, wait for the server to end the connection, that many seconds at most, and close it."""
        connection, self._connection = self._connection, None
        heart, self._heart = self._heart, None
        if heart:
            heart.cancel()
        if connection is None:
            return
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    connection.send(protocol.encode("\\exit"))
                    await connection.drain()
                    async with (
                        self._turn
                    ):  # somebody may be receiving still, and is given what arrives
                        while await connection.read_chunk():
                            pass
        finally:
            await _close(connection)

    async def _until_received(self) -> None:
        """Return when there are lines, or there will be none because the server has ended the connection."""
        while not self._lines and await self._read():
            pass
        if not self._lines and self._connected().lost:
            raise self._lost()

    async def _read(self) -> bool:
        """Take in what arrives next; return False at the end. A last line without an ending is dropped: it is not whole."""
        async with self._turn:
            chunk = await self._connected().read_chunk()
        self.bytes_received += len(chunk)
        for run in self._cutter.feed(chunk):
            if isinstance(run, TooLong):
                raise ConnectionLostError(
                    f"{self.address} sent a line that is longer than this protocol allows"
                )
            self._lines.extend(
                filter(
                    None, map(protocol.sanitize, run.replace(protocol.ENDING, b"\n").split(b"\n"))
                )
            )
        return bool(chunk)

    def _interpret(self, line: str) -> Incoming:
        if self._name_may_follow:
            given = protocol.parse_renamed(line)
            if given and len(given) <= protocol.SENDER_LIMIT:  # our server gives no longer one
                self.user = given
            self._name_may_follow = False
        return protocol.parse_incoming(line)

    def _connected(self) -> Connection:
        if self._connection is None:
            raise ConnectionLostError(f"not connected to {self.address}")
        return self._connection

    def _lost(self) -> ConnectionLostError:
        lost = self._connection.lost if self._connection else None
        why = f" ({lost})" if isinstance(lost, TimeoutError) else ""
        return ConnectionLostError(f"lost the connection to {self.address}{why}")


async def _close(connection: Connection) -> None:
    connection.close()
    await asyncio.sleep(
        0
    )  # asyncio closes the socket in the loop's next turn, and this may be the last
