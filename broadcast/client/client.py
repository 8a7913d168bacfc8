"""BroadcastClient: connect to a server, send, and iterate over what arrives."""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import KW_ONLY, dataclass
from itertools import islice
from typing import Self

from ..errors import ConnectError, ConnectionLostError, RefusedError, TLSMismatchError
from ..net.address import format_address
from ..net.dial import connect
from ..net.tls import ALERT
from ..protocol import handshake
from ..protocol.commands import HEARTBEAT_INTERVAL, Command
from ..protocol.framing import LINE_LIMIT, encode
from ..protocol.messages import Incoming, Notice, ServerError
from ..protocol.names import SENDER_LIMIT, check_username
from ..protocol.notices import Event
from ..system.tasks import background_task
from .stream import ServerStream

CONNECT_TIMEOUT = 10.0
"""Seconds for each of connecting, the TLS handshake and the server's answer: a loaded server
answers within one, and a person waits no longer than ten."""

LEAVE_TIME = 10.0
r"""Seconds after `\exit` for the server to send what is pending and to close the connection."""

ABORT_TIME = 0.3
"""Seconds to wait for the server when an exception closes the client: enough if it responds."""

EXIT = encode(Command.EXIT.line())

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
    user: str = handshake.DEFAULT_USERNAME  # the server may assign another one after SUCCESS
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
        self._connecting = asyncio.Lock()  # while `connect` or `close` runs
        self._stream: ServerStream | None = None  # from `connect` to `close`
        self._latest: ServerStream | None = None  # the same, and afterwards, for what is left
        self._lifetime = contextlib.AsyncExitStack()  # of the stream

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
            if self._stream is not None:
                raise RuntimeError("the client is connected already: close it first")
            stream = await self._lifetime.enter_async_context(self._joined())
            self._stream = self._latest = stream

    @contextlib.asynccontextmanager
    async def _joined(self) -> AsyncIterator[ServerStream]:
        """Connect, join and send heartbeats; close the connection at the end."""
        connection = await connect(self.host, self.port, self.connect_timeout, self.tls)
        async with contextlib.aclosing(connection):
            stream = ServerStream(connection, self.address, self.line_limit)
            try:
                async with asyncio.timeout(self.connect_timeout):
                    await self._join(stream)
            except TimeoutError:
                why = "does not answer: is it a broadcast server?"
                raise ConnectError(f"{self.address} {why}") from None
            if self.heartbeat is None:
                yield stream
                return
            async with background_task(stream.keep_alive(self.heartbeat)):
                yield stream

    async def _join(self, stream: ServerStream) -> None:
        stream.connection.send(handshake.Connect(self.user, self.token).encode())
        while not stream.received:
            data = await self._read(stream)
            if data.startswith(ALERT) and not self.tls:
                raise TLSMismatchError(f"{self.address} uses TLS; connect with --tls")
            if not data:
                hint = "" if self.tls else "; does it want --tls?"
                raise ConnectError(f"{self.address} closed the connection without an answer{hint}")
        answer = stream.received.popleft()
        if answer == Notice(handshake.SUCCESS):
            return
        if not isinstance(answer, ServerError):
            raise RefusedError(f"{self.address} does not speak this protocol")
        if answer.text in handshake.TEMPORARY_REFUSALS:
            raise ConnectError(f"{self.address} is temporarily unavailable: {answer.text}")
        hint = ""
        if answer.text == handshake.NOT_AUTHORISED:
            problem = "it wants a token" if self.token is None else "the token is wrong"
            hint = f"; {problem}: see --token-file"
        raise RefusedError(f"{self.address} refuses: {answer.text[:REASON_LIMIT]}{hint}")

    @property
    def is_connected(self) -> bool:
        """Whether lines can be sent."""
        return self._stream is not None and not self._stream.connection.is_closing

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
        await self._require_stream().send(lines)

    async def leave(self, lines: bytes = EXIT) -> None:
        r"""Send `\exit`: the server sends what is pending, to be received, and then closes.

        `lines`: whole encoded lines to send instead, of which the last is the command. Heartbeats
        end: one to a server that has closed draws a reset, which destroys what is in transit.
        """
        await self._require_stream().leave(lines)

    async def receive(self) -> list[Incoming]:
        """Wait for at least one line; return all that have arrived, none at the connection's end.

        Raises ConnectionLostError if the connection broke.
        """
        arrived = await self._wait_received()
        received = list(arrived)
        arrived.clear()
        return received

    def __aiter__(self) -> AsyncIterator[Incoming]:
        return self

    async def __anext__(self) -> Incoming:
        if not (arrived := await self._wait_received()):
            raise StopAsyncIteration
        return arrived.popleft()

    async def keep_alive(self, seconds: float) -> None:
        r"""Send a heartbeat, `\ping <word>`, at this interval until the connection is lost.

        A server that answers them is lost when nothing is received for SILENT_HEARTBEATS of them.
        """
        with contextlib.suppress(ConnectionLostError):  # receiving reports it
            await self._require_stream().keep_alive(seconds)

    async def close(self, seconds: float = LEAVE_TIME) -> None:
        r"""Send `\exit`, wait at most `seconds` for the server to close, and close.

        If a connection is still being made, this waits for it first.
        """
        async with self._connecting:
            stream, self._stream = self._stream, None
            try:
                if stream:
                    with contextlib.suppress(TimeoutError, ConnectionLostError):
                        async with asyncio.timeout(seconds):
                            await stream.leave(EXIT)
                            async with stream.read_lock:  # another task may still be receiving
                                while await stream.connection.read_chunk():
                                    pass
            finally:
                await self._lifetime.aclose()

    async def _wait_received(self) -> deque[Incoming]:
        """Wait until lines have arrived, or the connection has ended; return what is there.

        A client that is being closed goes on with what has arrived in the same way.
        """
        stream = self._latest or self._require_stream()
        while not stream.received and await self._read(stream):
            pass
        if not stream.received and stream.is_lost:
            raise stream.lost_error()
        return stream.received

    async def _read(self, stream: ServerStream) -> bytes:
        """Read a chunk and note the name that the server assigns in it; it is empty at the end."""
        data = await stream.read()
        self.bytes_received += len(data)
        for incoming in islice(stream.received, 2):  # it comes directly after SUCCESS
            if incoming.event is Event.RENAMED and len(name := incoming.name or "") <= SENDER_LIMIT:
                self.user = name
        return data

    def _require_stream(self) -> ServerStream:
        if self._stream is None:
            raise ConnectionLostError(f"not connected to {self.address}")
        return self._stream
