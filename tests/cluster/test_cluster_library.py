"""A server in a cluster as an object in this process: what it leaves open."""

from __future__ import annotations

import asyncio
import logging
import signal
import time

import pytest
from cluster_helpers import MakeProxy, MakeRedis, Recorder, RedisServer, free_port
from helpers import CERTIFICATE, MakeServer, count_open_files, linux_only, until

from broadcast import BroadcastServer, ClusterError, ListenError
from broadcast.net.tls import server_context
from broadcast.protocol.messages import OUT_OF_SYNC
from broadcast.server.settings import ClusterTiming

SHORT = ClusterTiming(heartbeat=0.2, silence=0.3, dead_after=2, notice=0.1, newcomer=0.3, leave=0.3)


class TestQuiet:
    async def test_redis_that_stops_for_less_than_the_limit_is_not_noticed(
        self, redis: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """In a quiet room, Redis may let a server wait for entries as long as a heartbeat."""
        caplog.set_level(logging.INFO, "broadcast")
        timing = ClusterTiming(heartbeat=2, silence=3)
        async with BroadcastServer(port=0, cluster=redis.url, cluster_timing=timing) as server:
            client = await Recorder.join(server.port, "client")
            await asyncio.sleep(1.9)
            redis.signal(signal.SIGSTOP)
            await asyncio.sleep(1.7)
            redis.signal(signal.SIGCONT)
            await asyncio.sleep(0.3)
            client.send("\\clients\n")
            await client.wait("* client (you)\r\n")
            assert not any("away from" in line for line in caplog.messages)
            await client.leave()


@linux_only("counts open files in /proc")
class TestNothingIsLeftOpen:
    async def test_server_can_be_started_again_and_again(self, redis: RedisServer) -> None:
        server = BroadcastServer(port=0, cluster=redis.url, room="tea")
        files = count_open_files()
        for _ in range(5):
            async with server:
                client = await Recorder.join(server.port, "client")
                await client.leave()
        assert len(asyncio.all_tasks()) == 1
        await asyncio.sleep(0)
        assert count_open_files() == files
        assert "client" not in str(redis.contents())

    async def test_server_that_cannot_start_leaves_nothing_open(
        self, make_redis: MakeRedis
    ) -> None:
        redis = make_redis("--requirepass", "secret")
        files = count_open_files()
        for url in (redis.url, f"redis://127.0.0.1:{free_port()}"):
            with pytest.raises(ClusterError):
                await BroadcastServer(port=0, cluster=url).start()
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1
        assert count_open_files() == files

    async def test_server_whose_port_is_taken_leaves_nothing_in_redis(
        self, redis: RedisServer
    ) -> None:
        async with BroadcastServer(port=0) as other:
            with pytest.raises(ListenError):
                await BroadcastServer(port=other.port, cluster=redis.url).start()
        assert "beats" not in str(redis.contents())

    async def test_server_can_be_closed_while_redis_is_stopped(
        self, redis: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "broadcast")
        files = count_open_files()
        server = BroadcastServer(port=0, cluster=redis.url, cluster_timing=SHORT)
        async with server:
            client = await Recorder.join(server.port, "client")
            redis.signal(signal.SIGSTOP)
            client.send("waits\n")
            while not any("away from" in line for line in caplog.messages):
                await asyncio.sleep(0.01)
        await client.wait_end()
        assert client.lines[-1] == f"ERROR {OUT_OF_SYNC}", "it does not know what others have said"
        await Recorder.close_all()
        assert len(asyncio.all_tasks()) == 1
        assert count_open_files() == files

    async def test_cancelled_start_leaves_nothing_open(self, redis: RedisServer) -> None:
        files = count_open_files()
        redis.signal(signal.SIGSTOP)
        server = BroadcastServer(port=0, cluster=redis.url)
        starting = asyncio.create_task(server.start())
        await until(lambda: count_open_files() > files + 1)  # both connections are open
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1
        assert count_open_files() == files

    async def test_cancelled_close_leaves_nothing_open(self, redis: RedisServer) -> None:
        files = count_open_files()
        server = BroadcastServer(port=0, cluster=redis.url)
        await server.start()
        redis.signal(signal.SIGSTOP)
        closing = asyncio.create_task(server.close())
        await until(lambda: not server.statistics())
        await asyncio.sleep(0.05)  # it waits for what Redis will not answer
        assert not closing.done()
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1
        assert count_open_files() == files


class TestLeaving:
    """Whatever happens to Redis meanwhile, a server ends soon, and leaves nothing behind."""

    async def test_heartbeat_that_comes_too_late_is_no_reason_to_register_again(
        self, redis: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Redis answers it together with the farewell: this server is not registered any more."""
        caplog.set_level(logging.INFO, "broadcast")
        timing = ClusterTiming(heartbeat=0.1, silence=5)
        server = BroadcastServer(port=0, cluster=redis.url, cluster_timing=timing)
        await server.start()
        redis.signal(signal.SIGSTOP)
        closing = asyncio.create_task(server.close())
        await asyncio.sleep(0.3)  # the farewell is sent at once, and then a heartbeat
        redis.signal(signal.SIGCONT)
        await asyncio.wait_for(closing, 3)
        assert "beats" not in str(redis.contents())
        assert sum("attached to" in line for line in caplog.messages) == 1

    async def test_farewell_without_a_reply_is_not_waited_for_once_the_connection_is_lost(
        self, redis: RedisServer, make_proxy: MakeProxy
    ) -> None:
        proxy = make_proxy(redis)
        server = BroadcastServer(port=0, cluster=proxy.url)
        await server.start()
        proxy.order("bite 1")
        began = time.monotonic()
        await server.close()
        assert time.monotonic() - began < 2
        await asyncio.sleep(0.2)  # long enough to attach again
        assert "beats" not in str(redis.contents())


class TestTLS:
    """TLS servers of another kind will do: the handshake comes before anything else."""

    async def test_untrusted_certificate_is_refused_with_what_helps(
        self, make_server: MakeServer
    ) -> None:
        other = await make_server(tls=server_context(CERTIFICATE, None))
        with pytest.raises(ClusterError, match=r"not trusted.* add \?ca=FILE to the URL$"):
            await BroadcastServer(port=0, cluster=f"rediss://localhost:{other.port}").start()

    async def test_certificate_of_another_host_is_refused_with_what_helps(
        self, make_server: MakeServer
    ) -> None:
        other = await make_server(host="127.0.0.2", tls=server_context(CERTIFICATE, None))
        url = f"rediss://127.0.0.2:{other.port}?ca={CERTIFICATE}"
        with pytest.raises(ClusterError, match=r"not trusted.* use its host in the URL$"):
            await BroadcastServer(port=0, cluster=url).start()

    async def test_plain_server_is_refused_with_what_helps(self, make_server: MakeServer) -> None:
        other = await make_server()
        url = f"rediss://127.0.0.1:{other.port}?ca={CERTIFICATE}"
        with pytest.raises(ClusterError, match=r"does not use TLS; use redis://$"):
            await BroadcastServer(port=0, cluster=url).start()
