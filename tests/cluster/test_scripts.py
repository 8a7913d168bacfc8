"""The scripts that Redis executes: what two of its lives must not tell differently."""

from __future__ import annotations

import asyncio
from typing import Any

from cluster_helpers import LOG_KEY, RedisServer

from broadcast.cluster.resp import RedisConnection
from broadcast.cluster.scripts import Scripts
from broadcast.net.dial import connect
from broadcast.server.clock import ServingClock


class TestReap:
    async def test_names_that_are_freed_once_more_after_a_loss_have_another_entry(
        self, redis: RedisServer
    ) -> None:
        """Redis picks them at random: who has read the lost entry must notice."""
        scripts, server = Scripts("main"), "0a0b0c0d"
        entries: list[Any] = []
        with ServingClock() as clock:
            asking = RedisConnection(await connect("127.0.0.1", redis.port, 5), clock)
            running = asyncio.create_task(asking.run())
            await scripts.load(asking)
            await asking.ask(scripts.call("hello", server, "epoch"))
            names = [f"name{number}" for number in range(200)]
            joins = [word for name in names for word in ("join", name, name)]
            await asking.ask(scripts.call("write", server, 1, 1000, 0, *joins))
            backup = redis.backup()
            for _ in range(2):
                redis.restore(backup)
                assert await asking.ask(scripts.call("reap", server, 100, "gone")) == 1
                entries.append(redis.call("XREVRANGE", LOG_KEY, "+", "-", "COUNT", 1))
            running.cancel()
            await asking.aclose()
        ids, contents = zip(*(entry[0] for entry in entries), strict=True)
        assert contents[0] != contents[1]
        assert ids[0] != ids[1]
