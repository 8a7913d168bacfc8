"""Speak to a Redis: its protocol RESP2, over a connection of our own.

Each reply is passed to a callback within the callback that brings it, because waking a task would
cost more. An error reply ends the connection: attaching again finds out what was executed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import Any

from ..errors import BroadcastError
from ..net.connection import Connection
from ..server.clock import ServingClock

READ_SIZE = 256 * 1024
"""Bytes read at once."""

Reply = Any
"""None, an int, bytes, or a list of replies."""


class RedisError(BroadcastError):
    """Redis has answered with an error, or not as Redis does."""


class LostError(RedisError):
    """Redis does not have the room as this server knows it: something that was said is lost."""


def encode(*words: str | bytes | int, before: bytes = b"", count: int = 0) -> bytes:
    """Return a command in the wire format; `before` has its first `count` words."""
    parts = [b"*%d\r\n" % (count + len(words)), before]
    for word in words:
        data = word if isinstance(word, bytes) else str(word).encode()
        parts += (b"$%d\r\n" % len(data), data, b"\r\n")
    return b"".join(parts)


class RedisConnection:
    """One connection to a Redis: first `ask`, then `send` while `receive` runs."""

    def __init__(self, connection: Connection, clock: ServingClock) -> None:
        self._connection, self._clock = connection, clock
        self._data = b""  # received
        self._start = 0  # of what is not parsed yet
        self._parsing = self._parse()
        self._callbacks: deque[Callable[[Reply], object]] = deque()  # of replies to come
        self._waiting_since = 0.0  # while there are any: since when nothing has arrived
        self._problem: Exception | None = None  # raised by a callback
        connection.set_read_size(READ_SIZE)

    def send(self, command: bytes, on_reply: Callable[[Reply], object]) -> None:
        """Send an encoded command; its reply, unless it is an error, is passed to `on_reply`."""
        if not self._callbacks:
            self._waiting_since = self._clock.running_time()
        self._callbacks.append(on_reply)
        self._connection.send(command)

    @property
    def silent_for(self) -> float:
        """Seconds of running time for which a command was waiting and nothing has arrived."""
        return self._clock.running_time() - self._waiting_since if self._callbacks else 0.0

    async def ask(self, command: bytes) -> Reply:
        """Send an encoded command and return its reply; raises RedisError or OSError."""
        replies: list[Reply] = []
        self.send(command, replies.append)
        while not replies:
            await self._receive_chunk()
        return replies[0]

    async def receive(self) -> None:
        """Pass replies to their callbacks; raises OSError, RedisError or what a callback raises."""
        self._connection.on_chunk = self._try_handle
        while True:
            await self._receive_chunk()

    async def _receive_chunk(self) -> None:
        data = await self._connection.read_chunk()
        if self._problem:
            raise self._problem
        if not data:
            raise self._connection.lost or ConnectionError("it has closed the connection")
        self._handle(data)

    def _try_handle(self, data: bytes) -> bool:
        """Handle data in the callback that brings it; a problem is raised by the task."""
        try:
            self._handle(data)
        except Exception as problem:
            self._problem = problem
        return self._problem is None

    def _handle(self, data: bytes) -> None:
        self._waiting_since = self._clock.running_time()
        self._data, self._start = self._data[self._start :] + data, 0
        while self._start < len(self._data):
            try:
                next(self._parsing)
                break  # the reply is not complete
            except StopIteration as parsed:
                reply, self._parsing = parsed.value, self._parse()
            if isinstance(reply, RedisError):
                raise reply
            if not self._callbacks:
                raise RedisError("it has answered nothing that was asked")
            self._callbacks.popleft()(reply)

    def _parse(self) -> Generator[None, None, Reply]:
        """Return one reply, an error as RedisError; yields when it needs more data."""
        while (end := self._data.find(b"\r\n", self._start)) < 0:
            yield
        kind, rest = self._data[self._start : self._start + 1], self._data[self._start + 1 : end]
        self._start = end + 2
        if kind == b"+":
            return rest
        if kind == b"-":
            return (LostError if rest.startswith(b"LOST ") else RedisError)(rest.decode())
        if kind not in (b":", b"$", b"*") or not rest.removeprefix(b"-").isdigit():
            raise RedisError("it does not speak the protocol of Redis")
        number = int(rest)
        if kind == b":" or number < 0:
            return number if kind == b":" else None
        if kind == b"*":
            items = []
            for _ in range(number):
                items.append((yield from self._parse()))
            return items
        while len(self._data) < self._start + number + 2:
            yield
        self._start += number + 2
        return self._data[self._start - number - 2 : self._start - 2]

    def close(self) -> None:
        """Close at once."""
        self._connection.on_chunk = None
        self._connection.close()
