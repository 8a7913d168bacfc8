"""The terminal's part in a conversation, without a terminal."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import cast

from helpers import until

from broadcast import ConnectionLostError, Message
from broadcast.terminal.interactive import Terminal
from broadcast.terminal.stdio import Console


class FakeConsole:
    """A terminal of 80 columns that takes what is written while it is not blocked."""

    def __init__(self) -> None:
        self.keys: asyncio.Queue[bytes] = asyncio.Queue()
        self.written: list[bytes] = []
        self.written_before_suspending: list[bytes] = []
        self.unblocked = asyncio.Event()
        self.unblocked.set()

    def size(self) -> tuple[int, int]:
        return 80, 24

    async def read(self) -> bytes:
        return await self.keys.get()

    async def write(self, data: bytes) -> None:
        self.written.append(data)
        await self.unblocked.wait()

    @contextlib.contextmanager
    def raw_mode(self) -> Iterator[FakeConsole]:
        yield self

    def suspend(self) -> None:
        self.written_before_suspending = self.written[:]


def make_terminal(console: FakeConsole) -> Terminal:
    return Terminal(
        cast(Console, console), "me", coloured=False, bell=False, as_text=False, notices=True
    )


async def test_names_are_asked_again_only_if_the_question_had_been_sent() -> None:
    terminal = make_terminal(FakeConsole())
    assert await terminal.read() == b"\\clients 200\r\n"
    # Read, but not sent: it is still to be sent, once.
    await terminal.on_disconnected(ConnectionLostError(), 1.0)
    assert await terminal.read() == b"\\clients 200\r\n"
    terminal.on_sent()
    reading = asyncio.create_task(terminal.read())
    await asyncio.sleep(0)
    assert not reading.done()
    reading.cancel()
    await terminal.on_disconnected(ConnectionLostError(), 1.0)  # sent, but not answered
    assert await terminal.read() == b"\\clients 200\r\n"


async def test_nothing_is_drawn_between_leaving_the_screen_and_suspending() -> None:
    console = FakeConsole()
    terminal = make_terminal(console)
    running = asyncio.create_task(terminal.run())
    await until(lambda: bool(console.written))
    console.unblocked.clear()
    console.keys.put_nowait(b"\x1a")
    await until(lambda: console.written[-1].endswith(b"\x1b[?2004l"))
    displaying = asyncio.create_task(terminal.display([Message("bob", "hi")], "me"))
    await asyncio.sleep(0.01)
    console.unblocked.set()
    await displaying
    assert console.written_before_suspending[-1].endswith(b"\x1b[?2004l")
    assert b"bob: hi" in b"".join(console.written), "it is drawn afterwards"
    running.cancel()
    await asyncio.wait([running])
