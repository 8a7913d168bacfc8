"""The protocol of Redis: commands encoded, replies parsed, and one connection that speaks it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from helpers import until

from broadcast.cluster.resp import LostError, RedisConnection, RedisError, Reply, encode, parse
from broadcast.net.dial import connect
from broadcast.server.clock import ServingClock

NESTED = b"*3\r\n$4\r\nPONG\r\n*2\r\n:-7\r\n$-1\r\n*0\r\n"
"""A reply with the parts that replies have: [b"PONG", [-7, None], []]."""


class TestEncode:
    def test_words_are_preceded_by_their_length_in_bytes(self) -> None:
        assert encode("GET", "é", b"\r\n\x00", 17) == (
            b"*4\r\n$3\r\nGET\r\n$2\r\n\xc3\xa9\r\n$3\r\n\r\n\x00\r\n$2\r\n17\r\n"
        )

    def test_words_before_are_counted(self) -> None:
        before = b"$3\r\nSET\r\n$1\r\na\r\n"
        assert encode("b", before=before, count=2) == encode("SET", "a", "b")


class TestParse:
    @pytest.mark.parametrize(
        ("data", "reply"),
        [
            (b"+OK\r\n", b"OK"),
            (b":12\r\n", 12),
            (b":-1\r\n", -1),
            (b"$5\r\na\r\nbc\r\n", b"a\r\nbc"),
            (b"$0\r\n\r\n", b""),
            (b"$-1\r\n", None),
            (b"*-1\r\n", None),
            (b"*0\r\n", []),
            (NESTED, [b"PONG", [-7, None], []]),
        ],
    )
    def test_reply_and_where_it_ends(self, data: bytes, reply: Reply) -> None:
        assert parse(data, 0) == (reply, len(data))
        assert parse(b"+before\r\n" + data + b"+after\r\n", 9) == (reply, 9 + len(data))

    @pytest.mark.parametrize("data", [b"+OK\r\n", b"-ERR no\r\n", b"$5\r\na\r\nbc\r\n", NESTED])
    def test_every_part_of_a_reply_is_cut(self, data: bytes) -> None:
        for end in range(len(data)):
            with pytest.raises(EOFError):
                parse(data[:end], 0)

    def test_error_has_its_text(self) -> None:
        with pytest.raises(RedisError, match=r"^NOAUTH log in first$") as raised:
            parse(b"-NOAUTH log in first\r\n", 0)
        assert not isinstance(raised.value, LostError)

    def test_error_of_a_script_that_misses_something_is_a_lost_error(self) -> None:
        with pytest.raises(LostError, match="gone"):
            parse(b"-LOST it is gone\r\n", 0)

    @pytest.mark.parametrize(
        "data", [b"HTTP/1.1 400\r\n", b"\r\n", b"$\r\n", b":x\r\n", b"*1x\r\n"]
    )
    def test_other_protocols_are_an_error(self, data: bytes) -> None:
        with pytest.raises(RedisError, match="protocol of Redis"):
            parse(data, 0)


class FakeRedis(asyncio.Protocol):
    """The other end of a connection: what it was asked, and what it answers."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.asked = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.asked += data

    def answer(self, data: bytes) -> None:
        self.transport.write(data)


@pytest.fixture
async def fake() -> AsyncIterator[tuple[FakeRedis, RedisConnection]]:
    """A Redis that answers what a test tells it, and a connection to it."""
    fake = FakeRedis()
    loop = asyncio.get_running_loop()
    async with await loop.create_server(lambda: fake, "127.0.0.1", 0) as server:
        with ServingClock() as clock:
            port = server.sockets[0].getsockname()[1]
            redis = RedisConnection(await connect("127.0.0.1", port, 5), clock)
            await until(lambda: hasattr(fake, "transport"))
            yield fake, redis
            await redis.close()
            fake.transport.abort()
            await asyncio.sleep(0)  # until the socket is closed


Fake = tuple[FakeRedis, RedisConnection]


class TestConnection:
    async def test_reply_that_arrives_in_pieces_is_returned_whole(self, fake: Fake) -> None:
        server, redis = fake
        asking = asyncio.create_task(redis.ask(encode("PING")))
        await until(lambda: server.asked == encode("PING"))
        for place in range(len(NESTED)):
            server.answer(NESTED[place : place + 1])
            await asyncio.sleep(0.001)
        assert await asking == [b"PONG", [-7, None], []]

    async def test_commands_are_asked_one_after_the_other(self, fake: Fake) -> None:
        server, redis = fake
        asking = [asyncio.create_task(redis.ask(encode("GET", name))) for name in "ab"]
        await until(lambda: bool(server.asked))
        await asyncio.sleep(0.02)
        assert server.asked == encode("GET", "a")
        server.answer(b"$1\r\n1\r\n")
        await until(lambda: server.asked == encode("GET", "a") + encode("GET", "b"))
        server.answer(b"$1\r\n2\r\n")
        assert await asyncio.gather(*asking) == [b"1", b"2"]

    async def test_silence_is_counted_while_a_command_is_not_answered(self, fake: Fake) -> None:
        server, redis = fake
        await asyncio.sleep(0.05)
        assert redis.silent_for == 0
        asking = asyncio.create_task(redis.ask(encode("PING")))
        await until(lambda: redis.silent_for > 0.05)
        server.answer(b"+PONG\r\n")
        assert await asking == b"PONG"
        assert redis.silent_for == 0

    async def test_reply_that_arrives_slowly_is_no_silence(self, fake: Fake) -> None:
        server, redis = fake
        asking = asyncio.create_task(redis.ask(encode("PING")))
        await until(lambda: bool(server.asked))
        longest, reply = 0.0, b"$40\r\n" + bytes(40) + b"\r\n"
        for place in range(0, len(reply), 4):
            await asyncio.sleep(0.05)
            longest = max(longest, redis.silent_for)
            server.answer(reply[place : place + 4])
        assert await asking == bytes(40)
        assert 0 < longest < 0.3

    async def test_time_for_which_redis_may_wait_is_no_silence(self, fake: Fake) -> None:
        server, redis = fake
        asking = asyncio.create_task(redis.ask(encode("XREAD"), wait=0.2))
        await until(lambda: bool(server.asked))
        asked = time.monotonic()
        await until(lambda: redis.silent_for > 0)
        assert time.monotonic() - asked > 0.15
        server.answer(b"*-1\r\n")
        assert await asking is None

    async def test_end_of_the_connection_is_an_error(self, fake: Fake) -> None:
        server, redis = fake
        asking = asyncio.create_task(redis.ask(encode("PING")))
        await until(lambda: bool(server.asked))
        server.answer(b"$4\r\nPO")
        server.transport.close()
        with pytest.raises(ConnectionError, match="closed the connection"):
            await asking

    async def test_error_reply_is_raised(self, fake: Fake) -> None:
        server, redis = fake
        asking = asyncio.create_task(redis.ask(encode("PING")))
        await until(lambda: bool(server.asked))
        server.answer(b"-OOM no memory\r\n")
        with pytest.raises(RedisError, match="^OOM no memory$"):
            await asking
