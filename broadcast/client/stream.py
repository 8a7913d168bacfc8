"""One connection to a server as a stream of lines, with its heartbeats."""

import asyncio
import contextlib
from collections import deque

from ..errors import ConnectionLostError
from ..net.connection import Connection
from ..protocol.blocks import REPLACEMENT_GROWTH, sanitize
from ..protocol.framing import ENDING, LineSplitter, TooLong
from ..protocol.messages import Incoming, parse_incoming
from ..protocol.names import NAME_BYTES
from .heartbeat import SILENT_HEARTBEATS, Heartbeat


class ServerStream:
    """Sends lines over one connection, parses those that arrive, and keeps it alive.

    `received`: what has arrived and has not been used yet, without the answers to heartbeats; read
    more only when it is empty. `line_limit`: bytes that the server accepts in a line.
    """

    def __init__(self, connection: Connection, address: str, line_limit: int) -> None:
        self.connection = connection
        self.received: deque[Incoming] = deque()
        self._address = address
        self._splitter = LineSplitter(REPLACEMENT_GROWTH * line_limit + NAME_BYTES)
        self._problem: ConnectionLostError | None = None  # with a line, found after `received`
        self.read_lock = asyncio.Lock()
        self._heartbeats = Heartbeat()
        self._is_silent = False  # nothing was received since the last heartbeat
        self._is_leaving = False  # no more heartbeats
        self._given_up = ""  # why it was, in parentheses, if the server was silent for too long

    async def send(self, lines: bytes) -> None:
        """Send whole encoded lines and wait until they are written."""
        self._heartbeats.count_lines(lines)
        await self._send(lines)

    async def leave(self, lines: bytes) -> None:
        """Send the last lines, and no heartbeat after them."""
        self._is_leaving = True
        await self.send(lines)

    async def _send(self, lines: bytes) -> None:
        self.connection.send(lines)
        await self.connection.drain()
        if self.connection.is_closing:
            raise self.lost_error()

    async def read(self) -> bytes:
        """Read a chunk, parse its lines into `received`, and return it; it is empty at the end.

        Raises ConnectionLostError after a line that is too long.
        """
        if self._problem:
            raise self._problem
        async with self.read_lock:
            data = await self.connection.read_chunk()
        self._is_silent = False
        for chunk in self._splitter.feed(data):
            if isinstance(chunk, TooLong):
                why = "sent a line that is longer than this protocol allows"
                self._problem = ConnectionLostError(f"{self._address} {why}")
                break
            lines = map(sanitize, chunk.replace(ENDING, b"\n").split(b"\n"))
            is_answer = self._heartbeats.is_answer
            self.received += [
                parse_incoming(line) for line in lines if line and not is_answer(line)
            ]
        return data

    async def keep_alive(self, seconds: float) -> None:
        """Send a heartbeat at this interval until the client leaves or the connection is lost."""
        with contextlib.suppress(ConnectionLostError):  # receiving reports it
            while True:
                self._is_silent = True
                await asyncio.sleep(seconds)
                if self._is_leaving:
                    return
                # While nobody reads what arrives, the server is not to blame for it.
                is_silent = self._is_silent and self.read_lock.locked()
                if self._heartbeats.is_lost(seconds, silent=is_silent):
                    self._given_up = f" (nothing received for {SILENT_HEARTBEATS * seconds:g} s)"
                    self.connection.reset()
                await self._send(self._heartbeats.next_line())

    @property
    def is_lost(self) -> bool:
        """Whether the connection broke, or was given up; False if it has ended in order."""
        return bool(self.connection.lost or self._given_up)

    def lost_error(self) -> ConnectionLostError:
        """Return the exception for a connection that is lost, with the reason if it is ours."""
        return ConnectionLostError("lost the connection to ", f"{self._address}{self._given_up}")
