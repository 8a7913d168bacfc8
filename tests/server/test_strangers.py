"""Connections that have not joined: the oldest makes room for the newest."""

from __future__ import annotations

import contextlib
import logging
import socket

import pytest
from helpers import Connect, MakeServer, connections, until

from broadcast.server.strangers import Strangers


class Waiting:
    displaced = 0

    def displace(self) -> None:
        self.displaced += 1


async def test_oldest_stranger_makes_room_for_the_newest() -> None:
    strangers, waiting = Strangers(2), [Waiting() for _ in range(6)]
    with contextlib.ExitStack() as held:
        for one in waiting[:4]:
            held.enter_context(strangers.holding(one.displace))
        assert [one.displaced for one in waiting] == [1, 1, 0, 0, 0, 0]
        assert (len(strangers), strangers.displaced) == (2, 2)
        for one in waiting[4:]:
            held.enter_context(strangers.holding(one.displace))
        assert [one.displaced for one in waiting] == [2, 2, 1, 1, 0, 0]
    assert len(strangers) == 0


async def test_client_that_has_joined_is_not_displaced() -> None:
    strangers, joined, others = Strangers(2), Waiting(), [Waiting() for _ in range(2)]
    with strangers.holding(joined.displace):
        pass
    with contextlib.ExitStack() as held:
        for one in others:
            held.enter_context(strangers.holding(one.displace))
    assert not any(one.displaced for one in (joined, *others))


async def test_silent_connections_keep_nobody_out(
    make_server: MakeServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    server = await make_server(max_strangers=3, max_clients=2, close_timeout=0.1, notices=False)
    silent = [await connect(server) for _ in range(10)]
    a, b = await connect(server, "a"), await connect(server, "b")
    a.send("hello\n")
    assert await b.line() == "a: hello"
    assert [await peer.read_to_end() for peer in silent[:7]] == [["ERROR server is full"]] * 7
    assert server.statistics()["displaced"] == 8


async def test_burst_of_connections_is_bounded(make_server: MakeServer) -> None:
    """Those that are displaced twice before they have got to the first time, too."""
    server = await make_server(max_strangers=4, close_timeout=60, handshake_timeout=60)
    with contextlib.ExitStack() as opened:
        for _ in range(100):
            opened.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        await until(lambda: server.statistics()["displaced"] == 96)
        await until(lambda: server.statistics()["connections"] <= 8)


async def test_displaced_connections_are_logged_together_once_a_second(
    make_server: MakeServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    server = await make_server(max_strangers=3, close_timeout=0.1, notices=False)

    def warnings() -> list[str]:
        return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]

    for _ in range(2):  # a server that is started again counts anew
        caplog.clear()
        for _ in range(10):
            await connect(server)
        await until(lambda: server.statistics()["displaced"] == 7)
        assert warnings() == [], "it waits for others"
        await until(lambda: bool(warnings()))
        assert warnings() == ["7 turned away: more than 3 connections have not joined"]
        await server.close()
        await server.start()


async def test_clients_that_have_joined_do_not_count_as_strangers(
    make_server: MakeServer, connect: Connect
) -> None:
    server = await make_server(max_strangers=1, notices=False)
    peers = [await connect(server, f"p{number}") for number in range(5)]
    assert server.statistics()["displaced"] == 0
    peers[0].send("hello\n")
    assert [await peer.line() for peer in peers[1:]] == ["p0: hello"] * 4


async def test_refused_connection_that_lingers_makes_room_too(
    make_server: MakeServer, connect: Connect
) -> None:
    server = await make_server(max_strangers=1, close_timeout=60)
    refused = await connect(server)
    refused.send("nonsense\n")
    assert await refused.line() == "ERROR expected CONNECT <username>"
    await connect(server, "newcomer")
    await until(lambda: connections(server) <= 1)
