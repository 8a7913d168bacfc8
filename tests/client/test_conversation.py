"""A client and a view put together: what is not sent is not lost. (How conversations end is in `test_cli.py`, with real processes.)"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from broadcast import BroadcastClient, BroadcastServer, Incoming, Message, Notice
from broadcast.client.conversation import Conversation
from broadcast.client.reconnect import run_with_reconnect


class Script:
    """A view that has these runs to send, one after the other, and remembers what it is told."""

    def __init__(self, *runs: bytes | None) -> None:
        self.quit_requested = asyncio.Event()
        self.runs = list(runs)
        self.shown: list[Incoming] = []
        self.told: list[str | None] = []

    async def read(self) -> bytes | None:
        return self.runs.pop(0)

    def unread(self, run: bytes) -> None:
        self.runs.insert(0, run)

    async def display(self, arrived: Sequence[Incoming], name: str) -> None:
        self.shown += arrived

    async def set_status(self, trouble: str | None) -> None:
        self.told.append(trouble)


async def test_lines_read_after_the_connection_was_lost_are_given_back() -> None:
    view = Script(b"one\n", None)
    await Conversation(BroadcastClient(), view, 30)._send()
    assert view.runs == [b"one\n", None]


async def test_every_line_is_sent_and_every_answer_displayed(server: BroadcastServer) -> None:
    view = Script(b"one\ntwo\n", b"\\clients\n", None)
    async with BroadcastClient(port=server.port, user="other") as other:
        await run_with_reconnect(
            lambda: BroadcastClient(port=server.port, user="a", heartbeat=None),
            view,
            30,
            reconnect=False,
        )
        assert [await anext(other) for _ in range(2)] == [Message("a", "one"), Message("a", "two")]
    assert view.shown == [Notice("2 clients"), Notice("a (you)"), Notice("other")]
    assert view.told == []


async def test_nothing_after_exit_is_sent(server: BroadcastServer) -> None:
    view = Script(b"one\n\\exit\ntwo\n", b"three\n", None)
    async with BroadcastClient(port=server.port, user="other") as other:
        await run_with_reconnect(
            lambda: BroadcastClient(port=server.port, user="a", heartbeat=None),
            view,
            30,
            reconnect=True,
        )
        await other.leave()
        assert [incoming async for incoming in other] == [Message("a", "one")]
    assert view.runs == [b"three\n", None]
