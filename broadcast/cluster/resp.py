"""Speak to a Redis: its protocol RESP2, over a connection of our own."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import LostError, RedisError
from ..net.connection import Connection
from ..server.clock import ServingClock

READ_SIZE = 130_000  # bytes read at once: an entry; above 128 KiB, each buffer is mapped anew

FOREIGN = "it does not speak the protocol of Redis"

Reply = Any  # None, an int, bytes, or a list of replies


class Prefix:
    """The first words of several commands, encoded once."""

    def __init__(self, *words: str | bytes | int) -> None:
        self.count, self.data = len(words), b"".join(_parts(words))


def encode(*words: str | bytes | int, after: Prefix | None = None) -> bytes:
    """Return a command in the wire format, of these words after those of the prefix."""
    count, data = (after.count, after.data) if after else (0, b"")
    return b"".join((b"*%d\r\n" % (count + len(words)), data, *_parts(words)))


def _parts(words: Iterable[str | bytes | int]) -> list[bytes]:
    parts: list[bytes] = []
    for word in words:
        data = word if isinstance(word, bytes) else str(word).encode()
        parts += (b"$%d\r\n" % len(data), data, b"\r\n")
    return parts


def parse(data: bytes, start: int) -> tuple[Reply, int]:
    """Return the reply that begins at `start`, and where it ends; raise EOFError if it is cut."""
    end = data.find(b"\r\n", start)
    if end < 0:
        raise EOFError
    kind, rest, start = data[start : start + 1], data[start + 1 : end], end + 2
    if kind == b"$":
        if (size := _number(rest)) < 0:
            return None, start
        if len(data) < (end := start + size + 2):
            raise EOFError
        return data[start : end - 2], end
    if kind == b"*":
        items = []
        for _ in range(size := _number(rest)):
            item, start = parse(data, start)
            items.append(item)
        return (None if size < 0 else items), start
    if kind == b":":
        return _number(rest), start
    if kind == b"+":
        return rest, start
    if kind == b"-":
        kind_of_error = LostError if rest.startswith(b"LOST ") else RedisError
        raise kind_of_error(rest.decode(errors="replace"))
    raise RedisError(FOREIGN)


def _number(text: bytes) -> int:
    try:
        return int(text)
    except ValueError:
        raise RedisError(FOREIGN) from None


class RedisConnection:
    """One connection to a Redis: while `run` is running, commands are answered in their order."""

    def __init__(self, connection: Connection, clock: ServingClock) -> None:
        self._connection, self._clock = connection, clock
        self._handlers: deque[Callable[[Reply], None]] = deque()  # of commands not answered yet
        # In running time: since when Redis is silent; in the future while it may wait.
        self._silent_since = 0.0
        self._data = b""  # what was received, from the first reply on that is not whole
        self._problem: Exception | None = None  # what a reply was, or led to
        connection.on_chunk = self._receive
        connection.set_read_size(READ_SIZE)
        connection.limit_send_buffer(READ_SIZE)  # a whole entry fits in: it is sent at once

    @property
    def silent_for(self) -> float:
        """Seconds of running time for which Redis has sent nothing, though it should have."""
        return self._clock.running_time() - self._silent_since if self._handlers else 0.0

    def send(self, command: bytes, handle: Callable[[Reply], None], wait: float = 0.0) -> None:
        """Send an encoded command; `handle` gets its reply, for which Redis may `wait` seconds."""
        if not self._handlers:
            self._silent_since = self._clock.running_time() + wait
        self._handlers.append(handle)
        self._connection.send(command)

    async def ask(self, command: bytes) -> Reply:
        """Send an encoded command and return its reply."""
        answer: asyncio.Queue[Reply] = asyncio.Queue()  # nothing happens if this is cancelled
        self.send(command, answer.put_nowait)
        return await answer.get()

    async def run(self) -> None:
        """Receive replies. Raises RedisError for an error, OSError, or what a handler raises."""
        while not self._problem and (data := await self._connection.read_chunk()):
            self._receive(data)
        raise self._problem or self._connection.lost or ConnectionError("it closed the connection")

    def _receive(self, data: bytes) -> bool:
        """Handle the replies that are whole; return False, which wakes `run`, after a problem."""
        self._silent_since = self._clock.running_time()
        data, start = self._data + data, 0
        try:
            while self._handlers and start < len(data) and not self._problem:
                reply, start = parse(data, start)
                self._handlers.popleft()(reply)
        except EOFError:
            pass
        except Exception as problem:
            self._problem = problem
        self._data = data[start:]
        return not self._problem

    async def aclose(self) -> None:
        """Close at once; the system sends nothing more, even of what was sent before."""
        self._connection.reset()
        await self._connection.aclose()
