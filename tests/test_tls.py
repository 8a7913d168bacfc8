"""Secrecy: TLS within the session, with the same order, bounds and ends as without. `certificate.pem` is for these tests alone."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from typing import cast

import pytest
from conftest import TOP, Connect, MakeServer

from broadcast import BroadcastClient, BroadcastServer, ConnectError, ConnectionLostError, Message, Notice

CERTIFICATE = str(TOP / "tests" / "certificate.pem")


def of_server() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def of_client() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=CERTIFICATE)


@pytest.fixture
async def secret(make_server: MakeServer) -> AsyncIterator[BroadcastServer]:
    yield await make_server(tls=of_server(), notices=False, handshake_timeout=0.5, backlog=500_000, grace=0.3, close_timeout=0.2)


def client_of(server: BroadcastServer, user: str) -> BroadcastClient:
    return BroadcastClient(port=server.port, user=user, tls=of_client())


async def test_people_talk_and_leave(secret: BroadcastServer) -> None:
    async with client_of(secret, "a") as a, client_of(secret, "b") as b:
        for number in range(100):
            await a.send(f"{number}")
        await a.leave()
        assert [incoming async for incoming in a] == []
        assert [str(await anext(b)) for _ in range(100)] == [f"a: {number}" for number in range(100)]


async def test_who_leaves_gets_all_that_was_published_before(secret: BroadcastServer) -> None:
    async with client_of(secret, "a") as a, client_of(secret, "b") as b:
        await a.send_lines(b"x" * 1000 + b"\n" + b"y\n" * 20_000)
        await a.send("\\clients")
        assert await anext(a) == Notice("2 clients")
        await b.leave()
        assert len([incoming async for incoming in b]) == 20_001


async def test_all_that_comes_with_the_end_of_the_handshake_is_taken(
    secret: BroadcastServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    arriving, leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
    secrecy = of_client().wrap_bio(arriving, leaving, server_hostname="localhost")
    async with client_of(secret, "listener") as listener:
        peer = await connect(secret)
        with pytest.raises(ssl.SSLWantReadError):
            secrecy.do_handshake()
        peer.writer.write(leaving.read())
        arriving.write(await peer.reader.read(100_000))
        secrecy.do_handshake()
        for plain in (b"CONNECT hasty\n", *[b"%b\n" % (b"x" * 999) * 16] * 13, b"last\n"):
            secrecy.write(plain)
        with pytest.raises(ssl.SSLWantReadError):
            secrecy.unwrap()
        peer.writer.write(leaving.read())
        lines = [str(await anext(listener)) for _ in range(209)]
        assert lines == [f"hasty: {'x' * 999}"] * 208 + ["hasty: last"]
        assert not caplog.records


@pytest.mark.parametrize("how", ["leaves", "is sent away"])
async def test_what_came_before_the_end_is_given_though_it_is_read_later(make_server: MakeServer, how: str) -> None:
    server = await make_server(tls=of_server(), notices=False)
    async with client_of(server, "a") as a, client_of(server, "b") as b:
        await a.send_lines(b"%b\n" % (b"x" * 99) * 2400)
        await a.send("\\clients")
        assert await anext(a) == Notice("2 clients")
        if how == "leaves":
            await b.leave()
        else:
            closing = asyncio.create_task(server.close())
        while len(server._sessions) > 1:
            await asyncio.sleep(0.01)
        assert len([incoming async for incoming in b if isinstance(incoming, Message)]) == 2400
    if how == "is sent away":
        await closing


async def test_who_leaves_and_pauses_gets_it_too(secret: BroadcastServer, connect: Connect) -> None:
    async with client_of(secret, "a") as a:
        reader, writer = await asyncio.open_connection("127.0.0.1", secret.port, ssl=of_client(), server_hostname="localhost")
        writer.write(b"CONNECT b\n")
        assert await reader.readline() == b"SUCCESS\r\n"
        cast(asyncio.Transport, writer.transport).pause_reading()
        await a.send_lines(b"%b\n" % (b"x" * 98) * 4000)
        await a.send("\\clients")
        assert await anext(a) == Notice("2 clients")
        writer.write(b"\\exit\n")
        while len(secret._sessions) > 1:
            await asyncio.sleep(0.01)
        cast(asyncio.Transport, writer.transport).resume_reading()
        assert len(await reader.read(-1)) == 4000 * len("a: " + "x" * 98 + "\r\n")
        writer.close()


async def test_a_flat_out_stream_arrives_whole(secret: BroadcastServer) -> None:
    async with client_of(secret, "a") as a, client_of(secret, "b") as b:

        async def send() -> None:
            for _ in range(50):
                await a.send_lines(b"".join(b"%05d %s\n" % (number, b"x" * 100) for number in range(1000)))

        sending = asyncio.create_task(send())
        for expected in range(50_000):
            message = await anext(b)
            assert isinstance(message, Message) and int(message.text[:5]) == expected % 1000
        await sending


async def test_a_stalled_reader_is_dropped_and_the_others_get_everything(secret: BroadcastServer) -> None:
    async with client_of(secret, "a") as a, client_of(secret, "b") as b:
        stalled = client_of(secret, "stalled")
        await stalled.connect()

        async def send() -> None:
            for _ in range(200):
                await a.send_lines((b"x" * 1000 + b"\n") * 60)
            await a.send("end")

        sending = asyncio.create_task(send())
        count = 0
        while (message := await anext(b)).text != "end":
            count += isinstance(message, Message)
        assert count == 12_000
        await sending
        assert secret.statistics()["dropped"] == 1
        while len(secret._sessions) > 2:
            await asyncio.sleep(0.01)
        with pytest.raises(ConnectionLostError):
            async for _ in stalled:
                pass
        await stalled.close(0)


async def test_shutting_down_is_told(make_server: MakeServer) -> None:
    server = await make_server(tls=of_server())
    async with client_of(server, "a") as a:
        closing = asyncio.create_task(server.close())
        assert [incoming async for incoming in a] == [Notice("server is shutting down")]
    async with asyncio.timeout(2):
        await closing


async def test_a_handshake_that_never_comes_is_cut_off_and_logged(
    secret: BroadcastServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "broadcast")
    peer = await connect(secret)
    assert await peer.rest() == []
    assert "refused: handshake timed out" in caplog.text


async def test_a_plain_client_is_told_what_may_be_wrong(secret: BroadcastServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "broadcast")
    with pytest.raises(ConnectError, match=r"(closed the connection without an answer|lost the connection).*--tls\?"):
        await BroadcastClient(port=secret.port).connect()
    while "refused: TLS failed" not in caplog.text:
        await asyncio.sleep(0.01)


async def test_a_tls_client_on_a_plain_port_fails_clearly(server: BroadcastServer, connect: Connect) -> None:
    with pytest.raises(ConnectError, match="does the server use TLS"):
        await client_of(server, "a").connect()
    peer = await connect(server)
    peer.send(b"\x16\x03\x01\x02\x00\x01")
    assert await peer.rest() == ["ERROR this server does not use TLS: connect without it"]


async def test_a_certificate_that_is_not_trusted_or_for_another_name_is_refused(
    secret: BroadcastServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConnectError, match="certificate is not trusted"):
        await BroadcastClient(port=secret.port, tls=ssl.create_default_context()).connect()
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", secret.port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(ConnectError, match="certificate is not trusted.*mismatch"):
        await BroadcastClient("elsewhere.invalid", secret.port, tls=of_client()).connect()
