"""The log of a room, as one server writes and reads it: how much at a time, and when not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from cluster_helpers import FakeRedis
from helpers import until

from broadcast.cluster.log import RoomLog
from broadcast.cluster.resp import encode
from broadcast.cluster.room import ClusterRoom
from broadcast.cluster.scripts import Scripts
from broadcast.errors import LostError
from broadcast.net.connection import Connection
from broadcast.protocol.blocks import Block
from broadcast.server.batch import BATCH_SIZE
from broadcast.server.clock import ServingClock
from broadcast.server.gate import PauseReason
from broadcast.server.room import Member
from broadcast.server.settings import Settings
from broadcast.server.subscription import Subscription
from broadcast.system.tasks import background_tasks

FIRST = 100
POSITIONS = [FIRST + BATCH_SIZE * number for number in range(1, 4)]
"""Where the log is before, and after each of three entries of the size of a batch."""


def say(room: ClusterRoom, *lines: bytes) -> None:
    """Publish lines, one after the other."""
    member = Member("a", Subscription(Connection(), lambda _: None, 0.0))
    for line in lines:
        room.publish(member, Block(line, 1))


def reply(*positions: int) -> bytes:
    """Return what Redis answers a server that has read the log up to the first position."""
    entries = [encode(f"{before}-1", "other 1 0", "say 1", "a: b\n") for before in positions]
    ids = [encode(f"{position}-1")[4:] for position in positions[1:]]
    pairs = b"".join(b"*2\r\n" + id_ + entry for id_, entry in zip(ids, entries, strict=False))
    return b"*1\r\n*2\r\n$3\r\nlog\r\n*%d\r\n%b" % (len(ids), pairs)


@pytest.fixture
async def room() -> AsyncIterator[ClusterRoom]:
    with ServingClock() as clock:
        yield ClusterRoom(clock, Settings(), None)


@pytest.fixture
def log(room: ClusterRoom) -> RoomLog:
    """The log as a server knows it that has read it up to FIRST."""
    log = RoomLog(room, Scripts("main"))
    log.begin("server", b"%d-1" % FIRST)
    return log


class TestWriting:
    async def test_writes_follow_each_other(
        self, log: RoomLog, room: ClusterRoom, fake_redis: FakeRedis
    ) -> None:
        """What happens while one is not answered goes with the next."""
        server, redis, _ = fake_redis
        await log.start_writing(redis, 0)
        say(room, b"a: 1\n", b"a: 2\n", b"a: 3\n")
        await until(lambda: b"a: 1" in server.asked)
        await asyncio.sleep(0.02)
        assert b"a: 2" not in server.asked
        server.answer(b"$-1\r\n")
        await until(lambda: b"a: 3" in server.asked)
        assert [server.asked.count(b"say 1"), server.asked.count(b"EVALSHA")] == [3, 2]

    async def test_what_happens_in_an_outage_is_written_once_it_ends(
        self, log: RoomLog, room: ClusterRoom, fake_redis: FakeRedis
    ) -> None:
        """First what was written before and has not come back, then the rest, in a quiet room."""
        server, redis, _ = fake_redis
        await log.start_writing(redis, 0)
        say(room, b"a: 1\n")
        log.stop_writing()
        say(room, b"a: 2\n")
        await until(lambda: b"a: 1" in server.asked)
        server.answer(b"$-1\r\n")
        server.asked = b""
        starting = asyncio.create_task(log.start_writing(redis, 0))
        await until(lambda: b"a: 1" in server.asked)
        assert b"a: 2" not in server.asked
        server.answer(b"$-1\r\n")
        await starting
        await until(lambda: b"a: 2" in server.asked)


class TestReading:
    async def test_entries_are_taken_a_batch_an_iteration(
        self, log: RoomLog, fake_redis: FakeRedis
    ) -> None:
        """Others are served in between."""
        async with background_tasks() as start:
            log.start_reading(fake_redis.redis, start)
            fake_redis.server.answer(reply(FIRST, *POSITIONS))
            seen = {log.position}
            while log.position != POSITIONS[-1]:
                await asyncio.sleep(0)
                seen.add(log.position)
        assert seen == {FIRST, *POSITIONS}

    async def test_more_is_asked_for_once_all_is_taken(
        self, log: RoomLog, fake_redis: FakeRedis
    ) -> None:
        async with background_tasks() as start:
            log.start_reading(fake_redis.redis, start)
            fake_redis.server.answer(reply(FIRST, *POSITIONS))
            await until(lambda: fake_redis.server.asked.count(b"XREAD") == 2)
        assert fake_redis.server.asked.endswith(encode(b"%d-1" % POSITIONS[-1])[4:])

    async def test_nothing_is_taken_while_readers_lag(
        self, log: RoomLog, room: ClusterRoom, fake_redis: FakeRedis
    ) -> None:
        async with background_tasks() as start:
            room.gate.hold(PauseReason.BACKLOG, True)
            log.start_reading(fake_redis.redis, start)
            fake_redis.server.answer(reply(FIRST, *POSITIONS[:1]))
            await until(lambda: fake_redis.redis.silent_for == 0)
            assert log.position == FIRST
            room.gate.hold(PauseReason.BACKLOG, False)
            await until(lambda: log.position == POSITIONS[0])

    async def test_entry_that_does_not_follow_the_last_one_ends_the_connection(
        self, log: RoomLog, fake_redis: FakeRedis
    ) -> None:
        async with background_tasks() as start:
            log.start_reading(fake_redis.redis, start)
            fake_redis.server.answer(reply(*POSITIONS[:2]))
            with pytest.raises(LostError, match="no longer has"):
                await asyncio.wait_for(fake_redis.running, 5)
        assert log.position == FIRST
