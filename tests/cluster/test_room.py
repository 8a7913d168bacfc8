"""The part of a room that one server has: who is in, of what comes back from the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from helpers import until

from broadcast import BroadcastServer
from broadcast.cluster.entries import END, JOIN, Entry
from broadcast.cluster.room import SETTLE_INTERVAL, ClusterRoom, Write
from broadcast.errors import HandshakeError
from broadcast.net.connection import Connection
from broadcast.net.dial import connect
from broadcast.protocol.handshake import UNAVAILABLE
from broadcast.server.clock import ServingClock
from broadcast.server.reasons import LeaveReason
from broadcast.server.room import Member
from broadcast.server.settings import ClusterTiming, Settings
from broadcast.server.subscription import SubscriptionState

TIMING = ClusterTiming(newcomer=0.02, leave=0.02, notice=0.2)
LATER = 0.1
"""Seconds in which a newcomer, or a client that leaves, would have been refused or told."""

Connect = Callable[[], Awaitable[Connection]]


@pytest.fixture
async def new_connection(server: BroadcastServer) -> AsyncIterator[Connect]:
    async with AsyncExitStack() as stack:

        async def new() -> Connection:
            connection = await connect("127.0.0.1", server.port, 5)
            stack.push_async_callback(connection.aclose)
            return connection

        yield new


@pytest.fixture
async def room() -> AsyncIterator[ClusterRoom]:
    """A room of a server that is attached, which has two places."""
    with ServingClock() as clock:
        room = ClusterRoom(clock, Settings(max_clients=2, cluster_timing=TIMING), None)
        room.set_attached(True)
        yield room


class Log:
    """The log, as far as this server writes it."""

    def __init__(self, room: ClusterRoom) -> None:
        self.room = room
        self.answered = 0

    async def written(self) -> bytes:
        """Return the kind of what is written next."""
        writes: list[Write | None] = [None]

        def has_written() -> bool:
            writes.append(self.room.next_write())
            return writes[-1] is not None

        await until(has_written)
        assert writes[-1]
        [event] = writes[-1].events
        return event.kind

    def answer(self, kind: bytes, text: bytes) -> None:
        """Let what was written come back."""
        self.answered += 1
        entry = Entry(b"1-1", b"0-0", "own", self.answered, 0, [(kind, text)])
        self.room.take(entry, is_own=True)


@pytest.fixture
def log(room: ClusterRoom) -> Log:
    return Log(room)


async def join(
    room: ClusterRoom, log: Log, connection: Connection
) -> tuple[Member, list[LeaveReason]]:
    """Join as `a`; return the member, and a list of the reasons why it is interrupted."""
    reasons: list[LeaveReason] = []
    joining = asyncio.create_task(room.join("a", connection, reasons.append))
    assert await log.written() == JOIN
    log.answer(JOIN, b"a")
    return await joining, reasons


class TestPlaces:
    async def test_newcomer_never_counts_twice(
        self, room: ClusterRoom, log: Log, new_connection: Connect
    ) -> None:
        """Another one may ask for the last place just when the first one is admitted."""
        first = asyncio.create_task(room.join("a", await new_connection(), lambda _: None))
        assert await log.written() == JOIN
        second = asyncio.create_task(room.join("b", await new_connection(), lambda _: None))
        log.answer(JOIN, b"a")
        await asyncio.sleep(0)
        assert not second.done(), second.exception()
        assert await log.written() == JOIN
        log.answer(JOIN, b"b")
        members = await asyncio.gather(first, second)
        assert [member.name for member in members] == ["a", "b"]


class TestWaiting:
    """What takes long on a server that is attached waits for its own slow readers."""

    async def test_newcomer_is_refused_only_when_the_server_is_away(
        self, room: ClusterRoom, new_connection: Connect
    ) -> None:
        joining = asyncio.create_task(room.join("a", await new_connection(), lambda _: None))
        await asyncio.sleep(LATER)
        assert not joining.done()
        room.set_attached(False)
        with pytest.raises(HandshakeError, match=UNAVAILABLE):
            await joining

    async def test_newcomer_may_join_after_a_short_outage(
        self, room: ClusterRoom, log: Log, new_connection: Connect
    ) -> None:
        room.set_attached(False)
        joining = asyncio.create_task(room.join("a", await new_connection(), lambda _: None))
        await asyncio.sleep(0)
        room.set_attached(True)
        await asyncio.sleep(LATER)
        assert await log.written() == JOIN
        log.answer(JOIN, b"a")
        assert (await joining).name == "a"

    async def test_client_that_leaves_is_told_only_when_the_server_is_away(
        self, room: ClusterRoom, log: Log, new_connection: Connect
    ) -> None:
        member, reasons = await join(room, log, await new_connection())
        leaving = asyncio.create_task(room.leave(member, ""))
        await asyncio.sleep(LATER)
        assert not leaving.done()
        assert not reasons
        room.set_attached(False)
        assert await leaving is False
        assert reasons == [LeaveReason.OUT_OF_SYNC]


class TestFinish:
    async def test_what_others_have_said_before_comes_first(
        self, room: ClusterRoom, log: Log, new_connection: Connect
    ) -> None:
        _, reasons = await join(room, log, await new_connection())
        finishing = asyncio.create_task(room.finish())
        assert await log.written() == END
        said = Entry(b"1-1", b"0-0", "other", 1, 0, [(b"say 1", b"b: c\r\n")])
        room.take(said, is_own=False)
        await asyncio.sleep(2 * SETTLE_INTERVAL)
        assert not finishing.done()
        log.answer(END, b"")
        await finishing
        assert not reasons

    async def test_client_is_told_if_it_may_lack_what_others_have_said(
        self, room: ClusterRoom, log: Log, new_connection: Connect
    ) -> None:
        _, reasons = await join(room, log, await new_connection())
        await room.finish()
        assert reasons == [LeaveReason.OUT_OF_SYNC]

    async def test_client_that_is_leaving_is_told_that_too_and_nothing_more(
        self, room: ClusterRoom, log: Log, new_connection: Connect
    ) -> None:
        member, reasons = await join(room, log, await new_connection())
        leaving = asyncio.create_task(room.leave(member, ""))
        await asyncio.sleep(0)
        await room.finish()
        assert reasons == [LeaveReason.OUT_OF_SYNC]
        assert member.subscription.state is SubscriptionState.GONE
        leaving.cancel()

    async def test_room_without_clients_waits_for_nothing(self, room: ClusterRoom) -> None:
        await room.finish()
        assert room.next_write() is None
