"""The protocol of Redis: commands encoded, replies parsed, and one connection that speaks it."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from cluster_helpers import FakeRedis
from helpers import until

from broadcast.cluster.resp import Prefix, RedisConnection, Reply, encode, parse
from broadcast.errors import LostError, RedisError
from broadcast.net.dial import connect
from broadcast.server.clock import ServingClock

NESTED = b"*3\r\n$4\r\nPONG\r\n*2\r\n:-7\r\n$-1\r\n*0\r\n"
"""A reply with the parts that replies have: [b"PONG", [-7, None], []]."""


class TestEncode:
    def test_words_are_preceded_by_their_length_in_bytes(self) -> None:
        assert encode("GET", "é", b"\r\n\x00", 17) == (
            b"*4\r\n$3\r\nGET\r\n$2\r\n\xc3\xa9\r\n$3\r\n\r\n\x00\r\n$2\r\n17\r\n"
        )

    def test_words_of_the_prefix_come_first_and_are_counted(self) -> None:
        assert encode("b", after=Prefix("SET", "a")) == encode("SET", "a", "b")


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


class TestConnection:
    async def test_reply_that_arrives_in_pieces_is_returned_whole(
        self, fake_redis: FakeRedis
    ) -> None:
        server, redis, _ = fake_redis
        asking = asyncio.create_task(redis.ask(encode("PING")))
        await until(lambda: server.asked == encode("PING"))
        for place in range(len(NESTED)):
            server.answer(NESTED[place : place + 1])
            await asyncio.sleep(0.001)
        assert await asking == [b"PONG", [-7, None], []]

    async def test_replies_belong_to_the_commands_in_their_order(
        self, fake_redis: FakeRedis
    ) -> None:
        server, redis, _ = fake_redis
        asking = [asyncio.create_task(redis.ask(encode("GET", name))) for name in "abc"]
        await until(lambda: server.asked == b"".join(encode("GET", name) for name in "abc"))
        server.answer(b"$1\r\n1\r\n$1\r\n2\r\n$1\r\n")
        assert await asyncio.gather(*asking[:2]) == [b"1", b"2"]
        server.answer(b"3\r\n")
        assert await asking[2] == b"3"

    async def test_reply_to_a_command_that_nobody_waits_for_any_more(
        self, fake_redis: FakeRedis
    ) -> None:
        server, redis, _ = fake_redis
        asking = [asyncio.create_task(redis.ask(encode("GET", name))) for name in "ab"]
        await until(lambda: server.asked == encode("GET", "a") + encode("GET", "b"))
        asking[0].cancel()
        await asyncio.sleep(0)
        server.answer(b"$1\r\n1\r\n$1\r\n2\r\n")
        assert await asking[1] == b"2"

    async def test_reply_is_handled_before_another_task_runs(self, fake_redis: FakeRedis) -> None:
        server, redis, _ = fake_redis
        handled: list[Reply] = []

        def handle(reply: Reply) -> None:
            asyncio.get_running_loop().call_soon(handled.append, "later")
            handled.append(reply)
            if len(handled) == 1:
                redis.send(encode("PING"), handle)

        redis.send(encode("PING"), handle)
        server.answer(b"+ONE\r\n+TWO\r\n")
        await until(lambda: len(handled) == 4)
        assert handled == [b"ONE", b"TWO", "later", "later"]

    async def test_what_a_handler_raises_ends_the_connection(self, fake_redis: FakeRedis) -> None:
        server, redis, running = fake_redis
        handled: list[Reply] = []

        def handle(reply: Reply) -> None:
            handled.append(reply)
            raise LostError("it is not there")

        for _ in range(2):
            redis.send(encode("PING"), handle)
        server.answer(b"+ONE\r\n+TWO\r\n")
        with pytest.raises(LostError, match="not there"):
            await asyncio.wait_for(running, 5)
        assert handled == [b"ONE"]

    async def test_silence_is_counted_while_a_command_is_not_answered(
        self, fake_redis: FakeRedis
    ) -> None:
        server, redis, _ = fake_redis
        await asyncio.sleep(0.05)
        assert redis.silent_for == 0
        asking = asyncio.create_task(redis.ask(encode("PING")))
        await until(lambda: redis.silent_for > 0.05)
        server.answer(b"+PONG\r\n")
        assert await asking == b"PONG"
        assert redis.silent_for == 0

    async def test_reply_that_arrives_slowly_is_no_silence(self, fake_redis: FakeRedis) -> None:
        server, redis, _ = fake_redis
        asking = asyncio.create_task(redis.ask(encode("PING")))
        await until(lambda: bool(server.asked))
        longest, reply = 0.0, b"$40\r\n" + bytes(40) + b"\r\n"
        for place in range(0, len(reply), 4):
            await asyncio.sleep(0.05)
            longest = max(longest, redis.silent_for)
            server.answer(reply[place : place + 4])
        assert await asking == bytes(40)
        assert 0 < longest < 0.3

    async def test_time_for_which_redis_may_wait_is_no_silence(self, fake_redis: FakeRedis) -> None:
        server, redis, _ = fake_redis
        replies: list[Reply] = []
        redis.send(encode("XREAD"), replies.append, wait=0.2)
        await until(lambda: bool(server.asked))
        asked = time.monotonic()
        await until(lambda: redis.silent_for > 0)
        assert time.monotonic() - asked > 0.15
        server.answer(b"*-1\r\n")
        await until(lambda: replies == [None])

    async def test_end_of_the_connection_is_an_error(self, fake_redis: FakeRedis) -> None:
        server, redis, running = fake_redis
        redis.send(encode("PING"), lambda _: None)
        await until(lambda: bool(server.asked))
        server.answer(b"$4\r\nPO")
        server.transport.close()
        with pytest.raises(ConnectionError, match="closed the connection"):
            await asyncio.wait_for(running, 5)

    async def test_error_reply_is_raised(self, fake_redis: FakeRedis) -> None:
        server, redis, running = fake_redis
        redis.send(encode("PING"), lambda _: None)
        await until(lambda: bool(server.asked))
        server.answer(b"-OOM no memory\r\n")
        with pytest.raises(RedisError, match="^OOM no memory$"):
            await asyncio.wait_for(running, 5)

    async def test_closing_resets_it_so_that_nothing_sent_before_arrives_late(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening, ServingClock() as clock:
            port = listening.getsockname()[1]
            redis = RedisConnection(await connect("127.0.0.1", port, 5), clock)
            with listening.accept()[0] as peer:
                peer.setblocking(False)
                await redis.aclose()
                with pytest.raises(ConnectionResetError):
                    peer.recv(1)
