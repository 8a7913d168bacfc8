"""BroadcastServer: accepting, limits, statistics, shutting down."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import socket
import ssl
import time
import warnings
import weakref
from collections.abc import Coroutine
from typing import Any

import pytest
from helpers import (
    CERTIFICATE,
    Connect,
    MakeServer,
    Peer,
    alive,
    connections,
    count_open_files,
    linux_only,
    until,
)

from broadcast import BroadcastClient, BroadcastServer, ListenError
from broadcast.net.connection import Connection
from broadcast.server.server import ACCEPTS_PER_ITERATION
from broadcast.server.session import Session
from broadcast.server.subscription import Subscription

LAST = "* server is shutting down"

REFUSED = b"ERROR server is shutting down\r\n"


def session_tasks() -> list[asyncio.Task[Any]]:
    """Return the tasks that run code of the server."""
    return [task for task in asyncio.all_tasks() if "broadcast/server/" in repr(task)]


async def lagging_reader_and_sender(
    server: BroadcastServer, connect: Connect, name: str
) -> tuple[Peer, Peer]:
    """Return a client that has stopped reading, and one that has sent it 5,000 lines."""
    reader, sender = await connect(server, name, buffer=4096), await connect(server, "s")
    reader.pause_reading()
    sender.send(("x" * 1000 + "\n") * 5000)
    await sender.synchronise()
    return reader, sender


async def run_and_cancel(work: Coroutine[None, None, None], iterations: int) -> bool:
    """Run and cancel after some iterations of the event loop; return whether that ended it."""
    task = asyncio.create_task(work)
    for _ in range(iterations):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
    return task.cancelled()


class TestShuttingDown:
    async def test_shutdown_notice_is_the_last_line_to_everyone(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server()
        inside = [await connect(server, f"p{number}") for number in range(3)]
        outside = await connect(server)
        await asyncio.sleep(0.01)
        *seen, refused, _ = await asyncio.gather(
            *(peer.read_to_end() for peer in [*inside, outside]), server.close()
        )
        assert seen == [["* p1 joined", "* p2 joined", LAST], ["* p2 joined", LAST], [LAST]]
        assert refused == ["ERROR server is shutting down"]

    @pytest.mark.parametrize("iterations", range(6))
    async def test_shutdown_during_a_handshake_is_announced_in_the_last_line(
        self, make_server: MakeServer, connect: Connect, iterations: int
    ) -> None:
        server = await make_server()
        peer = await connect(server)
        await asyncio.sleep(0.02)
        peer.send("CONNECT a\n")
        for _ in range(iterations):
            await asyncio.sleep(0)
        lines, _ = await asyncio.gather(peer.read_to_end(), server.close())
        assert lines in (["ERROR server is shutting down"], ["SUCCESS", LAST])

    async def test_shutdown_during_traffic_ends_with_the_same_message_for_all(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server(notices=False, backlog=1_000_000, close_timeout=0.2)
        receivers = [await connect(server, "r", buffer=20_000) for _ in range(10)]
        sender = await connect(server, "s")
        sender.pause_reading()

        async def flood() -> None:
            number = 0
            while not sender.writer.is_closing():
                sender.send("".join(f"{number + step} {'x' * 100}\n" for step in range(200)))
                number += 200
                await sender.writer.drain()

        flooding = asyncio.create_task(flood())
        reading = [asyncio.create_task(receiver.read_to_end()) for receiver in receivers]
        await asyncio.sleep(0.3)
        await server.close()
        ends = []
        for lines in await asyncio.gather(*reading):
            messages = [line for line in lines if line.startswith("s: ")]
            assert [int(line.split(" ")[1]) for line in messages] == list(range(len(messages)))
            assert lines[-1] == LAST and len(messages) > 200
            ends.append(len(messages))
        assert len(set(ends)) == 1
        sender.writer.transport.abort()
        await asyncio.gather(flooding, return_exceptions=True)

    async def test_client_that_does_not_read_delays_shutdown_briefly_and_is_reset(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server(notices=False, shutdown_timeout=0.3)
        stalled, sender = await lagging_reader_and_sender(server, connect, "stalled")
        closing = asyncio.create_task(server.close())
        assert await sender.read_to_end() == [LAST]
        sender.writer.close()
        began = time.monotonic()
        await closing
        assert time.monotonic() - began < BroadcastServer.shutdown_timeout
        stalled.resume_reading()
        with pytest.raises(ConnectionResetError):
            await stalled.read_to_end()

    async def test_cancelled_shutdown_disconnects_everyone_immediately(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server(notices=False)
        stalled, sender = await lagging_reader_and_sender(server, connect, "stalled")
        closing = asyncio.create_task(server.close())
        await asyncio.sleep(0.05)
        closing.cancel()
        began = time.monotonic()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert time.monotonic() - began < 0.5
        assert session_tasks() == []

    async def test_port_is_free_after_closing_and_closing_twice_has_no_effect(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server()
        peer = await connect(server, "a")
        await asyncio.gather(server.close(), peer.read_to_end())
        await server.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", server.port)
        async with BroadcastServer(port=server.port):
            pass

    @pytest.mark.parametrize("iterations", range(6))
    async def test_no_session_begins_after_the_end(
        self, make_server: MakeServer, iterations: int
    ) -> None:
        """asyncio may have accepted a connection and not called back yet."""
        server = await make_server()
        with socket.create_connection(("127.0.0.1", server.port)) as connected:
            for _ in range(iterations):
                await asyncio.sleep(0)
            await server.close()
            for _ in range(5):
                assert session_tasks() == []
                await asyncio.sleep(0)
            connected.settimeout(5)
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.to_thread(connected.recv, 100) in (b"", REFUSED)

    async def test_second_close_waits_for_the_end(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server(notices=False, shutdown_timeout=0.3)
        _, sender = await lagging_reader_and_sender(server, connect, "stalled")
        closing = asyncio.create_task(server.close())
        assert await sender.read_to_end() == [LAST]
        sender.writer.close()
        assert session_tasks() != []
        await server.close()
        assert session_tasks() == []
        await closing

    async def test_time_while_the_process_is_stopped_does_not_count_at_shutdown(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        """SIGSTOP makes the time of the event loop jump; only what follows counts."""
        server = await make_server(notices=False, shutdown_timeout=1.2)
        slow, sender = await lagging_reader_and_sender(server, connect, "slow")
        closing = asyncio.create_task(server.close())
        assert await sender.read_to_end() == [LAST]
        sender.writer.close()
        time.sleep(1.5)
        slow.resume_reading()
        lines = await slow.read_to_end()
        assert (len(lines), lines[-1]) == (5001, LAST)
        await closing

    @pytest.mark.parametrize("iterations", [1, 2, 5])
    async def test_cancelled_close_cuts_off_all_clients_and_stops_listening(
        self, make_server: MakeServer, connect: Connect, iterations: int
    ) -> None:
        server = await make_server()
        peer = await connect(server, "peer")
        assert await run_and_cancel(server.close(), iterations)
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionResetError):
                await peer.reader.read()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", server.port)
        await server.start()
        await connect(server, "peer")

    @linux_only("counts open files in /proc")
    @pytest.mark.parametrize("iterations", range(5))
    @pytest.mark.parametrize("later", range(1, 4))
    async def test_cancelled_close_leaves_no_connection_open_that_was_just_accepted(
        self, make_server: MakeServer, iterations: int, later: int
    ) -> None:
        server = await make_server()
        files = count_open_files()
        waiting = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(5)]
        for _ in range(iterations):
            await asyncio.sleep(0)
        await run_and_cancel(server.close(), later)
        for connected in waiting:
            connected.settimeout(5)
            with contextlib.suppress(ConnectionResetError):
                while await asyncio.to_thread(connected.recv, 100):
                    pass
            connected.close()
        await until(lambda: count_open_files() < files)

    async def test_server_that_is_closed_while_it_starts_does_not_listen(self) -> None:
        server = BroadcastServer(port=0)
        starting = asyncio.create_task(server.start())
        await asyncio.sleep(0)
        await server.close()
        await server.start()  # the end was waited for, so it may begin again
        await server.close()
        with pytest.raises(RuntimeError, match="closed while it was starting"):
            await starting
        await server.start()
        await server.close()

    @pytest.mark.parametrize("iterations", range(1, 12))
    async def test_server_whose_start_was_cancelled_can_be_started_again(
        self, iterations: int
    ) -> None:
        server = BroadcastServer(port=0)
        if not await run_and_cancel(server.start(), iterations):
            await server.close()
        async with server, BroadcastClient(port=server.port, connect_timeout=5):
            pass

    async def test_client_that_does_not_close_its_side_is_cut_off_at_shutdown(
        self, make_server: MakeServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("broadcast.server.server.UNREAD_TIMEOUT", 60)
        server = await make_server(shutdown_timeout=0.2, close_timeout=60)
        leaver = await connect(server, "leaver")
        leaver.send("\\exit\n")
        assert await leaver.reader.read() == b""
        async with asyncio.timeout(5):
            await server.close()

    @pytest.mark.parametrize("iterations", range(6))
    async def test_tls_connection_accepted_during_the_shutdown_is_sent_no_plain_text(
        self, make_server: MakeServer, iterations: int
    ) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        server = await make_server(tls=context)
        with socket.create_connection(("127.0.0.1", server.port)) as connected:
            for _ in range(iterations):
                await asyncio.sleep(0)
            await server.close()
            connected.setblocking(False)
            with contextlib.suppress(ConnectionResetError):
                async with asyncio.timeout(5):
                    assert await asyncio.get_running_loop().sock_recv(connected, 100) == b""

    async def test_client_disconnected_at_shutdown_is_logged_with_the_reason(
        self, make_server: MakeServer, connect: Connect, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "broadcast")
        server = await make_server(notices=False, shutdown_timeout=0.2)
        stalled, sender = await lagging_reader_and_sender(server, connect, "stalled")
        closing = asyncio.create_task(server.close())
        assert await sender.read_to_end() == [LAST]
        sender.writer.close()
        await closing
        assert "stalled out: did not read in time at the shutdown" in caplog.text


async def test_server_that_is_running_cannot_be_started_again(
    server: BroadcastServer, connect: Connect
) -> None:
    a, b = await connect(server, "a"), await connect(server, "b")
    with pytest.raises(RuntimeError, match="started already"):
        await server.start()
    a.send("hello\n")
    assert await b.line() == "a: hello"
    await asyncio.gather(server.close(), a.read_to_end(), b.read_to_end())
    assert server.statistics() == {}


async def test_server_can_be_started_after_it_failed_to_listen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = BroadcastServer(port=taken.getsockname()[1])
        with pytest.raises(ListenError):
            await server.start()
    async with server:
        assert server.statistics()["clients"] == 0


async def test_nothing_is_kept_of_clients_that_left(
    server: BroadcastServer, connect: Connect
) -> None:
    async def come_and_go(number: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        if number % 2:
            writer.write(b"CONNECT same\nhello\n")
        if number % 3 == 0:
            writer.transport.abort()
        elif number % 3 == 1:
            writer.write_eof()
        await asyncio.sleep(0.01)
        writer.close()

    gone: list[weakref.ref[Session]] = []
    stay = await connect(server, "stay")
    before = alive(Session)
    for _ in range(3):
        await asyncio.gather(*(come_and_go(number) for number in range(60)))
        gone += [weakref.ref(one) for one in alive(Session) if one not in before]
    await until(lambda: connections(server) <= 1)
    stay.send("\\clients\n")
    assert (await stay.synchronise())[-2:] == ["* 1 client", "* stay (you)"]
    statistics = server.statistics()
    assert (statistics["lagging"], statistics["backlog bytes"]) == (0, 0)
    await asyncio.sleep(0.01)
    gc.collect()
    assert len(alive(Subscription)) == 1
    assert gone and [ref() for ref in gone if ref()] == []
    assert len(session_tasks()) == 2, "the session of `stay` and its timeout task"


@pytest.mark.parametrize(
    "how", ["exit", "close", "reset", "reset while it lags", "reset while it is answered"]
)
async def test_session_is_freed_without_the_garbage_collector(
    server: BroadcastServer, connect: Connect, how: str
) -> None:
    stay = await connect(server, "stay")
    before = [*alive(Session), *alive(Connection)]
    peer = await connect(server, "go", buffer=4096)
    if how in ("reset while it lags", "reset while it is answered"):
        peer.pause_reading()
        if how == "reset while it is answered":
            peer.send("\\help\n" * 100_000)
        stay.send(("x" * 999 + "\n") * 4000)
        await stay.synchronise()
        assert server.statistics()["lagging"] == 1
    left: list[weakref.ref[Any]] = [
        *(weakref.ref(one) for one in alive(Session) if one not in before),
        *(weakref.ref(one.transport) for one in alive(Connection) if one not in before),
    ]
    assert len(left) == 2
    gc.disable()
    try:
        if how == "exit":
            peer.send("\\exit\n")
            await peer.read_to_end()
        elif how == "close":
            peer.writer.close()
        else:
            peer.reset()
        await until(lambda: not any(ref() for ref in left))
    finally:
        gc.enable()


async def test_accepted_connection_leaves_no_transport_to_the_garbage_collector(
    server: BroadcastServer,
) -> None:
    def transports() -> int:
        return sum(isinstance(one, asyncio.Transport) for one in gc.get_objects())

    with socket.create_connection(("127.0.0.1", server.port)) as connected:
        gc.collect()
        before = transports()
        gc.disable()
        try:
            await until(lambda: connections(server) == 1)
            await until(lambda: transports() == before + 1)  # the session's own
            connected.close()
            await until(lambda: transports() == before)
        finally:
            gc.enable()


async def test_bug_in_a_session_is_logged_and_affects_only_that_client(
    server: BroadcastServer,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    a = await connect(server, "a")
    monkeypatch.setattr("broadcast.server.dispatcher.answer", lambda *_: 1 / 0)
    b = await connect(server, "b")
    b.send("\\clients\n")
    with pytest.raises(ConnectionResetError):
        await b.read_to_end()
    monkeypatch.undo()
    assert await a.synchronise() == []
    assert "please report this" in caplog.text
    await connect(server, "b")
    a.send("\\clients\n")
    assert await a.synchronise() == ["* 2 clients", "* a (you)", "* b"]


@pytest.mark.parametrize(("timeout", "warned"), [(60, False), (59.5, True)])
async def test_timeout_below_two_heartbeats_of_the_client_is_warned_of_at_the_start(
    make_server: MakeServer, caplog: pytest.LogCaptureFixture, timeout: float, warned: bool
) -> None:
    await make_server(timeout=timeout)
    assert ("a heartbeat every 30 s" in caplog.text) is warned


async def test_server_that_is_used_and_dropped_causes_no_warning() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        async with BroadcastServer(port=0):
            pass
        gc.collect()
    assert caught == []


async def test_several_connections_are_accepted_in_one_iteration(
    server: BroadcastServer, connect: Connect
) -> None:
    """Otherwise busy senders would keep newcomers waiting."""
    loop = asyncio.get_running_loop()
    waiting = [socket.socket() for _ in range(2 * ACCEPTS_PER_ITERATION)]
    for one in waiting:
        one.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            one.connect(("127.0.0.1", server.port))
    iterations = 0
    while server.statistics()["connections"] < len(waiting):
        await asyncio.sleep(0)
        iterations += 1
    assert iterations < len(waiting) / 2
    for one in waiting:
        await loop.sock_sendall(one, b"CONNECT\n")
        assert await loop.sock_recv(one, 100) == b"SUCCESS\r\n"
        one.close()


class TestLimits:
    async def test_full_server_refuses_until_a_client_leaves(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server(max_clients=2, notices=False)
        first, second = await connect(server, "first"), await connect(server, "second")
        third = await connect(server)
        third.send("CONNECT third\n")
        assert await third.read_to_end() == ["ERROR server is full"]
        second.writer.close()
        await until(lambda: connections(server) <= 1)
        await connect(server, "fourth")
        assert await first.synchronise() == []

    @linux_only("counts open files in /proc")
    @pytest.mark.parametrize("free", [0, 1])
    async def test_running_out_of_file_descriptors_does_not_affect_connected_clients(
        self, server: BroadcastServer, connect: Connect, free: int
    ) -> None:
        """With one left, asyncio accepts the connection, but the server cannot duplicate it."""
        problems: list[str] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: problems.append(context["message"])
        )
        a, b = await connect(server, "a"), await connect(server, "b")
        waiting = socket.socket()
        waiting.setblocking(False)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Accepting a connection takes two at once, and there need not be any gaps to use.
        highest = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + 4, hard))
        hoard: list[int] = []
        try:
            with contextlib.suppress(OSError):
                while True:
                    hoard.append(os.dup(0))
            for _ in range(free):
                os.close(hoard.pop())
            with contextlib.suppress(BlockingIOError):
                waiting.connect(("127.0.0.1", server.port))
            worst = 0.0
            for number in range(100):
                began = time.perf_counter()
                a.send(f"{number}\n")
                assert await b.line() == f"a: {number}"
                worst = max(worst, time.perf_counter() - began)
                await asyncio.sleep(0.002)
            assert worst < 0.1
            assert 1 - free <= len(problems) <= 3
            for descriptor in hoard:
                os.close(descriptor)
            hoard.clear()
            began = time.monotonic()
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(waiting, b"CONNECT late\n")
            async with asyncio.timeout(5):
                assert await loop.sock_recv(waiting, 100) == b"SUCCESS\r\n"
            assert time.monotonic() - began < 1.5
        finally:
            for descriptor in hoard:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            waiting.close()


async def test_statistics_count_clients_lines_and_deliveries(
    server: BroadcastServer, connect: Connect
) -> None:
    peers = [await connect(server, name) for name in "abc"]
    peers[0].send("one\ntwo\n\\ping\n")
    await peers[0].synchronise()
    numbers = server.statistics()
    assert numbers["clients"] == 3
    assert numbers["lines in"] == 4
    assert numbers["deliveries"] == 4
    assert numbers["bytes in"] > len("one\ntwo\n\\ping\n")
    assert numbers["backlog bytes"] == numbers["lagging"] == numbers["dropped"] == 0
