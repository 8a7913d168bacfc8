"""What a room on three servers experiences when its Redis, or the way to it, fails."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import time

import pytest
from cluster_helpers import (
    FAST,
    LOG_KEY,
    OUTAGE_PATIENCE,
    SPEED,
    TOP_KEY,
    ClusterServer,
    MakeProxy,
    MakeRedis,
    Recorder,
    RedisServer,
    StartCluster,
    Traffic,
    add_names,
    check_streams,
    check_told,
    end_all,
    start_talking,
    synchronise,
    wait_names,
)
from helpers import FAST_RECONNECT, TOP, StartProgram, until

from broadcast.protocol.handshake import UNAVAILABLE
from broadcast.protocol.messages import OUT_OF_SYNC


async def check_room_works(servers: list[ClusterServer]) -> None:
    """Check that newcomers at all servers can talk to each other, and nobody else is there."""
    clients = [
        await join_patiently(server.port, f"new{number}") for number, server in enumerate(servers)
    ]
    await wait_names(clients[0], [client.name for client in clients])
    for client in clients:
        await synchronise(client, clients)
    check_streams(clients)


async def join_at_two(
    cluster: StartCluster, *where: tuple[str, str]
) -> list[tuple[ClusterServer, Recorder]]:
    """Start a server at each URL, join each with a name; the first client sees the last join."""
    joined = []
    for url, name in where:
        [server] = await cluster(url, 1, program=FAST)
        joined.append((server, await Recorder.join(server.port, name)))
    await joined[0][1].wait(f"* {where[-1][1]} joined\r\n")
    return joined


async def join_patiently(port: int, name: str) -> Recorder:
    """Join, and try again as long as the refusals are passing ones."""
    async with asyncio.timeout(OUTAGE_PATIENCE):
        while True:
            client = await Recorder.connect(port, name)
            await client.wait_lines(1)
            if client.lines[0] == "SUCCESS":
                return client
            await client.wait_end()


class TestRedisIsKilled:
    async def test_nobody_notices_if_it_kept_everything(
        self, make_redis: MakeRedis, cluster: StartCluster
    ) -> None:
        redis = make_redis("--appendonly", "yes")
        servers, traffic = await start_talking(cluster, redis)
        redis.kill()
        for server in servers:
            await server.wait_logged("away from ")
        redis.start()
        for server in servers:
            await server.wait_logged("attached again after ")
        await traffic.flow()
        await traffic.check_nobody_noticed()
        await end_all(servers, redis)

    async def test_everyone_is_told_and_disconnected_if_it_forgot_everything(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        servers, traffic = await start_talking(cluster, redis)
        redis.kill()
        redis.start()
        await check_cut_off(redis, servers, traffic)

    async def test_everyone_is_told_and_disconnected_if_it_has_an_old_backup(
        self, make_redis: MakeRedis, cluster: StartCluster
    ) -> None:
        redis = make_redis("--appendonly", "yes")
        servers, traffic = await start_talking(cluster, redis)
        [saved] = redis.directory.glob("appendonly*")  # a file, since Redis 7 a directory
        backup = redis.directory / "backup"
        copy = shutil.copytree if saved.is_dir() else shutil.copy
        copy(saved, backup)
        await traffic.flow()
        redis.kill()
        saved.rename(redis.directory / "lost")
        backup.rename(saved)
        redis.start()
        await check_cut_off(redis, servers, traffic)

    async def test_everyone_is_told_if_something_else_takes_the_place_of_what_is_lost(
        self, redis: RedisServer, cluster: StartCluster, make_proxy: MakeProxy
    ) -> None:
        """What is lost and what follows are equally long, so the log has the same size again."""
        proxy = make_proxy(redis)
        servers = await cluster(redis.url, 2, program=FAST)
        servers += await cluster(proxy.url, 1, program=FAST)
        clients = [await Recorder.join(server.port, f"{n}") for n, server in enumerate(servers)]
        await synchronise(clients[2], clients)
        backup = redis.backup()
        proxy.order("stop")
        clients[1].send("this one\n")
        await clients[0].wait("1: this one\r\n")
        lost = redis.text("GET", TOP_KEY)
        for server in servers[:2]:
            server.signal(signal.SIGSTOP)
        proxy.order("cut")  # with what it holds back
        redis.call("CLIENT", "KILL", "TYPE", "normal")
        redis.restore(backup)
        proxy.order("pass")
        clients[2].send("that one\n")
        before = redis.text("GET", TOP_KEY)
        await until(lambda: redis.text("GET", TOP_KEY) != before)
        assert redis.text("GET", TOP_KEY).partition("-")[0] == lost.partition("-")[0]
        for server in servers[:2]:
            server.signal(signal.SIGCONT)
        for client in clients:
            await client.wait_end(OUTAGE_PATIENCE)
        check_told(clients)
        await check_room_works(servers)

    async def test_all_servers_begin_anew_if_one_has_delivered_what_is_lost(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        """What is written after that could get the place in the order that is lost."""
        servers = await cluster(redis.url, 2, program=FAST)
        clients = [await Recorder.join(server.port, "same") for server in servers]
        await synchronise(clients[0], clients)
        servers[1].signal(signal.SIGSTOP)
        before, backup = redis.text("GET", TOP_KEY), redis.backup(TOP_KEY, LOG_KEY)
        clients[0].send("lost\n")
        await until(lambda: redis.text("GET", TOP_KEY) != before)
        redis.restore(backup)
        servers[1].signal(signal.SIGCONT)
        for server, client in zip(servers, clients, strict=True):
            await client.wait_end(OUTAGE_PATIENCE)
            await server.wait_logged("WARNING cut off: ")
        check_told(clients)
        await check_room_works(servers)
        await end_all(servers, redis)


async def check_cut_off(redis: RedisServer, servers: list[ClusterServer], traffic: Traffic) -> None:
    """Check that those that were there are told and disconnected, and that the room works."""
    for client in traffic.clients:
        await client.wait_end(OUTAGE_PATIENCE)
    await traffic.stop()
    check_told(traffic.clients)
    for server in servers:
        await server.wait_logged("WARNING cut off: ")
    await check_room_works(servers)
    await end_all(servers, redis)


class TestRedisIsStopped:
    @pytest.mark.parametrize("seconds", [3, 12])
    async def test_nobody_is_disconnected(
        self, redis: RedisServer, cluster: StartCluster, seconds: float
    ) -> None:
        servers, traffic = await start_talking(cluster, redis)
        redis.signal(signal.SIGSTOP)
        await asyncio.sleep(seconds * SPEED)
        redis.signal(signal.SIGCONT)
        await traffic.flow()
        await traffic.check_nobody_noticed()
        await end_all(servers, redis)

    async def test_clients_are_told_and_newcomers_are_refused_after_a_while(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        [server] = await cluster(redis.url, 1, program=FAST)
        client = await Recorder.join(server.port, "client")
        redis.signal(signal.SIGSTOP)
        client.send("said before it was known\n")
        await server.wait_logged("away from ")
        newcomer = await Recorder.connect(server.port, "newcomer")
        client.send("\\ping still\n")
        await client.wait("PONG still\r\n")
        await newcomer.wait_end(OUTAGE_PATIENCE)
        assert newcomer.lines == [f"ERROR {UNAVAILABLE}"]
        await client.wait("* ")
        client.send("\\clients\n")
        await client.wait("* client (you)\r\n")
        client.send("said while it was away\n")
        told = len(client.notices)
        redis.signal(signal.SIGCONT)
        await client.wait_until(lambda: len(client.notices) > told, "a notice", OUTAGE_PATIENCE)
        listener = await join_patiently(server.port, "listener")
        await synchronise(client, [listener])
        await wait_names(client, ["client", "listener"])
        assert not client.ended

    async def test_newcomer_whose_join_is_in_flight_is_refused_after_a_while(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        [server] = await cluster(redis.url, 1, program=FAST)
        redis.signal(signal.SIGSTOP)
        newcomer = await Recorder.connect(server.port, "newcomer")
        await newcomer.wait_end()
        assert newcomer.lines == [f"ERROR {UNAVAILABLE}"]
        redis.signal(signal.SIGCONT)
        client = await join_patiently(server.port, "newcomer")
        await wait_names(client, [client.name])

    async def test_client_that_leaves_meanwhile_is_told_that_messages_may_be_missing(
        self, redis: RedisServer, cluster: StartCluster, make_proxy: MakeProxy
    ) -> None:
        proxy = make_proxy(redis)
        [(_, leaver), (other, author)] = await join_at_two(
            cluster, (proxy.url, "leaver"), (redis.url, "author")
        )
        proxy.order("stop")
        await synchronise(author, [await Recorder.join(other.port, "listener")])
        leaver.send("the last words\n\\exit\n")
        await leaver.wait_end()
        proxy.order("pass")
        await author.wait("leaver: the last words\r\n* leaver left\r\n", OUTAGE_PATIENCE)
        assert leaver.lines[-1].startswith("ERROR ")

    async def test_server_ends_in_bounded_time_while_it_is_away(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        [server] = await cluster(redis.url, 1, program=FAST)
        client = await Recorder.join(server.port, "client")
        leaving = await Recorder.join(server.port, "leaving")
        redis.signal(signal.SIGSTOP)
        await server.wait_logged("away from ")
        leaving.send("\\exit\n")
        await leaving.wait_end()
        server.signal(signal.SIGTERM)
        began = time.monotonic()
        await client.wait_end()
        assert client.lines[-1] == f"ERROR {OUT_OF_SYNC}", "it does not know what others have said"
        assert await server.wait_ended() == 0
        assert time.monotonic() - began < 6
        assert "Traceback" not in server.logged()


class TestRedisForgets:
    async def test_everyone_is_told_and_disconnected_after_flushall(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        servers, traffic = await start_talking(cluster, redis)
        redis.call("FLUSHALL")
        await check_cut_off(redis, servers, traffic)

    @pytest.mark.parametrize("key", ["epoch", "servers"])
    async def test_everyone_is_told_and_disconnected_if_a_key_is_lost(
        self, key: str, redis: RedisServer, cluster: StartCluster
    ) -> None:
        """As it may be in a Redis that evicts."""
        servers, traffic = await start_talking(cluster, redis)
        redis.call("DEL", LOG_KEY.replace("log", key))
        await check_cut_off(redis, servers, traffic)
        assert not any("Traceback" in server.logged() for server in servers)

    async def test_client_program_that_reconnects_is_back_after_flushall(
        self, redis: RedisServer, cluster: StartCluster, program: StartProgram
    ) -> None:
        [server] = await cluster(redis.url, 1, program=FAST)
        watcher = await Recorder.join(server.port, "watcher")
        where = ("--port", str(server.port), "--user", "listener")
        client = program(FAST_RECONNECT, *where, "--listen", "--reconnect", cwd=TOP)
        await watcher.wait("* listener joined\r\n")
        redis.call("FLUSHALL")
        await watcher.wait_end(OUTAGE_PATIENCE)
        again = await join_patiently(server.port, "watcher")
        await wait_names(again, ["listener", "watcher"])
        assert client.process.poll() is None

    async def test_nobody_notices_if_the_id_of_the_last_entry_is_lost(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        """It is in the log, too: neither a heartbeat nor a write needs it."""
        servers = await cluster(redis.url, 2, program=FAST)
        traffic = await Traffic.start(servers)
        await traffic.flow()
        redis.call("DEL", TOP_KEY)
        await traffic.flow()
        await traffic.stop()
        redis.call("DEL", TOP_KEY)
        await asyncio.sleep(5 * SPEED)  # two heartbeats
        assert not any("away from" in server.logged() for server in servers)
        await traffic.check_nobody_noticed()
        await end_all(servers, redis)

    async def test_nobody_notices_a_script_flush(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        servers = await cluster(redis.url, 3, program=FAST)
        traffic = await Traffic.start(servers)
        for _ in range(3):
            await traffic.flow()
            redis.call("SCRIPT", "FLUSH")
        await traffic.flow()
        await traffic.check_nobody_noticed()
        await end_all(servers, redis)

    async def test_nobody_is_disconnected_when_it_is_out_of_memory_for_a_while(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        redis.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
        servers, traffic = await start_talking(cluster, redis)
        connections = redis.info("total_connections_received")
        redis.call("CONFIG", "SET", "maxmemory", "1000")
        for server in servers:
            await server.wait_logged("away from .*(memory|OOM)")
        await asyncio.sleep(3 * SPEED)
        redis.call("CONFIG", "SET", "maxmemory", "0")
        for server in servers:
            await server.wait_logged("attached again after ")
        assert redis.info("total_connections_received") - connections < 200
        await traffic.flow()
        await traffic.check_nobody_noticed()
        await end_all(servers, redis)

    async def test_room_gets_out_of_a_full_memory_by_itself(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        """The log is kept for a server that was stopped, which reads it before it writes."""
        stopped, other = servers = await cluster(redis.url, 2, program=FAST)
        listeners = [await Recorder.join(server.port, "listener") for server in servers]
        author = await Recorder.join(other.port, "author")
        await synchronise(author, listeners)
        stopped.signal(signal.SIGSTOP)
        await author.send_all((b"x" * 9_999 + b"\n") * 400)
        await synchronise(author, [listeners[1]])
        redis.call("CONFIG", "SET", "maxmemory", redis.info("used_memory") - 1_500_000)
        author.send("last words\n")
        await other.wait_logged("away from .*(memory|OOM)")
        listeners[0].send("meanwhile\n")
        stopped.signal(signal.SIGCONT)
        await author.wait("listener: meanwhile\r\n", OUTAGE_PATIENCE)
        for listener in listeners:
            await listener.wait("author: last words\r\n", OUTAGE_PATIENCE)
            messages = [line for line in listener.messages if line.startswith("author: ")]
            assert len(messages) == 403
        await synchronise(author, listeners)
        for server in servers:
            assert "cut off" not in server.logged()
            assert "is taken for dead" not in server.logged()
        await end_all(servers, redis)

    async def test_room_gets_out_of_a_full_memory_when_a_dead_server_is_noticed(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        """Until then, nothing can be written, and no server stays attached."""
        dead, other = await cluster(redis.url, 2, program=FAST)
        listener = await Recorder.join(other.port, "listener")
        author = await Recorder.join(other.port, "author")
        await synchronise(author, [listener])
        dead.signal(signal.SIGKILL)
        await author.send_all((b"x" * 9_999 + b"\n") * 400)
        await synchronise(author, [listener])
        redis.call("CONFIG", "SET", "maxmemory", redis.info("used_memory") - 1_500_000)
        author.send("last words\n")
        await other.wait_logged("away from .*(memory|OOM)")
        await listener.wait("author: last words\r\n", OUTAGE_PATIENCE)
        assert other.logged().count("is taken for dead") == 1
        assert "cut off" not in other.logged()
        await end_all([other], redis)

    async def test_clients_are_told_when_it_is_out_of_memory(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        servers = await cluster(redis.url, 2, program=FAST)
        clients = [await Recorder.join(server.port, "client") for server in servers]
        redis.call("CONFIG", "SET", "maxmemory", "1000")
        clients[0].send("waits\n")
        await clients[0].wait("* lost touch with the other servers")
        await asyncio.sleep(10 * SPEED)
        assert len(re.findall("away from|attached again", servers[0].logged())) < 4
        redis.call("CONFIG", "SET", "maxmemory", "0")
        await clients[0].wait("* back in touch with the other servers", OUTAGE_PATIENCE)
        await clients[1].wait("client: waits\r\n")

    async def test_log_says_once_why_a_server_does_not_come_back(
        self, make_redis: MakeRedis, cluster: StartCluster
    ) -> None:
        redis = make_redis("--requirepass", "old")
        url = redis.url.replace("//", "//:old@")
        [server] = await cluster(url, 1, program=FAST)
        client = await Recorder.join(server.port, "client")
        redis.call("CONFIG", "SET", "requirepass", "new", password="old")
        redis.call("CLIENT", "KILL", "TYPE", "normal", password="new")
        await server.wait_logged("WARNING away from .*WRONGPASS")
        await asyncio.sleep(10 * SPEED)
        assert server.logged().count("WRONGPASS") == 1
        redis.call("CONFIG", "SET", "requirepass", "old", password="new")
        await server.wait_logged("attached again after ")
        await client.wait("* back in touch ")


class TestConnectionsFail:
    async def test_replies_that_take_longer_than_the_limit_of_silence_are_no_outage(
        self, redis: RedisServer, cluster: StartCluster, make_proxy: MakeProxy
    ) -> None:
        proxy = make_proxy(redis)
        [(far, listener), (_, author)] = await join_at_two(
            cluster, (proxy.url, "listener"), (redis.url, "author")
        )
        proxy.order("slow 1000000")
        await author.send_all((b"x" * 9_999 + b"\n") * 400)
        await synchronise(author, [listener])
        assert len(listener.messages) == 401
        assert "away from" not in far.logged()

    async def test_server_starts_over_a_slow_connection_however_large_the_room_is(
        self, redis: RedisServer, cluster: StartCluster, make_proxy: MakeProxy
    ) -> None:
        proxy = make_proxy(redis)
        add_names(redis, 20_000)
        proxy.order("slow 200000")
        began = time.monotonic()
        [server] = await cluster(proxy.url, 1, program=FAST)
        assert time.monotonic() - began > 10 * SPEED
        proxy.order("pass")
        client = await Recorder.join(server.port, "client")
        client.send("\\clients 1\n")
        await client.wait("* 20001 clients\r\n")

    async def test_nothing_is_lost_or_doubled_when_replies_are_lost(
        self, redis: RedisServer, cluster: StartCluster, make_proxy: MakeProxy
    ) -> None:
        proxies = [make_proxy(redis) for _ in range(3)]
        servers = [(await cluster(proxy.url, 1, program=FAST))[0] for proxy in proxies]
        traffic = await Traffic.start(servers)
        for round in range(4):
            for proxy in proxies:
                proxy.order(f"bite {3 + round}")
            for server in servers:
                await wait_away(server, round + 1)
            for proxy in proxies:
                proxy.order("pass")
            await traffic.flow()
        await traffic.check_nobody_noticed()
        await end_all(servers, redis)
        assert sum(len(guests.clients) for guests in traffic.guests) > 10

    async def test_nothing_is_lost_or_doubled_when_connections_are_cut(
        self, redis: RedisServer, cluster: StartCluster, make_proxy: MakeProxy
    ) -> None:
        proxies = [make_proxy(redis) for _ in range(3)]
        servers = [(await cluster(proxy.url, 1, program=FAST))[0] for proxy in proxies]
        traffic = await Traffic.start(servers)
        for _ in range(5):
            for proxy in proxies:
                await traffic.flow(20)
                proxy.order("cut")
        await traffic.check_nobody_noticed()
        await end_all(servers, redis)

    async def test_server_that_ends_tells_its_clients_if_they_may_lack_something(
        self, redis: RedisServer, cluster: StartCluster, make_proxy: MakeProxy
    ) -> None:
        """It has not noticed yet that Redis does not answer it."""
        proxy = make_proxy(redis)
        [(server, listener), (other, author)] = await join_at_two(
            cluster, (proxy.url, "listener"), (redis.url, "author")
        )
        proxy.order("mute")
        await synchronise(author, [await Recorder.join(other.port, "neighbour")])
        server.signal(signal.SIGTERM)
        await listener.wait_end()
        assert listener.lines[-1] == f"ERROR {OUT_OF_SYNC}"
        assert "away from" not in server.logged().partition("stopping")[0]
        assert await server.wait_ended() == 0

    @pytest.mark.parametrize("how", ["mute", "stop"])
    async def test_server_behind_a_mute_connection_is_away_and_comes_back(
        self, redis: RedisServer, cluster: StartCluster, make_proxy: MakeProxy, how: str
    ) -> None:
        proxy = make_proxy(redis)
        servers = await cluster(proxy.url, 1, program=FAST)
        servers += await cluster(redis.url, 2, program=FAST)
        traffic = await Traffic.start(servers)
        await traffic.flow()
        proxy.order(how)
        await servers[0].wait_logged("away from ")
        proxy.order("pass")
        await servers[0].wait_logged("attached again after ")
        await traffic.flow()
        await traffic.check_nobody_noticed()
        await end_all(servers, redis)

    async def test_server_that_was_away_for_too_long_tells_its_clients(
        self, redis: RedisServer, cluster: StartCluster, make_proxy: MakeProxy
    ) -> None:
        """It has been declared dead by then: its names are free, and the others do not wait."""
        proxy = make_proxy(redis)
        [(apart, client), (other, listener)] = await join_at_two(
            cluster, (proxy.url, "client"), (redis.url, "listener")
        )
        proxy.order("stop")
        await listener.wait("* client left (", OUTAGE_PATIENCE)
        assert (await Recorder.join(other.port, "client")).name == "client"
        client.send("never arrives\n")
        proxy.order("pass")
        await client.wait_end(OUTAGE_PATIENCE)
        check_told([client])
        await synchronise(await join_patiently(apart.port, "again"), [listener])
        assert "never arrives" not in str(listener.messages)


async def wait_away(server: ClusterServer, times: int) -> None:
    """Wait until a server has been away that often."""
    async with asyncio.timeout(OUTAGE_PATIENCE):
        while server.logged().count("away from ") < times:
            await asyncio.sleep(0.02)
