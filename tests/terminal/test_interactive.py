"""The terminal's part in a conversation, without a terminal."""

from __future__ import annotations

import asyncio
from typing import cast

from broadcast import ConnectionLostError
from broadcast.terminal.interactive import Terminal
from broadcast.terminal.stdio import Console


class FakeConsole:
    """A terminal of 80 columns that shows nothing."""

    def size(self) -> tuple[int, int]:
        return 80, 24


async def test_names_are_asked_again_only_if_the_question_had_been_sent() -> None:
    terminal = Terminal(
        cast(Console, FakeConsole()), "me", coloured=False, bell=False, as_text=False, notices=True
    )
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
