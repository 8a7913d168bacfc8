"""The part of a room that one server has: who is in, of what comes back from the log."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from helpers import until

from broadcast import BroadcastServer
from broadcast.cluster.entries import JOIN, Entry
from broadcast.cluster.room import ClusterRoom
from broadcast.net.dial import connect
from broadcast.server.clock import ServingClock
from broadcast.server.settings import Settings


class TestPlaces:
    async def test_newcomer_never_counts_twice(self, server: BroadcastServer) -> None:
        """Another one may ask for the last place just when the first one is admitted."""
        async with AsyncExitStack() as stack:
            one, other = [await connect("127.0.0.1", server.port, 5) for _ in range(2)]
            stack.push_async_callback(one.aclose)
            stack.push_async_callback(other.aclose)
            room = ClusterRoom(stack.enter_context(ServingClock()), Settings(max_clients=2), None)
            room.set_attached(True)
            first = asyncio.create_task(room.join("a", one, lambda _: None))
            await until(lambda: bool(room.next_write()))
            second = asyncio.create_task(room.join("b", other, lambda _: None))
            room.take(Entry(b"100-1", b"0-0", "1", 1, 0, [(JOIN, b"a")]), is_own=True)
            await asyncio.sleep(0)
            assert not second.done(), second.exception()
            await until(lambda: bool(room.next_write()))
            room.take(Entry(b"200-1", b"100-1", "1", 2, 0, [(JOIN, b"b")]), is_own=True)
            members = await asyncio.gather(first, second)
            assert [member.name for member in members] == ["a", "b"]
