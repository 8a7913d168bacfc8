"""Connections that have not joined: the oldest makes room for the newest."""

from __future__ import annotations

import logging

import pytest
from helpers import Connect, MakeServer, connections, until

from broadcast.server.strangers import Strangers


class Waiting:
    displaced = 0

    def displace(self) -> None:
        self.displaced += 1


def test_oldest_stranger_makes_room_for_the_newest() -> None:
    strangers, waiting = Strangers(2), [Waiting() for _ in range(6)]
    for one in waiting[:4]:
        strangers.add(one)
    assert [one.displaced for one in waiting] == [1, 1, 0, 0, 0, 0]
    assert (len(strangers), strangers.displaced) == (2, 2)
    for one in waiting[4:]:
        strangers.add(one)
    assert [one.displaced for one in waiting] == [2, 2, 1, 1, 0, 0]


def test_client_that_has_joined_is_not_displaced() -> None:
    strangers, joined, others = Strangers(2), Waiting(), [Waiting() for _ in range(2)]
    strangers.add(joined)
    strangers.discard(joined)
    for one in others:
        strangers.add(one)
    strangers.discard(joined)
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
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1, "it is logged once a second at most"
    assert "more than 3 connections have not joined" in warnings[0].getMessage()


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
