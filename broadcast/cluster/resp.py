"""Speak to a Redis: its protocol RESP2, over a connection of our own.

Commands are pipelined: each is written at once, and its reply is passed to a callback within the
callback that brings it, because waking a task for each would cost more. Any error reply ends the
connection: whoever attaches again finds out what was executed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Generator
from typing import Any

from ..errors import BroadcastError
from ..net.connection import Connection
from ..server.clock import ServingClock

READ_SIZE = 256 * 1024
"""Bytes read at once: as many as may be in flight."""

Reply = Any
"""None, an int, bytes, or a list of replies."""


class RedisError(BroadcastError):
    """Redis has answered with an error, or not as Redis does."""


def encode(*words: str | bytes | int) -> bytes:
    """Return a command in the wire format."""
    return b"*%d\r\n%b" % (len(words), encode_words(*words))


def encode_words(*words: str | bytes | int) -> bytes:
    """Return a part of a command in the wire format."""
    encoded = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded])


class ReplyParser:
    """Parses what arrives into replies; what is incomplete is kept."""

    def __init__(self) -> None:
        self._data = b""
        self._start = 0  # of what is not parsed yet
        self._parsing = self._parse()

    def feed(self, data: bytes) -> Generator[Reply, None, None]:
        """Yield the replies that are complete with this data; an error reply is a RedisError."""
        self._data = self._data[self._start :] + data
        self._start = 0
        while True:
            try:
                next(self._parsing)
                return
            except StopIteration as parsed:
                self._parsing = self._parse()
                yield parsed.value

    def _parse(self) -> Generator[None, None, Reply]:
        """Return one reply; yields when it needs more data."""
        while (end := self._data.find(b"\r\n", self._start)) < 0:
            yield
        kind, rest = self._data[self._start : self._start + 1], self._data[self._start + 1 : end]
        self._start = end + 2
        if kind == b"+":
            return rest
        if kind == b"-":
            return RedisError(rest.decode(errors="replace"))
        if kind not in (b":", b"$", b"*") or not rest.removeprefix(b"-").isdigit():
            raise RedisError("it does not speak the protocol of Redis")
        number = int(rest)
        if kind == b":":
            return number
        if number < 0:
            return None
        if kind == b"*":
            items = []
            for _ in range(number):
                items.append((yield from self._parse()))
            return items
        while len(self._data) < self._start + number + 2:
            yield
        value = self._data[self._start : self._start + number]
        self._start += number + 2
        return value


class RedisConnection:
    """One connection to a Redis: first `ask`, then `send` while `receive` runs."""

    def __init__(self, connection: Connection, clock: ServingClock, timeout: float) -> None:
        self._connection = connection
        self._clock = clock
        self._timeout = timeout  # seconds, of `ask`
        self._parser = ReplyParser()
        self._callbacks: deque[Callable[[Reply], None]] = deque()  # of replies to come
        self._waiting_since = 0.0  # while there are any: since when nothing has arrived
        self._problem: Exception | None = None  # raised by a callback
        connection.set_read_size(READ_SIZE)

    def send(self, command: bytes, on_reply: Callable[[Reply], None]) -> None:
        """Send an encoded command; its reply, unless it is an error, is passed to `on_reply`."""
        if not self._callbacks:
            self._waiting_since = self._clock.running_time()
        self._callbacks.append(on_reply)
        self._connection.send(command)

    @property
    def silent_for(self) -> float:
        """Seconds of running time for which a command was waiting and nothing has arrived."""
        return self._clock.running_time() - self._waiting_since if self._callbacks else 0.0

    async def ask(self, *words: str | bytes | int) -> Reply:
        """Send a command and return its reply; raises RedisError if that is an error."""
        return await self.ask_encoded(encode(*words))

    async def ask_encoded(self, command: bytes) -> Reply:
        """Do the same for an encoded command. Raises OSError if there is no reply in time."""
        replies: list[Reply] = []
        self.send(command, replies.append)
        try:
            async with asyncio.timeout(self._timeout):
                while not replies:
                    await self._receive_chunk()
        except TimeoutError:
            raise ConnectionError(f"no answer for {self._timeout:g} s") from None
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
        for reply in self._parser.feed(data):
            if isinstance(reply, RedisError):
                raise reply
            if not self._callbacks:
                raise RedisError("it has replied to nothing")
            self._callbacks.popleft()(reply)

    def close(self) -> None:
        """Close at once."""
        self._connection.on_chunk = None
        self._connection.close()
