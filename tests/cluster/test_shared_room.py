"""Three servers on one Redis are one room, as long as nothing fails."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time
import zlib

import pytest
from cluster_helpers import (
    FAST,
    OUTAGE_PATIENCE,
    EndedError,
    MakeProxy,
    MakeRedis,
    Recorder,
    RedisServer,
    StartCluster,
    Talker,
    Traffic,
    add_names,
    end_all,
    free_port,
    synchronise,
    wait_names,
)
from helpers import CERTIFICATE, PATIENCE, TOP

FLOOD = b"x" * 99 + b"\n"
FLOOD_LINES = 640
"""Lines that a client which is flat out sends at a time: 64 KB."""


async def join_all(ports: list[int], label: str, each: int = 1) -> list[Recorder]:
    """Join some clients at each server, and wait until all have heard of all."""
    names = [f"{label}{number}" for number in range(each * len(ports))]
    clients = [
        await Recorder.join(ports[number % len(ports)], name) for number, name in enumerate(names)
    ]
    for place, client in enumerate(clients):
        await client.wait_lines(len(names) - place)
    return clients


class TestOneRoom:
    async def test_messages_have_one_order_and_authors_miss_only_their_own(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        servers = await cluster(redis.url, 3)
        traffic = await Traffic.start(servers)
        await traffic.flow(200)
        await traffic.check_nobody_noticed()

    async def test_joins_and_leaves_of_all_servers_are_announced_in_one_order(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        one, two, three = await cluster(redis.url, 3)
        listeners = [await Recorder.join(server.port, "listener") for server in (one, two)]
        await listeners[0].wait("* listener-2 joined\r\n")
        for number in range(20):
            guest = await Recorder.join(three.port, f"guest{number}")
            guest.send("hello\n")
            await guest.leave()
        for listener in listeners:
            await listener.wait("* guest19 left\r\n")
        expected = [
            line
            for number in range(20)
            for line in (
                f"* guest{number} joined",
                f"guest{number}: hello",
                f"* guest{number} left",
            )
        ]
        assert listeners[0].lines[2:] == expected
        assert listeners[1].lines[2:] == expected

    async def test_clients_lists_everyone_and_the_lowest_free_number_is_given(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        servers = await cluster(redis.url, 3)
        clients = [await Recorder.join(server.port, "Attila") for server in servers]
        again = await Recorder.join(servers[0].port, "ATTILA")
        assert again.name == "ATTILA-4"
        await wait_names(clients[2], ["ATTILA-4", "Attila", "Attila-2", "Attila-3"])
        await clients[1].leave()
        await clients[0].wait("* Attila-2 left\r\n")
        assert (await Recorder.join(servers[2].port, "attila")).name == "attila-2"
        await clients[0].leave()
        await clients[2].wait("* Attila left\r\n")
        assert (await Recorder.join(servers[1].port, "attila")).name == "attila"

    async def test_clients_with_a_number_only_counts_a_large_room(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        one, two = await cluster(redis.url, 2)
        client = await Recorder.join(one.port, "a")
        await Recorder.join(two.port, "b")
        await client.wait("* b joined\r\n")
        client.send("\\clients 1\n\\ping end\n")
        await client.wait("PONG end\r\n")
        assert client.lines[2:] == ["* 2 clients", "PONG end"]

    async def test_server_starts_quickly_in_a_room_of_300_000_names(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        add_names(redis, 300_000)
        began = time.monotonic()
        [server] = await cluster(redis.url)
        assert time.monotonic() - began < 6
        client = await Recorder.join(server.port, "client")
        client.send("\\clients 10\n")
        await client.wait("* 300001 clients\r\n")

    async def test_those_who_find_a_server_full_are_never_announced(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        [full] = await cluster(redis.url, 1, "--max-clients", "5")
        [other] = await cluster(redis.url)
        watcher = await Recorder.join(other.port, "watcher")
        clients = [await Recorder.connect(full.port, f"c{number}") for number in range(30)]
        for client in clients:
            await client.wait_lines(1)
        joined = [client for client in clients if client.lines[0] == "SUCCESS"]
        assert len(joined) == 5
        for client in clients:
            if client not in joined:
                await client.wait_end()
                assert client.lines == ["ERROR server is full"]
        await synchronise(joined[0], [watcher])
        expected = [f"{client.name} joined" for client in joined]
        assert sorted(watcher.notices) == sorted(expected)
        await joined[0].leave()
        await watcher.wait(f"* {joined[0].name} left\r\n")
        await Recorder.join(full.port, "next")

    async def test_200_clients_with_one_name_get_the_lowest_numbers(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        servers = await cluster(redis.url, 3, "--no-notices")
        clients = await asyncio.gather(
            *(Recorder.join(servers[number % 3].port, "Attila") for number in range(200))
        )
        await clients[0].wait_until(lambda: len(clients[0].lines) > 0, "SUCCESS")
        expected = sorted(["Attila", *(f"Attila-{number}" for number in range(2, 201))])
        await asyncio.gather(*(self._wait_renamed(client) for client in clients[:1]))
        await wait_names(clients[0], expected)
        for client in clients:
            client.send("\\ping end\n")
        await asyncio.gather(*(client.wait("PONG end\r\n") for client in clients))
        assert sorted(client.name for client in clients) == expected

    async def _wait_renamed(self, client: Recorder) -> None:
        client.send("\\ping begin\n")
        await client.wait("PONG begin\r\n")

    async def test_newcomer_gets_each_message_in_its_history_or_afterwards(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        one, two = await cluster(redis.url, 2, "--history", "100000", "--no-notices")
        talker = Talker(await Recorder.join(one.port, "talker"))
        newcomers = []
        for number in range(10):
            newcomers.append(newcomer := await Recorder.join(two.port, f"n{number}"))
            await newcomer.wait_more(10)
        said = await talker.stop()
        for newcomer in newcomers:
            await newcomer.wait(f"talker: {said}\r\n")
            found = [int(number) for number in re.findall(rb"talker: (\d+)\r\n", newcomer.stream)]
            assert found == list(range(1, said + 1))


class TestFlatOut:
    async def test_three_servers_flat_out_give_sixty_identical_streams(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        servers = await cluster(redis.url, 3, "--no-notices")
        ports = [server.port for server in servers]
        names = [f"r{number}" for number in range(60)]
        receivers = [
            await Recorder.join(ports[number % 3], name) for number, name in enumerate(names)
        ]
        senders = [await Recorder.join(port, "sender") for port in ports]
        assert sorted(sender.name for sender in senders) == ["sender", "sender-2", "sender-3"]

        async def flood(sender: Recorder, rounds: int) -> None:
            for number in range(rounds):
                lines = [b"%d.%d " % (number, line) for line in range(FLOOD_LINES)]
                await sender.send_all(b"".join(line.ljust(99, b".") + b"\n" for line in lines))

        await asyncio.gather(*(flood(sender, 10) for sender in senders))
        for number, sender in enumerate(senders):
            sender.send(f"end {number}\n")
        for client in receivers:
            for number in range(3):
                await client.wait(f": end {number}\r\n", OUTAGE_PATIENCE)
        streams = {zlib.crc32(bytes(client.stream)) for client in receivers}
        assert len(streams) == 1
        lines = receivers[0].messages
        assert len(lines) == 3 * (10 * FLOOD_LINES + 1)
        for sender in senders:
            renamed = len(sender.notices)
            await sender.wait_lines(1 + renamed + 2 * (10 * FLOOD_LINES + 1))
            own = f"{sender.name}: "
            assert sender.messages == [line for line in lines if not line.startswith(own)]

    async def test_stalled_reader_holds_the_others_no_longer_than_on_one_server(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        servers = await cluster(redis.url, 3, "--backlog", "1000000", "--grace", "2")
        ports = [server.port for server in servers]
        listeners = await join_all(ports, "listener")
        stalled = await Recorder.join(ports[0], "stalled", buffer=4096)
        stalled.transport.pause_reading()
        talkers = [
            await Recorder.join(port, f"talker{number}") for number, port in enumerate(ports)
        ]
        longest, last = 0.0, time.monotonic()
        is_out = asyncio.Event()

        async def flood(sender: Recorder) -> None:
            while not is_out.is_set():
                await sender.send_all(FLOOD * FLOOD_LINES)
                await asyncio.sleep(0)

        async def watch() -> None:
            nonlocal longest, last
            while not is_out.is_set():
                await listeners[1].wait_change()
                longest, last = max(longest, time.monotonic() - last), time.monotonic()
                if b"* stalled left (too slow)" in listeners[1].stream[-300_000:]:
                    is_out.set()

        await asyncio.wait_for(
            asyncio.gather(watch(), *(flood(talker) for talker in talkers)), OUTAGE_PATIENCE
        )
        assert longest < 2.5
        await synchronise(talkers[0], [*listeners, *talkers])
        streams = {bytes(listener.stream).partition(b"stalled joined")[2] for listener in listeners}
        assert len(streams) == 1
        for client in [*listeners, *talkers]:
            assert not client.ended


class TestEnd:
    async def test_graceful_end_tells_the_other_servers_who_left(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        one, two = await cluster(redis.url, 2)
        listener = await Recorder.join(two.port, "listener")
        clients = [await Recorder.join(one.port, f"c{number}") for number in range(5)]
        clients[0].send("the last words\n")
        await clients[1].wait("the last words")
        one.signal(signal.SIGTERM)
        for client in clients:
            await client.wait_end()
            assert client.lines[-1] == "* server is shutting down"
        assert await one.wait_ended() == 0
        for number in range(5):
            await listener.wait(f"* c{number} left (server is shutting down)\r\n")
        assert await listener.names() == ["listener"]
        assert "Traceback" not in one.logged()

    async def test_clients_of_a_server_that_ends_get_all_that_the_others_saw_of_it(
        self, redis: RedisServer, cluster: StartCluster, make_proxy: MakeProxy
    ) -> None:
        proxy = make_proxy(redis)
        [one] = await cluster(proxy.url)
        [two] = await cluster(redis.url)
        listeners = [await Recorder.join(server.port, "listener") for server in (one, two)]
        author = await Recorder.join(one.port, "author")
        talker = Talker(author, pause=0)
        await listeners[0].wait_more(50)
        proxy.order("slow 1000000")  # so that much is on its way all the time
        await listeners[0].wait_more(500)
        one.signal(signal.SIGTERM)
        await listeners[1].wait("* author left (server is shutting down)\r\n")
        await listeners[0].wait_end()
        await author.wait_end()
        assert await one.wait_ended() == 0
        await talker.stop()
        assert listeners[0].lines[-1] == "* server is shutting down"
        assert listeners[0].messages == listeners[1].messages
        assert "away from" not in one.logged()

    async def test_history_of_many_short_messages_takes_few_round_trips(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        """Over a slow link, a server that starts would be taken for dead meanwhile."""
        [one] = await cluster(redis.url, 1, "--history", "5000")
        author, listener = [await Recorder.join(one.port, name) for name in ("author", "listener")]
        for number in range(1_000):
            author.send(f"{number}\n")
            await listener.wait(f"author: {number}\r\n")
        redis.call("CONFIG", "RESETSTAT")
        [two] = await cluster(redis.url, 1, "--history", "5000")
        newcomer = await Recorder.join(two.port, "newcomer")
        await newcomer.wait("author: 999\r\n")
        history = [line.partition("author: ")[2] for line in newcomer.lines if "author: " in line]
        assert history == [str(number) for number in range(1_000)]
        [calls] = re.findall(r"cmdstat_xrange:calls=(\d+)", redis.text("INFO", "commandstats"))
        assert int(calls) < 15

    async def test_history_outlives_its_server(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        [one] = await cluster(redis.url, 1, "--history", "3")
        [two] = await cluster(redis.url, 1, "--history", "3")
        author = await Recorder.join(one.port, "author")
        for number in range(5):
            author.send(f"number {number}\n")
        listener = await Recorder.join(two.port, "listener")
        await author.leave()
        await listener.leave()
        for server in (one, two):
            server.signal(signal.SIGTERM)
            assert await server.wait_ended() == 0
        [three] = await cluster(redis.url, 1, "--history", "3")
        late = await Recorder.join(three.port, "late")
        await late.wait("author: number 4\r\n")
        said = [re.sub(r"\[.*\] ", "", notice) for notice in late.notices]
        assert said == [f"author: number {number}" for number in (2, 3, 4)]

    async def test_nothing_is_left_in_redis_of_those_who_have_left(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        servers = await cluster(redis.url, 2)
        clients = [await Recorder.join(servers[number % 2].port, "guest") for number in range(40)]
        assert "guest" in str(redis.contents())
        await asyncio.gather(*(client.leave() for client in clients))
        watcher = await Recorder.join(servers[0].port, "watcher")
        await wait_names(watcher, ["watcher"])
        assert "guest" not in str(redis.contents())
        for server in servers:
            server.signal(signal.SIGTERM)
            assert await server.wait_ended() == 0
        left = redis.contents()
        assert "watcher" not in str(left)
        assert len(left) <= 2, left  # the epoch


class TestSharing:
    async def test_two_rooms_share_a_redis(self, redis: RedisServer, cluster: StartCluster) -> None:
        [tea] = await cluster(redis.url, 1, "--room", "tea")
        [coffee] = await cluster(redis.url, 1, "--room", "coffee")
        a, b = await Recorder.join(tea.port, "same"), await Recorder.join(coffee.port, "same")
        assert (a.name, b.name) == ("same", "same")
        a.send("about tea\n")
        b.send("about coffee\n")
        for client in (a, b):
            assert await client.names() == ["same"]
            assert client.messages == []
        keys = redis.call("KEYS", "*")
        assert isinstance(keys, list)
        assert keys
        for key in keys:
            assert isinstance(key, bytes)
            assert re.match(rb"broadcast:\{(tea|coffee)\}:", key)

    async def test_room_is_in_the_database_of_the_url(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        await cluster(f"{redis.url}/3")
        assert redis.call("DBSIZE") == 0
        assert "db3:" in redis.text("INFO", "keyspace")

    async def test_two_processes_serve_one_port(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        port = free_port()
        arguments = ("--reuse-port", "--port", str(port))
        servers = await cluster(redis.url, 2, *arguments)
        assert [server.port for server in servers] == [port, port]
        clients = [await Recorder.join(port, "c") for _ in range(40)]
        assert len(await clients[0].names()) == 40
        logged = [0, 0]
        while sum(logged) < 40:
            await asyncio.sleep(0.01)
            logged = [server.logged().count(" in from ") for server in servers]
        assert min(logged) > 0

    async def test_user_of_redis_needs_no_more_rights_than_documented(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        page = (TOP / "docs" / "operating.md").read_text()
        match = re.search(r"^user room on >secret (.+)$", page, re.MULTILINE)
        assert match
        redis.call("ACL", "SETUSER", "room", "on", ">secret", *match[1].split())
        url = redis.url.replace("//", "//room:secret@")
        servers = await cluster(url, 3, "--history", "10", program=FAST)
        traffic = await Traffic.start(servers)
        await traffic.flow()
        await traffic.check_nobody_noticed()
        await end_all(servers, redis)
        for server in servers:
            assert "away from" not in server.logged()
            assert "secret" not in server.logged()

    async def test_all_keys_of_a_room_fit_on_one_node_of_a_redis_cluster(
        self, make_redis: MakeRedis, cluster: StartCluster
    ) -> None:
        redis = make_redis("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no")
        redis.call("CLUSTER", "ADDSLOTS", *range(16_384))
        deadline = time.monotonic() + PATIENCE
        while "cluster_state:ok" not in redis.text("CLUSTER", "INFO"):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        servers = await cluster(redis.url, 2, program=FAST)
        traffic = await Traffic.start(servers)
        await traffic.flow()
        await traffic.check_nobody_noticed()
        for server in servers:
            assert "away from" not in server.logged()

    async def test_redis_with_tls(self, make_redis: MakeRedis, cluster: StartCluster) -> None:
        port = free_port()
        keys = ("--tls-cert-file", CERTIFICATE, "--tls-key-file", CERTIFICATE)
        try:
            make_redis("--tls-port", str(port), *keys, "--tls-auth-clients", "no")
        except EndedError:
            pytest.skip("SKIPPED: this Redis is built without TLS")
        one, two = await cluster(f"rediss://localhost:{port}?ca={CERTIFICATE}", 2)
        a, b = await Recorder.join(one.port, "a"), await Recorder.join(two.port, "b")
        b.send("hello\n")
        await a.wait("b: hello\r\n")


class TestInside:
    async def test_sigusr1_tells_of_the_cluster(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        one, two = await cluster(redis.url, 2, program=FAST)
        client = await Recorder.join(one.port, "a")
        await Recorder.join(two.port, "b")
        await client.wait("* b joined\r\n")
        async with asyncio.timeout(PATIENCE):
            while (numbers := await one.statistics())["servers"] != "2":
                await asyncio.sleep(0.1)
        assert numbers["behind"] == "0"
        assert int(numbers["position"]) > 0

    def test_plain_server_loads_nothing_of_it(self) -> None:
        program = (
            "import asyncio, sys, broadcast.cli, broadcast\n"
            "async def main():\n"
            "    async with broadcast.BroadcastServer(port=0): pass\n"
            "asyncio.run(main())\n"
            "print([name for name in sys.modules if 'cluster' in name])"
        )
        printed = subprocess.run(
            [sys.executable, "-c", program], cwd=TOP, capture_output=True, timeout=PATIENCE
        )
        assert printed.stdout == b"[]\n"
