"""Fixtures: servers and clients in this process, and programs as real processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from cluster_helpers import (
    REDIS_MEMORY_LIMIT,
    ClusterServer,
    FakeRedis,
    FakeRedisEnd,
    MakeProxy,
    MakeRedis,
    Proxy,
    Recorder,
    RedisServer,
    StartCluster,
)
from helpers import (
    Connect,
    FakeServer,
    MakeServer,
    Peer,
    Program,
    RawClient,
    StartProgram,
    until,
    wait_until,
)
from sockets import connect_to

from broadcast import BroadcastServer
from broadcast.cluster.resp import RedisConnection
from broadcast.net import dial
from broadcast.server.clock import ServingClock


@pytest.fixture
async def make_server() -> AsyncIterator[MakeServer]:
    """Start servers in this process, which are closed after the test."""
    async with AsyncExitStack() as stack:

        async def make(**options: Any) -> BroadcastServer:
            return await stack.enter_async_context(BroadcastServer(port=0, **options))

        yield make


@pytest.fixture
async def server(make_server: MakeServer) -> BroadcastServer:
    """A server without notices."""
    return await make_server(notices=False)


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Connect peers, which also join if they have a name.

    `buffer` is the size of the receive buffer, and `limit` that of the stream's own buffer.
    """
    peers: list[Peer] = []

    async def make(
        server: BroadcastServer,
        name: str | None = None,
        *,
        buffer: int = 0,
        limit: int = 2**24,
    ) -> Peer:
        connected = await connect_to(server.port, buffer)
        peers.append(peer := Peer(*await asyncio.open_connection(sock=connected, limit=limit)))
        if name is not None:
            peer.send(f"CONNECT {name}\r\n")
            assert await peer.line() == "SUCCESS"
        return peer

    yield make
    for peer in peers:
        peer.writer.transport.abort()
    await asyncio.sleep(0)


@pytest.fixture
def program() -> Iterator[StartProgram]:
    """Start programs: `program("main_server.py", "--port", "0")`; all are killed after the test."""
    programs: list[Program] = []

    def start(name: str, *arguments: str, **options: Any) -> Program:
        programs.append(started := Program(name, *arguments, **options))
        return started

    yield start
    for started in programs:
        started.close()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a server process without notices, which the tests of a file share."""
    server = Program("main_server.py", "--port", "0", "--no-notices")
    yield server.port
    server.close()


@pytest.fixture
def watcher(port: int) -> Iterator[RawClient]:
    """A client that is alone on the shared server, to see what arrives there."""
    raw = RawClient(port, "watcher")
    wait_until(lambda: raw.names() == ["watcher"], "the clients of the test before have left")
    yield raw
    raw.send("\\exit")
    raw.file.read()
    raw.close()


@pytest.fixture
def fake_server() -> Iterator[FakeServer]:
    fake_server = FakeServer()
    yield fake_server
    fake_server.close()


@pytest.fixture
def full_pipe() -> Iterator[int]:
    """The write end of a full pipe that nobody reads."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    yield writing
    os.close(reading)
    os.close(writing)


# --- servers in a cluster ---


@pytest.fixture
def make_redis(tmp_path: Path) -> Iterator[MakeRedis]:
    """Start a Redis for this test: `make_redis("--appendonly", "yes")`; its memory is checked."""
    started: list[RedisServer] = []

    def make(*settings: str) -> RedisServer:
        started.append(redis := RedisServer(tmp_path, *settings))
        redis.start()
        return redis

    yield make
    for redis in started:
        redis.note_memory()
        redis.close()
    for redis in started:
        assert redis.peak_memory <= REDIS_MEMORY_LIMIT


@pytest.fixture
def redis(make_redis: MakeRedis) -> RedisServer:
    """A Redis that forgets everything when it ends."""
    return make_redis()


@pytest.fixture
def make_proxy() -> Iterator[MakeProxy]:
    """Start misbehaving proxies in front of a Redis."""
    proxies: list[Proxy] = []

    def make(redis: RedisServer) -> Proxy:
        proxies.append(proxy := Proxy(redis))
        return proxy

    yield make
    for proxy in proxies:
        proxy.close()


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[StartCluster]:
    """Start servers: `await cluster(redis.url, 3, "--history", "5")`; all are killed afterwards."""
    started: list[ClusterServer] = []

    async def start(
        url: str, count: int = 1, *arguments: str, program: str = "main_server.py"
    ) -> list[ClusterServer]:
        servers = []
        for _ in range(count):
            log = tmp_path / f"server{len(started)}.log"
            servers.append(server := ClusterServer(log, program, "--cluster", url, *arguments))
            started.append(server)
        for server in servers:
            await server.wait_ready()
        return servers

    yield start
    await Recorder.close_all()
    for server in started:
        server.close()


@pytest.fixture
async def fake_redis() -> AsyncIterator[FakeRedis]:
    """A Redis that answers what the test tells it, and a connection to it."""
    server = FakeRedisEnd()
    loop = asyncio.get_running_loop()
    async with await loop.create_server(lambda: server, "127.0.0.1", 0) as listener:
        with ServingClock() as clock:
            port = listener.sockets[0].getsockname()[1]
            redis = RedisConnection(await dial.connect("127.0.0.1", port, 5), clock)
            running = asyncio.create_task(redis.run())
            await until(lambda: hasattr(server, "transport"))
            yield FakeRedis(server, redis, running)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await redis.aclose()
            server.transport.abort()
            await asyncio.sleep(0)  # until the socket is closed
