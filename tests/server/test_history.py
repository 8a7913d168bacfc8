"""History: what a client is sent of the messages before it joined."""

from __future__ import annotations

import asyncio
import datetime
import re
import tracemalloc

import pytest
from helpers import Connect, MakeServer, Peer

from broadcast import BroadcastServer
from broadcast.protocol.blocks import Block
from broadcast.server.history import History

SAID = r"\* \[\d\d:\d\d\] "


async def rejoin(connect: Connect, server: BroadcastServer, name: str) -> tuple[Peer, list[str]]:
    """Join, and return all lines that are sent to the newcomer at once."""
    peer = await connect(server, name)
    return peer, await peer.synchronise()


def without_times(lines: list[str]) -> list[str]:
    assert all(re.match(SAID, line) for line in lines), lines
    return [re.sub(SAID, "", line) for line in lines]


async def test_newcomer_is_sent_the_last_messages_as_notices_with_their_time(
    make_server: MakeServer, connect: Connect
) -> None:
    server = await make_server(history=3, notices=False)
    a = await connect(server, "a")
    a.send("".join(f"{number}\n" for number in range(5)))
    await a.synchronise()
    began = datetime.datetime.now()
    _, seen = await rejoin(connect, server, "b")
    assert without_times(seen) == ["a: 2", "a: 3", "a: 4"]
    said_at = seen[0][3:8]
    assert said_at in {f"{t:%H:%M}" for t in (began, began - datetime.timedelta(minutes=1))}


async def test_history_comes_after_the_rename_notice_and_before_joins_and_messages(
    make_server: MakeServer, connect: Connect
) -> None:
    server = await make_server(history=10)
    a = await connect(server, "a")
    a.send("one\n")
    await a.synchronise()
    b = await connect(server, "a")
    a.send("two\n")
    renamed, *rest = await b.lines(3)
    assert renamed == "* a is taken: you are a-2"
    assert re.fullmatch(SAID + "a: one", rest[0]) and rest[1] == "a: two"


async def test_own_messages_of_an_earlier_stay_are_in_the_history(
    make_server: MakeServer, connect: Connect
) -> None:
    server = await make_server(history=10, notices=False)
    a = await connect(server, "a")
    a.send("one\n\\exit\n")
    assert await a.read_to_end() == []
    _, seen = await rejoin(connect, server, "a")
    assert without_times(seen) == ["a: one"]


async def test_server_keeps_no_history_unless_told(
    server: BroadcastServer, connect: Connect
) -> None:
    a = await connect(server, "a")
    a.send("one\n")
    await a.synchronise()
    assert (await rejoin(connect, server, "b"))[1] == []


async def test_each_message_is_either_in_the_history_or_live(
    make_server: MakeServer, connect: Connect
) -> None:
    server = await make_server(history=100_000, history_bytes=100_000_000, notices=False)
    speaker = await connect(server, "s")
    speaker.pause_reading()
    total = 3_000

    async def speak() -> None:
        for number in range(total):
            speaker.send(f"{number}\n")
            if number % 10 == 0:
                await asyncio.sleep(0)

    speaking = asyncio.create_task(speak())
    peers = []
    for number in range(20):
        peers.append(await connect(server, f"r{number}"))
        await asyncio.sleep(0.002)
    await speaking
    for peer in peers:
        lines = await peer.lines(total)
        assert [re.sub(SAID, "", line) for line in lines] == [f"s: {n}" for n in range(total)]
    assert any(re.match(SAID, line) for line in (await rejoin(connect, server, "late"))[1])


def block(text: str, lines: int = 1) -> Block:
    return Block(f"{text}\r\n".encode() * lines, lines)


def test_lines_of_another_day_have_its_date() -> None:
    now = datetime.datetime(2026, 11, 22, 13, 5)
    kept = History(2, 1_000_000, lambda: now)
    kept.add(block("bob: hello"))
    assert kept.render() == b"* [13:05] bob: hello\r\n"
    now += datetime.timedelta(days=2)
    assert kept.render() == b"* [2026-11-22 13:05] bob: hello\r\n"


@pytest.mark.parametrize(
    ("text", "lines"), [("x: y", 1), ("x: " + "y" * 60_000, 1), ("x: y", 8000)]
)
def test_memory_is_bounded_with_the_notices_included(text: str, lines: int) -> None:
    limit = 1_000_000
    tracemalloc.start()
    kept = History(10_000_000, limit)
    for _ in range(100_000 // lines if len(text) < 100 else 100):
        kept.add(block(text, lines))
    rendered = kept.render()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 1.05 * limit
    assert len(rendered) > limit / 20


def test_newcomers_share_the_notices_until_the_next_message() -> None:
    kept = History(10, 1_000_000)
    kept.add(block("a: one"))
    first = kept.render()
    assert kept.render() is first
    kept.add(block("a: two"))
    assert kept.render() != first


def test_block_that_is_too_large_is_not_kept() -> None:
    kept = History(10, 1_000)
    kept.add(block("x" * 2_000))
    assert kept.render() == b""
    kept.add(block("a: one"))
    assert kept.render().endswith(b"a: one\r\n")
