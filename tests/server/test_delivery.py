"""Delivery to real clients: the same order for all, nothing lost or sent twice, memory bounded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

import pytest
from helpers import Connect, MakeServer, Peer, alive, connections, fanout_of, until

from broadcast import BroadcastServer
from broadcast.net.address import format_address
from broadcast.net.connection import Connection, send_to_all
from broadcast.protocol.blocks import BLOCK_LIMIT
from broadcast.server.batch import BATCH_OVERHEAD, BATCH_SIZE
from broadcast.server.subscription import Subscription

MESSAGE = "x" * 100


SMALL = 4096
"""Bytes of receive buffer; by default the loopback buffers 4 MB before a reader looks stalled."""


async def flood(sender: Peer, count: int, name: str = "", first: int = 0) -> None:
    """Send numbered messages, then `end`."""
    for start in range(first, first + count, 1000):
        sender.send(
            "".join(
                f"{number} {MESSAGE}\n" for number in range(start, min(start + 1000, first + count))
            )
        )
        await sender.writer.drain()
    sender.send(f"end{name}\n")


def numbers(lines: list[str], sender: str) -> list[int]:
    return [
        int(line.split(" ")[1])
        for line in lines
        if line.startswith(f"{sender}: ") and MESSAGE in line
    ]


def backlog(server: BroadcastServer) -> int:
    return int(server.statistics()["backlog bytes"])


async def test_hundred_clients_receive_everything_once_and_in_order(
    server: BroadcastServer, connect: Connect
) -> None:
    receivers = await asyncio.gather(*(connect(server, "r") for _ in range(100)))
    sender = await connect(server, "s")
    flooding = asyncio.create_task(flood(sender, 2000))
    for lines in await asyncio.gather(*(receiver.lines_until("s: end") for receiver in receivers)):
        assert numbers(lines, "s") == list(range(2000))
    await flooding


async def test_order_is_the_same_for_all_however_they_send_lag_leave_and_join(
    server: BroadcastServer, connect: Connect
) -> None:
    """Senders never read, leave early, reset, or join late, and receivers lag."""
    watchers = [
        await connect(server, f"w{number}", buffer=SMALL if number % 2 else None)
        for number in range(4)
    ]
    senders = [await connect(server, f"s{number}") for number in range(4)]
    leaver, resetter = await connect(server, "leaver"), await connect(server, "resetter")
    ends = [f"s{number}: end{number}" for number in range(4)]
    reading = [asyncio.create_task(watcher.lines_until(*ends, "late: end")) for watcher in watchers]
    for sender in (*senders, resetter):
        sender.pause_reading()
    first_half = [asyncio.create_task(flood(sender, 1500, "-of-half")) for sender in senders]
    leaver.send("".join(f"{number} {MESSAGE}\n" for number in range(500)) + "\\exit\n")
    await flood(resetter, 500)
    late = await connect(server, "late")
    resetter.reset()
    await asyncio.gather(*first_half)
    second_half = [
        asyncio.create_task(flood(sender, 1500, str(number), first=1500))
        for number, sender in enumerate(senders)
    ]
    reading_late = asyncio.create_task(late.lines_until(*ends))
    await asyncio.gather(*second_half, flood(late, 100))
    first, *others = await asyncio.gather(*reading)
    for name, count in {
        "s0": 3000,
        "s1": 3000,
        "s2": 3000,
        "s3": 3000,
        "leaver": 500,
        "resetter": 500,
        "late": 100,
    }.items():
        assert numbers(first, name) == list(range(count)), name
    assert all(lines == first for lines in others)
    seen_by_late = await reading_late
    without_late = [line for line in first if not line.startswith("late: ")]
    assert seen_by_late == without_late[without_late.index(seen_by_late[0]) :][: len(seen_by_late)]


async def test_twelve_clients_that_all_send_receive_everything_in_the_same_order(
    server: BroadcastServer, connect: Connect
) -> None:
    peers = [await connect(server, f"p{number}") for number in range(12)]
    names = {f"p{number}" for number in range(12)}
    flooding = [
        asyncio.create_task(flood(peer, 400, str(number))) for number, peer in enumerate(peers)
    ]
    logs = await asyncio.gather(
        *(
            peer.lines_until(*(f"p{n}: end{n}" for n in range(12) if n != number))
            for number, peer in enumerate(peers)
        )
    )
    await asyncio.gather(*flooding)
    for number, lines in enumerate(logs):
        for other in names - {f"p{number}"}:
            assert numbers(lines, other) == list(range(400))
        shared = [line for line in lines if line.split(":")[0] not in ("p0", f"p{number}")]
        assert shared == [
            line for line in logs[0] if line.split(":")[0] not in ("p0", f"p{number}")
        ]


async def test_blocks_published_in_one_iteration_are_sent_together(
    server: BroadcastServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await connect(server, "a"), await connect(server, "b")
    fanout = fanout_of(server)
    writes = []

    def count(connections: Iterable[Connection], data: bytes | memoryview) -> list[Connection]:
        writes.append(bytes(data))
        return send_to_all(connections, data)

    monkeypatch.setattr("broadcast.server.fanout.send_to_all", count)
    for number in range(100):
        fanout.publish(None, b"%d\r\n" % number)
    assert await a.lines(100) == await b.lines(100) == [str(number) for number in range(100)]
    assert writes == [b"".join(b"%d\r\n" % number for number in range(100))]


async def test_leaver_receives_what_was_published_before_in_the_same_iteration(
    server: BroadcastServer, connect: Connect
) -> None:
    stays, leaves = await connect(server, "stays"), await connect(server, "leaves")
    fanout = fanout_of(server)
    address = format_address(leaves.writer.get_extra_info("sockname"))
    (leaving,) = [one for one in alive(Subscription) if one.connection.peer == address]
    fanout.publish(None, b"before\r\n")
    delivered = fanout.leave(leaving)
    fanout.publish(None, b"after\r\n")
    await delivered
    assert await stays.lines(2) == ["before", "after"]
    assert await leaves.synchronise() == ["before"]


async def test_stalled_leaver_that_is_owed_no_later_batch_keeps_none_in_the_backlog(
    make_server: MakeServer, connect: Connect
) -> None:
    server = await make_server(history=100, history_bytes=2**23, backlog=100_000, grace=0.2)
    sender, reader = await connect(server, "s"), await connect(server, "r")
    sender.send(f"{'y' * 60_000}\n" * 40)
    await sender.synchronise()
    leaver = await connect(server, "leaver", buffer=SMALL)
    leaver.pause_reading()
    leaver.send("\\exit\n")
    await until(lambda: server.statistics()["clients"] <= 2)
    await flood(sender, 10_000)
    assert numbers(await reader.lines_until("s: end"), "s") == list(range(10_000))
    assert (backlog(server), server.statistics()["dropped"]) == (0, 0)
    leaver.resume_reading()
    lines = await leaver.read_to_end()
    assert sum("] s: yyy" in line for line in lines) == 40


class TestStalledReader:
    async def test_stalled_reader_is_dropped_and_reset_and_the_others_miss_nothing(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server(backlog=500_000, grace=0.3)
        others = [await connect(server, f"r{number}") for number in range(5)]
        stalled = await connect(server, "stalled", buffer=SMALL)
        sender = await connect(server, "s")
        stalled.pause_reading()
        reading = [asyncio.create_task(other.lines_until("s: end")) for other in others]
        began = time.monotonic()
        await flood(sender, 20_000)
        for lines in await asyncio.gather(*reading):
            assert numbers(lines, "s") == list(range(20_000))
            assert "* stalled left (too slow)" in lines
        assert time.monotonic() - began < 10
        await until(lambda: connections(server) <= 6)
        assert backlog(server) == 0
        stalled.resume_reading()
        with pytest.raises(ConnectionResetError):
            await stalled.read_to_end()

    async def test_stalled_reader_is_sent_the_reason_if_its_socket_accepts_it(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server(backlog=200_000, grace=0.2, notices=False)
        stalled, sender = await connect(server, "stalled", buffer=SMALL), await connect(server, "s")
        stalled.pause_reading()
        flooding = asyncio.create_task(flood(sender, 30_000))
        await until(lambda: server.statistics()["clients"] <= 1)
        stalled.resume_reading()
        lines = await stalled.read_to_end()
        assert lines[-1] == "ERROR too slow: did not read what it was sent in time"
        received = numbers(lines, "s")
        assert received == list(range(len(received)))
        await flooding

    async def test_stalled_reader_pauses_input_without_growing_the_backlog(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server(backlog=300_000, grace=0.5, notices=False)
        stalled, sender = await connect(server, "stalled", buffer=SMALL), await connect(server, "s")
        stalled.pause_reading()
        flooding = asyncio.create_task(flood(sender, 100_000))
        largest = 0
        while not flooding.done():
            largest = max(largest, backlog(server))
            await asyncio.sleep(0)
        assert 300_000 < largest <= 300_000 + BATCH_SIZE + BLOCK_LIMIT + BATCH_OVERHEAD

    async def test_slow_reader_is_never_evicted_while_the_backlog_is_small(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server(grace=0.1, notices=False)
        stalled, sender = await connect(server, "stalled", buffer=SMALL), await connect(server, "s")
        stalled.pause_reading()
        await flood(sender, 20_000)
        await sender.synchronise()
        assert backlog(server) > 0
        await asyncio.sleep(0.3)
        stalled.resume_reading()
        assert numbers(await stalled.lines_until("s: end"), "s") == list(range(20_000))

    async def test_reader_that_catches_up_in_every_pause_is_never_too_slow(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        """It does not matter how long all the pauses are together."""
        server = await make_server(backlog=200_000, grace=0.5, notices=False)
        slow, sender = await connect(server, "slow", buffer=SMALL), await connect(server, "s")
        flooding = asyncio.create_task(flood(sender, 15_000))
        paused = False
        lines: list[str] = []
        while "s: end" not in lines[-1:]:
            lines.append(await slow.line())
            if len(lines) % 1500 == 0:
                await asyncio.sleep(0.05)
            paused = paused or not fanout_of(server).gate.is_open
        assert paused
        assert numbers(lines, "s") == list(range(15_000))
        await flooding

    async def test_stalled_reader_that_leaves_during_the_pause_is_sent_the_reason(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server(backlog=200_000, grace=0.3, notices=False)
        stalled, sender = await connect(server, "stalled", buffer=SMALL), await connect(server, "s")
        stalled.pause_reading()
        flooding = asyncio.create_task(flood(sender, 50_000))
        await until(lambda: not fanout_of(server).gate.is_open)
        stalled.send("\\exit\n")
        await until(lambda: server.statistics()["clients"] <= 1)
        stalled.resume_reading()
        assert (await stalled.read_to_end())[
            -1
        ] == "ERROR too slow: did not read what it was sent in time"
        await flooding

    async def test_trickling_reader_is_dropped_as_too_slow(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server(backlog=300_000, grace=0.3)
        trickling, other, sender = (
            await connect(server, "t", buffer=SMALL),
            await connect(server, "o"),
            await connect(server, "s"),
        )
        trickling.pause_reading()

        async def trickle() -> None:
            while True:
                trickling.resume_reading()
                await asyncio.sleep(0)
                trickling.pause_reading()
                await asyncio.sleep(0.05)

        trickle_task = asyncio.create_task(trickle())
        reading = asyncio.create_task(other.lines_until("s: end"))
        await flood(sender, 20_000)
        assert "* t left (too slow)" in await reading
        trickle_task.cancel()


async def test_one_letter_lines_under_a_long_name_respect_the_backlog_limit(
    make_server: MakeServer, connect: Connect
) -> None:
    server = await make_server(backlog=500_000, grace=0.4, notices=False)
    stalled, sender = (
        await connect(server, "stalled", buffer=SMALL),
        await connect(server, "\U0001f600" * 32),
    )
    stalled.pause_reading()
    sender.send("a\n" * 100_000)
    largest = 0
    while server.statistics()["clients"] > 1:
        largest = max(largest, backlog(server))
        await asyncio.sleep(0)
    assert 500_000 < largest <= 500_000 + BATCH_SIZE + BLOCK_LIMIT + BATCH_OVERHEAD


async def test_time_while_input_is_paused_does_not_count_as_silence(
    make_server: MakeServer, connect: Connect
) -> None:
    server = await make_server(backlog=200_000, grace=0.8, timeout=0.4, notices=False)
    stalled, sender = await connect(server, "stalled", buffer=SMALL), await connect(server, "s")
    bystander = await connect(server, "b")
    stalled.pause_reading()
    heartbeat = True

    async def beat() -> None:
        while heartbeat:
            bystander.send("\\ping\n")
            await asyncio.sleep(0.1)

    beating = asyncio.create_task(beat())
    reading = asyncio.create_task(bystander.lines_until("s: end"))
    await flood(sender, 30_000)
    assert numbers(await reading, "s") == list(range(30_000))
    heartbeat = False
    await beating


async def test_ten_publishers_share_an_input_that_is_paused_repeatedly(
    make_server: MakeServer, connect: Connect
) -> None:
    """They always have something to publish, and one reader is slower than they are."""
    server = await make_server(backlog=200_000, grace=20, notices=False)
    reader = await connect(server, "reader", buffer=200_000)
    fanout = fanout_of(server)
    published = [0] * 10

    async def publish(number: int) -> None:
        while True:
            await fanout.gate.wait_turn()
            fanout.publish(None, b"x" * 9_998 + b"\r\n")
            published[number] += 1

    publishing = [asyncio.create_task(publish(number)) for number in range(10)]
    while sum(published) < 4000:
        await reader.line()
    for task in publishing:
        task.cancel()
    await asyncio.gather(*publishing, return_exceptions=True)
    assert min(published) > 0.3 * max(published), published
    reader.reset()


async def test_clients_that_join_at_once_are_notified_of_every_later_one(
    make_server: MakeServer, connect: Connect
) -> None:
    server = await make_server()
    count = 300
    peers = await asyncio.gather(*(connect(server, f"p{number}") for number in range(count)))
    await connect(server, "last")
    seen = [(await peer.lines_until("* last joined"))[:-1] for peer in peers]
    assert sorted(map(len, seen)) == list(range(count))
    order = max(seen, key=len)
    for lines in seen:
        assert lines == order[len(order) - len(lines) :]
