"""The scripts that Redis executes: what two of its lives must not tell differently."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cluster_helpers import LOG_KEY, RedisServer

from broadcast.cluster.entries import position_of
from broadcast.cluster.resp import RedisConnection
from broadcast.cluster.scripts import Scripts
from broadcast.errors import LostError, RedisError
from broadcast.net.dial import connect
from broadcast.server.clock import ServingClock

SERVER = "0a0b0c0d"


@contextlib.asynccontextmanager
async def connected(
    redis: RedisServer,
) -> AsyncIterator[tuple[RedisConnection, asyncio.Task[None]]]:
    """A connection, and the task that receives its replies."""
    with ServingClock() as clock:
        connection = RedisConnection(await connect("127.0.0.1", redis.port, 5), clock)
        running = asyncio.create_task(connection.run())
        try:
            yield connection, running
        finally:
            running.cancel()
            await connection.aclose()


@pytest.fixture
async def connection(redis: RedisServer) -> AsyncIterator[RedisConnection]:
    async with connected(redis) as (connection, _):
        yield connection


@pytest.fixture
async def scripts(connection: RedisConnection) -> Scripts:
    """The scripts, which are loaded."""
    scripts = Scripts("main")
    await scripts.load(connection)
    return scripts


class TestHeartbeat:
    async def test_late_one_over_a_connection_that_was_given_up_changes_nothing(
        self, redis: RedisServer, connection: RedisConnection, scripts: Scripts
    ) -> None:
        """The entry that was the last then may be gone by now, without anything being lost."""

        async def ask(script: str, *words: str | bytes | int) -> Any:
            return await connection.ask(scripts.call(script, SERVER, *words))

        _, first = await ask("hello", "epoch")
        await ask("write", 1, 400, 0, "say 1", "a: b\r\n", "")
        last, *_ = await ask("heartbeat", "epoch", first, "1 100 100")
        position = position_of(last)
        await ask("heartbeat", "epoch", last, f"2 {position} {position}")
        redis.call("XTRIM", LOG_KEY, "MINID", last)
        contents = redis.contents()
        async with connected(redis) as (given_up, running):
            late = scripts.call("heartbeat", SERVER, "epoch", first, "1 100 100")
            given_up.send(late, lambda _: None)
            with pytest.raises(RedisError, match="newer heartbeat") as raised:
                await running
        assert not isinstance(raised.value, LostError)
        assert redis.contents() == contents
        await ask("heartbeat", "epoch", last, f"3 {position} {position}")


class TestReap:
    async def test_names_that_are_freed_once_more_after_a_loss_have_another_entry(
        self, redis: RedisServer, connection: RedisConnection, scripts: Scripts
    ) -> None:
        """Redis picks them at random: who has read the lost entry must notice."""
        entries: list[Any] = []
        await connection.ask(scripts.call("hello", SERVER, "epoch"))
        names = [f"name{number}" for number in range(200)]
        joins = [word for name in names for word in ("join", name, name)]
        await connection.ask(scripts.call("write", SERVER, 1, 1000, 0, *joins))
        backup = redis.backup()
        for _ in range(2):
            redis.restore(backup)
            assert await connection.ask(scripts.call("reap", SERVER, 100, "gone")) == 1
            entries.append(redis.call("XREVRANGE", LOG_KEY, "+", "-", "COUNT", 1))
        ids, contents = zip(*(entry[0] for entry in entries), strict=True)
        assert contents[0] != contents[1]
        assert ids[0] != ids[1]
