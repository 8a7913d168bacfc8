"""What a room on three servers experiences when one of the servers fails."""

from __future__ import annotations

import asyncio
import signal

from cluster_helpers import (
    FAST,
    OUTAGE_PATIENCE,
    SPEED,
    Recorder,
    RedisServer,
    StartCluster,
    Talker,
    Traffic,
    check_streams,
    check_told,
    end_all,
    start_talking,
    synchronise,
    wait_names,
)


class TestServerIsKilled:
    async def test_names_of_its_clients_come_back_and_the_others_are_told(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        dead, *alive = await cluster(redis.url, 3, program=FAST)
        listeners = [await Recorder.join(server.port, "listener") for server in alive]
        # More than are freed at once.
        lost = [await Recorder.join(dead.port, f"lost{number}") for number in range(150)]
        await listeners[0].wait("* lost149 joined\r\n")
        dead.signal(signal.SIGKILL)
        for listener in listeners:
            for number in range(150):
                await listener.wait(f"* lost{number} left (", OUTAGE_PATIENCE)
            assert len(listener.notices) == len(set(listener.notices))
        assert all(client.ended for client in lost)
        again = await Recorder.join(alive[0].port, "lost3")
        assert again.name == "lost3"
        await wait_names(again, ["listener", "listener-2", "lost3"])
        assert "lost4" not in str(redis.contents())
        await end_all(alive, redis)

    async def test_the_others_lose_nothing(self, redis: RedisServer, cluster: StartCluster) -> None:
        *alive, dead = await cluster(redis.url, 3, program=FAST)
        traffic = await Traffic.start(alive)
        victim = Talker(await Recorder.join(dead.port, "victim"), pause=0)
        await traffic.flow()
        dead.signal(signal.SIGKILL)
        await traffic.listeners[0].wait("* victim left (", OUTAGE_PATIENCE)
        assert victim.client.ended
        await traffic.check_nobody_noticed()
        check_streams([victim.client, *traffic.clients])
        await end_all(alive, redis)

    async def test_last_server_of_a_room_leaves_names_that_the_next_one_frees(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        [dead] = await cluster(redis.url, 1, program=FAST)
        await Recorder.join(dead.port, "lost")
        dead.signal(signal.SIGKILL)
        await dead.wait_ended()
        [next_one] = await cluster(redis.url, 1, program=FAST)
        watcher = await Recorder.join(next_one.port, "watcher")
        await wait_names(watcher, ["watcher"])
        assert (await Recorder.join(next_one.port, "lost")).name == "lost"


class TestServerIsStopped:
    async def test_nobody_notices_a_short_stop(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        servers, traffic = await start_talking(cluster, redis)
        servers[0].signal(signal.SIGSTOP)
        await asyncio.sleep(6 * SPEED)
        servers[0].signal(signal.SIGCONT)
        await traffic.flow()
        await traffic.check_nobody_noticed()
        await end_all(servers, redis)

    async def test_clients_of_a_server_that_was_stopped_for_long_are_told(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        stopped, *others = await cluster(redis.url, 3, program=FAST)
        traffic = await Traffic.start(others)
        clients = [await Recorder.join(stopped.port, f"client{number}") for number in range(3)]
        await traffic.flow()
        stopped.signal(signal.SIGSTOP)
        await traffic.listeners[0].wait("* client0 left (", OUTAGE_PATIENCE)
        stopped.signal(signal.SIGCONT)
        for client in clients:
            await client.wait_end(OUTAGE_PATIENCE)
        check_told(clients)
        await stopped.wait_logged("WARNING cut off: ")
        await traffic.flow()
        await traffic.check_nobody_noticed()
        again = await Recorder.join(stopped.port, "client0")
        assert again.name == "client0"
        await synchronise(again, traffic.clients)
        await end_all([stopped, *others], redis)

    async def test_stopped_server_holds_nobody_for_long(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        """It is behind by more and more while the others are flat out, until it is given up."""
        history = ("--history", "1000000", "--history-bytes", "100000000")
        stopped, *others = await cluster(redis.url, 3, "--no-notices", *history, program=FAST)
        listener = await Recorder.join(others[0].port, "listener")
        client = await Recorder.join(stopped.port, "client")
        sender = await Recorder.join(others[1].port, "sender")
        stopped.signal(signal.SIGSTOP)
        chunk = (b"x" * 999 + b"\n") * 64
        sent = 0
        while sent < 60_000_000:
            await asyncio.wait_for(sender.send_all(chunk), OUTAGE_PATIENCE)
            sent += len(chunk)
            del listener.stream[: -len(chunk)]
        await synchronise(sender, [listener])
        stopped.signal(signal.SIGCONT)
        await client.wait_end(OUTAGE_PATIENCE)
        check_told([client])


class TestRollingRestart:
    async def test_the_others_lose_nothing_and_the_room_goes_on(
        self, redis: RedisServer, cluster: StartCluster
    ) -> None:
        *others, old = await cluster(redis.url, 3, program=FAST)
        traffic = await Traffic.start(others)
        talker = Talker(await Recorder.join(old.port, "moving"))
        await traffic.flow()
        old.signal(signal.SIGTERM)
        await talker.client.wait_end()
        assert await old.wait_ended() == 0
        check_told([talker.client])
        await traffic.listeners[0].wait("* moving left (server is shutting down)\r\n")
        [new] = await cluster(redis.url, 1, program=FAST)
        again = await Recorder.join(new.port, "moving")
        assert again.name == "moving"
        await traffic.flow()
        await again.leave()
        await traffic.check_nobody_noticed()
        check_streams([talker.client, *traffic.clients])
        await end_all([*others, new], redis)
