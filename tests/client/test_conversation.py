"""The conversation of a client and a view; how it ends is tested in `tests/cli`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from helpers import until

from broadcast import BroadcastClient, BroadcastError, BroadcastServer, Incoming, Message, Notice
from broadcast.client.conversation import Conversation
from broadcast.client.reconnect import run_with_reconnect


class Script:
    """A view that sends these chunks one after the other, and records what it is given."""

    def __init__(self, *chunks: bytes | None) -> None:
        self.quit_requested = asyncio.Event()
        self.chunks = list(chunks)
        self.shown: list[Incoming] = []
        self.sent = 0
        self.told: list[str] = []

    async def read(self) -> bytes | None:
        return self.chunks[0]

    async def display(self, arrived: Sequence[Incoming], name: str) -> None:
        self.shown += arrived

    def on_sent(self) -> None:
        self.sent += 1
        del self.chunks[0]

    async def on_connected(self, address: str, name: str) -> None:
        self.told.append(f"{name} at {address}")

    async def on_disconnected(self, problem: BroadcastError, delay: float) -> None:
        self.told.append(str(problem))


async def test_lines_read_after_the_connection_was_lost_are_sent_by_the_next_conversation(
    server: BroadcastServer,
) -> None:
    view = Script(b"one\n", b"two\n", None)
    await Conversation(BroadcastClient(), view)._send()
    assert (view.chunks, view.sent) == ([b"one\n", b"two\n", None], 0)
    async with (
        BroadcastClient(port=server.port, user="other") as other,
        BroadcastClient(port=server.port, user="a") as client,
    ):
        await Conversation(client, view).run()
        assert [await anext(other) for _ in range(2)] == [Message("a", "one"), Message("a", "two")]
        assert (view.chunks, view.sent) == ([None], 2)


async def test_view_is_told_when_its_lines_are_on_their_way_and_not_before() -> None:
    joined = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"SUCCESS\r\n")
        await joined.wait()
        await reader.readuntil(b"\\exit\r\n")
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**24)
    view = Script((b"x" * 50_000 + b"\n") * 300, b"\\exit\r\n")
    async with listening, BroadcastClient(port=listening.sockets[0].getsockname()[1]) as client:
        running = asyncio.create_task(Conversation(client, view).run())
        await until(lambda: client._require_stream().connection.write_pending)
        assert view.sent == 0
        joined.set()
        await running
    assert view.sent == 2


async def test_every_line_is_sent_and_every_answer_displayed(server: BroadcastServer) -> None:
    view = Script(b"one\ntwo\n", b"\\clients\n", None)
    async with BroadcastClient(port=server.port, user="other") as other:
        await run_with_reconnect(
            lambda: BroadcastClient(port=server.port, user="a"),
            view,
            reconnect=False,
        )
        assert [await anext(other) for _ in range(2)] == [Message("a", "one"), Message("a", "two")]
    assert view.shown == [Notice("2 clients"), Notice("a (you)"), Notice("other")]
    assert view.told == [f"a at 127.0.0.1:{server.port}"]


async def test_nothing_after_exit_is_sent(server: BroadcastServer) -> None:
    view = Script(b"one\n\\exit\ntwo\n", b"three\n", None)
    async with BroadcastClient(port=server.port, user="other") as other:
        await run_with_reconnect(
            lambda: BroadcastClient(port=server.port, user="a"),
            view,
            reconnect=True,
        )
        await other.leave()
        assert [incoming async for incoming in other] == [Message("a", "one")]
    assert view.chunks == [b"three\n", None]
