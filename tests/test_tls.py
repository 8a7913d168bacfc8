"""TLS: the same order, limits and closing as without it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import socket
import ssl
import weakref
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from helpers import (
    CERTIFICATE,
    Connect,
    FakeServer,
    MakeServer,
    Peer,
    StartProgram,
    alive,
    connections,
    until,
)

from broadcast import (
    BroadcastClient,
    BroadcastServer,
    ConnectError,
    ConnectionLostError,
    Message,
    Notice,
    TLSMismatchError,
)
from broadcast.net.address import format_address
from broadcast.net.tls import TLSConnection
from broadcast.server.session import Session


def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    return context


def client_context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=CERTIFICATE)


@pytest.fixture
async def tls_server(make_server: MakeServer) -> AsyncIterator[BroadcastServer]:
    yield await make_server(
        tls=server_context(),
        notices=False,
        handshake_timeout=0.5,
        backlog=500_000,
        grace=0.3,
        close_timeout=0.2,
    )


def tls_client(server: BroadcastServer, user: str) -> BroadcastClient:
    return BroadcastClient(port=server.port, user=user, tls=client_context())


async def test_tls_clients_exchange_messages_and_leave(tls_server: BroadcastServer) -> None:
    async with tls_client(tls_server, "a") as a, tls_client(tls_server, "b") as b:
        for number in range(100):
            await a.send(f"{number}")
        await a.leave()
        assert [incoming async for incoming in a] == []
        assert [str(await anext(b)) for _ in range(100)] == [
            f"a: {number}" for number in range(100)
        ]


async def test_tls_leaver_receives_all_that_was_published_before(
    tls_server: BroadcastServer,
) -> None:
    async with tls_client(tls_server, "a") as a, tls_client(tls_server, "b") as b:
        await a.send_lines(b"x" * 1000 + b"\n" + b"y\n" * 20_000)
        await a.send("\\clients")
        assert await anext(a) == Notice("2 clients")
        await b.leave()
        assert len([incoming async for incoming in b]) == 20_001


async def test_data_that_arrives_with_the_end_of_the_handshake_is_handled(
    tls_server: BroadcastServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    async with tls_client(tls_server, "listener") as listener:
        raw = RawTLS(await connect(tls_server))
        sent = await raw.begin_handshake()
        for plain in (b"CONNECT hasty\n", *[b"%b\n" % (b"x" * 999) * 16] * 13, b"last\n"):
            sent += raw.encrypt(plain)
        raw.peer.send(sent + raw.end())
        lines = [str(await anext(listener)) for _ in range(209)]
        assert lines == [f"hasty: {'x' * 999}"] * 208 + ["hasty: last"]
        assert not caplog.records


@pytest.mark.parametrize("how", ["leaves", "is sent away"])
async def test_data_received_before_the_end_can_be_read_later(
    make_server: MakeServer, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    caplog.set_level(logging.INFO, "broadcast")
    server = await make_server(tls=server_context(), notices=False)
    async with tls_client(server, "a") as a, tls_client(server, "b") as b:
        await a.send_lines(b"%b\n" % (b"x" * 99) * 2400)
        await a.send("\\clients")
        assert await anext(a) == Notice("2 clients")
        if how == "leaves":
            await b.leave()
        else:
            closing = asyncio.create_task(server.close())
        await until(lambda: "b out: " in caplog.text)
        assert len([incoming async for incoming in b if isinstance(incoming, Message)]) == 2400
    if how == "is sent away":
        await closing


async def test_leaver_that_pauses_reading_receives_everything_over_tls(
    tls_server: BroadcastServer, connect: Connect
) -> None:
    async with tls_client(tls_server, "a") as a:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", tls_server.port, ssl=client_context(), server_hostname="localhost"
        )
        writer.write(b"CONNECT b\n")
        assert await reader.readline() == b"SUCCESS\r\n"
        cast(asyncio.Transport, writer.transport).pause_reading()
        await a.send_lines(b"%b\n" % (b"x" * 98) * 4000)
        await a.send("\\clients")
        assert await anext(a) == Notice("2 clients")
        writer.write(b"\\exit\n")
        await until(lambda: connections(tls_server) <= 1)
        cast(asyncio.Transport, writer.transport).resume_reading()
        assert len(await reader.read(-1)) == 4000 * len("a: " + "x" * 98 + "\r\n")
        writer.close()


async def test_stream_at_full_speed_arrives_complete_over_tls(tls_server: BroadcastServer) -> None:
    async with tls_client(tls_server, "a") as a, tls_client(tls_server, "b") as b:

        async def send() -> None:
            for _ in range(50):
                await a.send_lines(
                    b"".join(b"%05d %s\n" % (number, b"x" * 100) for number in range(1000))
                )

        sending = asyncio.create_task(send())
        for expected in range(50_000):
            message = await anext(b)
            assert isinstance(message, Message) and int(message.text[:5]) == expected % 1000
        await sending


async def test_stalled_tls_reader_is_dropped_and_the_others_miss_nothing(
    tls_server: BroadcastServer,
) -> None:
    async with tls_client(tls_server, "a") as a, tls_client(tls_server, "b") as b:
        stalled = tls_client(tls_server, "stalled")
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
        assert tls_server.statistics()["dropped"] == 1
        await until(lambda: connections(tls_server) <= 2)
        with pytest.raises(ConnectionLostError):
            async for _ in stalled:
                pass
        await stalled.close(0)


async def test_shutdown_is_announced_over_tls(make_server: MakeServer) -> None:
    server = await make_server(tls=server_context())
    async with tls_client(server, "a") as a:
        closing = asyncio.create_task(server.close())
        assert [incoming async for incoming in a] == [Notice("server is shutting down")]
    async with asyncio.timeout(2):
        await closing


async def test_plain_client_on_a_tls_port_is_told_what_may_be_wrong(
    tls_server: BroadcastServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "broadcast")
    with pytest.raises(TLSMismatchError, match=r"uses TLS; connect with --tls$"):
        await BroadcastClient(port=tls_server.port).connect()
    await until(lambda: "refused: TLS failed: not TLS: a plain connection" in caplog.text)


async def test_plain_client_on_a_tls_port_receives_an_alert_and_no_text(
    tls_server: BroadcastServer, connect: Connect
) -> None:
    peer = await connect(tls_server)
    peer.send("a\n")
    async with asyncio.timeout(0.4):  # before the handshake times out
        assert await peer.reader.read() == b"\x15\x03\x01\x00\x02\x02\x46"


async def test_server_that_closes_without_an_answer_is_worth_another_attempt(
    fake_server: FakeServer,
) -> None:
    connecting = asyncio.create_task(BroadcastClient(port=int(fake_server.port)).connect())
    await asyncio.to_thread(fake_server.accept)
    fake_server.disconnect()
    with pytest.raises(ConnectError, match=r"without an answer; does it want --tls\?$") as raised:
        await connecting
    assert not isinstance(raised.value, TLSMismatchError)


async def test_tls_client_on_a_plain_port_fails_clearly(
    server: BroadcastServer, connect: Connect
) -> None:
    with pytest.raises(TLSMismatchError, match="does not use TLS; connect without --tls$"):
        await tls_client(server, "a").connect()
    peer = await connect(server)
    peer.send(b"\x16\x03\x01\x02\x00\x01")
    assert await peer.read_to_end() == ["ERROR this server does not use TLS: connect without it"]


async def test_untrusted_or_mismatched_certificate_is_refused(
    tls_server: BroadcastServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TLSMismatchError, match="certificate is not trusted.*--tls-ca$"):
        await BroadcastClient(port=tls_server.port, tls=ssl.create_default_context()).connect()
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", tls_server.port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with pytest.raises(TLSMismatchError, match="certificate is not trusted.*mismatch.*--host"):
        await BroadcastClient("elsewhere.invalid", tls_server.port, tls=client_context()).connect()


# What OpenSSL calls it depends on its version.
TOO_LONG_RECORD = (
    "packet length too long" if ssl.OPENSSL_VERSION_INFO < (3, 2) else "record layer failure"
)

LARGEST_RECORD = 16_384
"""Bytes of data in a TLS record."""


class RawTLS:
    """A TLS client over memory buffers, for what a well-behaved client never does."""

    def __init__(self, peer: Peer, context: ssl.SSLContext | None = None) -> None:
        self.peer = peer
        self.arriving, self.leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = (context or client_context()).wrap_bio(
            self.arriving, self.leaving, server_hostname="localhost"
        )

    def begin(self) -> bytes:
        """Return the ClientHello."""
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self.leaving.read()

    async def shake_hands(self) -> None:
        self.peer.send(await self.begin_handshake())

    async def begin_handshake(self) -> bytes:
        """Perform the handshake up to our last part of it, and return that."""
        self.peer.send(self.begin())
        while True:
            self.arriving.write(await self.peer.reader.read(100_000))
            with contextlib.suppress(ssl.SSLWantReadError):
                self.tls.do_handshake()
                return self.leaving.read()
            self.peer.send(self.leaving.read())

    def end(self) -> bytes:
        """Return the close_notify."""
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self.leaving.read()

    def encrypt(self, plaintext: bytes) -> bytes:
        self.tls.write(plaintext)
        return self.leaving.read()

    async def read(self) -> bytes:
        """Return the next data, or nothing at the end."""
        while True:
            try:
                return self.tls.read(100_000)
            except ssl.SSLWantReadError:
                if not (data := await self.peer.reader.read(100_000)):
                    raise EOFError from None
                self.arriving.write(data)


async def test_tls_stream_may_be_split_at_every_byte(
    tls_server: BroadcastServer, connect: Connect
) -> None:
    async with tls_client(tls_server, "listener") as listener:
        raw = RawTLS(await connect(tls_server))
        await raw.shake_hands()
        for byte in raw.encrypt(b"CONNECT hasty\n") + raw.encrypt(b"one\n") + raw.encrypt(b"two\n"):
            raw.peer.send(bytes([byte]))
            await asyncio.sleep(0)
        assert [str(await anext(listener)) for _ in range(2)] == ["hasty: one", "hasty: two"]


async def test_close_notify_ends_only_one_direction(
    tls_server: BroadcastServer, connect: Connect
) -> None:
    async with tls_client(tls_server, "a") as a:
        raw = RawTLS(await connect(tls_server))
        await raw.shake_hands()
        raw.peer.send(raw.encrypt(b"CONNECT b\nlast words\n"))
        assert await raw.read() == b"SUCCESS\r\n"
        assert str(await anext(a)) == "b: last words"
        await a.send("hello")
        raw.peer.send(raw.end())
        received = b""
        with pytest.raises((ssl.SSLError, EOFError)):
            while data := await raw.read():
                received += data
            raise EOFError
        assert received == b"a: hello\r\n"


async def test_client_that_has_sent_its_close_notify_is_told_why_it_is_refused(
    tls_server: BroadcastServer, connect: Connect
) -> None:
    raw = RawTLS(await connect(tls_server))
    await raw.shake_hands()
    raw.peer.send(raw.encrypt(b"hello\n") + raw.end())
    assert (await raw.read()).startswith(b"ERROR expected CONNECT")


async def test_lines_that_arrive_together_with_the_close_notify_are_handled(
    tls_server: BroadcastServer, connect: Connect
) -> None:
    async with tls_client(tls_server, "a") as a:
        raw = RawTLS(await connect(tls_server))
        last_part = await raw.begin_handshake()
        raw.peer.send(last_part + raw.encrypt(b"CONNECT b\nlast words\n") + raw.end())
        assert await anext(a) == Message("b", "last words")


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"hello\n", "not TLS: a plain connection"),
        (b"CONNECT bob\n", "not TLS: a plain connection"),
        (b"\xff", "not TLS: a plain connection"),
        (b"\x16\x03\x01\x00\x05hello", "the client violated TLS (unexpected message)"),
        (b"\x16\x03\x01\xff\xff" + bytes(100), f"the client violated TLS ({TOO_LONG_RECORD})"),
    ],
)
async def test_garbage_instead_of_a_tls_handshake_is_refused_with_a_reason(
    tls_server: BroadcastServer,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
    sent: bytes,
    reason: str,
) -> None:
    caplog.set_level(logging.INFO, "broadcast")
    peer = await connect(tls_server)
    peer.send(sent)
    await until(lambda: f"refused: TLS failed: {reason}\n" in caplog.text)


def outdated_context() -> ssl.SSLContext:
    context = client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")  # the server's key is not RSA
    return context


@pytest.mark.parametrize(
    ("context", "reason"),
    [
        (ssl.create_default_context(), "the client does not trust our certificate"),
        (
            outdated_context(),
            "the client offers no version or cipher that we accept (no shared cipher)",
        ),
    ],
)
async def test_failed_tls_handshake_is_logged_with_what_the_client_did(
    tls_server: BroadcastServer,
    caplog: pytest.LogCaptureFixture,
    context: ssl.SSLContext,
    reason: str,
) -> None:
    caplog.set_level(logging.INFO, "broadcast")
    with pytest.raises(TLSMismatchError):
        await BroadcastClient(port=tls_server.port, tls=context).connect()
    await until(lambda: f"refused: TLS failed: {reason}\n" in caplog.text)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_client_that_goes_away_in_the_tls_handshake_is_logged_as_such(
    tls_server: BroadcastServer, connect: Connect, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    caplog.set_level(logging.INFO, "broadcast")
    peer = await connect(tls_server)
    peer.send(b"\x16\x03")
    peer.writer.close() if how == "close" else peer.reset()
    reason = "refused: TLS failed: the client closed the connection\n"
    await until(lambda: reason in caplog.text)


async def test_alert_of_the_client_in_the_tls_handshake_is_logged(
    tls_server: BroadcastServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "broadcast")
    raw = RawTLS(await connect(tls_server))
    raw.peer.send(raw.begin() + b"\x15\x03\x03\x00\x02\x02\x50")
    reason = "refused: TLS failed: the client gave up: internal error\n"
    await until(lambda: reason in caplog.text)


async def test_garbage_during_a_tls_session_ends_it_after_the_lines_before(
    tls_server: BroadcastServer, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "broadcast")
    async with tls_client(tls_server, "a") as a:
        raw = RawTLS(await connect(tls_server))
        await raw.shake_hands()
        raw.peer.send(raw.encrypt(b"CONNECT b\nlast words\n") + b"\x17\x03\x03\x00\x20" + bytes(32))
        assert str(await anext(a)) == "b: last words"
        await until(lambda: "b out: connection lost" in caplog.text)


async def test_tls_1_2_works(tls_server: BroadcastServer) -> None:
    context = client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with (
        BroadcastClient(port=tls_server.port, user="old", tls=context) as old,
        tls_client(tls_server, "new") as new,
    ):
        await old.send("hello")
        assert await anext(new) == Message("old", "hello")
        await new.send("hi")
        assert await anext(old) == Message("new", "hi")


async def test_truncated_tls_stream_raises() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"SUCCESS\r\nbob: hello\r\n")
        await writer.drain()
        await reader.readline()
        connected = writer.get_extra_info("socket")
        connected.shutdown(socket.SHUT_WR)  # without a close_notify
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context())
    client = BroadcastClient(port=server.sockets[0].getsockname()[1], tls=client_context())
    await client.connect()
    assert await anext(client) == Message("bob", "hello")
    await client.send("go on")
    with pytest.raises(ConnectionLostError):
        await anext(client)
    await client.close(0.1)
    server.close()


@pytest.mark.parametrize(
    "when", ["silent", "in the ClientHello", "in the handshake", "shaken hands", "joined"]
)
@pytest.mark.parametrize("how", ["reset", "close"])
async def test_tls_session_is_freed_without_the_garbage_collector(
    tls_server: BroadcastServer, connect: Connect, when: str, how: str
) -> None:
    before = [*alive(Session), *alive(TLSConnection)]
    raw = RawTLS(await connect(tls_server))
    if when == "in the ClientHello":
        raw.peer.send(raw.begin()[:50])
    elif when == "in the handshake":
        raw.peer.send(raw.begin())
        await raw.peer.reader.readexactly(100)
    elif when in ("shaken hands", "joined"):
        await raw.shake_hands()
    if when == "joined":
        raw.peer.send(raw.encrypt(b"CONNECT b\n"))
        assert await raw.read() == b"SUCCESS\r\n"

    def opened() -> list[TLSConnection]:
        return [c for c in alive(TLSConnection) if c not in before and hasattr(c, "transport")]

    await until(lambda: len(opened()) == 1, interval=0)
    left: list[weakref.ref[Any]] = [
        *(weakref.ref(one) for one in alive(Session) if one not in before),
        *(weakref.ref(one.transport) for one in opened()),
    ]
    assert len(left) == 2
    gc.collect()
    gc.disable()
    try:
        if how == "reset":
            raw.peer.reset()
        else:
            raw.peer.writer.close()
        await until(lambda: not any(ref() for ref in left))
    finally:
        gc.enable()


@pytest.mark.parametrize("sent", ["nothing", "part of the ClientHello", "the ClientHello"])
async def test_unfinished_tls_handshake_times_out_and_is_logged(
    tls_server: BroadcastServer, connect: Connect, caplog: pytest.LogCaptureFixture, sent: str
) -> None:
    caplog.set_level(logging.INFO, "broadcast")
    raw = RawTLS(await connect(tls_server))
    if sent != "nothing":
        hello = raw.begin()
        raw.peer.send(hello[:50] if sent.startswith("part") else hello)
    await raw.peer.reader.read()
    assert "refused: handshake timed out" in caplog.text


async def test_silence_after_the_tls_handshake_times_out_with_an_answer(
    tls_server: BroadcastServer, connect: Connect
) -> None:
    raw = RawTLS(await connect(tls_server))
    await raw.shake_hands()
    assert await raw.read() == b"ERROR handshake timed out\r\n"


async def test_largest_tls_records_arrive_whole(
    tls_server: BroadcastServer, connect: Connect
) -> None:
    async with tls_client(tls_server, "a") as a:
        raw = RawTLS(await connect(tls_server))
        await raw.shake_hands()
        raw.peer.send(raw.encrypt(b"CONNECT b\n"))
        lines = b"".join(b"%d" % number + b"x" * 60_000 + b"\n" for number in range(10))
        for start in range(0, len(lines), LARGEST_RECORD):
            record = raw.encrypt(lines[start : start + LARGEST_RECORD])
            assert len(record) > LARGEST_RECORD or start + LARGEST_RECORD > len(lines)
            raw.peer.send(record)
        assert [str(await anext(a)) for _ in range(10)] == [
            f"b: {line.decode()}" for line in lines.splitlines()
        ]


class OpenSSL:
    """Makes a client's TLS session do what the ssl module has no function for."""

    def __init__(self, raw: RawTLS) -> None:
        _ssl = pytest.importorskip("_ssl", reason="needs CPython")
        self._raw = raw
        self._library = ctypes.CDLL(getattr(_ssl, "__file__", None))
        if not hasattr(self._library, "SSL_key_update"):
            pytest.skip("OpenSSL cannot be called directly here")
        # CPython's object begins with its header and a weak reference to the socket.
        session = (
            id(cast(Any, raw.tls)._sslobj) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p)
        )
        self._session = ctypes.c_void_p(ctypes.c_void_p.from_address(session).value)

    def key_updates(self, count: int) -> bytes:
        """Return records that change our key, each of which demands the same of the peer."""
        for _ in range(count):
            assert self._library.SSL_key_update(self._session, 1) == 1
            assert self._library.SSL_do_handshake(self._session) == 1
        return self._raw.leaving.read()

    def renegotiation(self) -> bytes:
        """Return the record that demands another handshake, which TLS 1.2 allows."""
        assert self._library.SSL_renegotiate(self._session) == 1
        self._library.SSL_do_handshake(self._session)
        return self._raw.leaving.read()


@pytest.mark.parametrize("joined", [False, True])
async def test_key_update_flood_holds_little_memory_and_delays_nobody(
    make_server: MakeServer, connect: Connect, joined: bool
) -> None:
    tls_server = await make_server(tls=server_context(), notices=False)
    async with tls_client(tls_server, "a") as a, tls_client(tls_server, "b") as b:
        raw = RawTLS(await connect(tls_server, buffer=4096))
        await raw.shake_hands()
        if joined:
            raw.peer.send(raw.encrypt(b"CONNECT c\n"))
            assert await raw.read() == b"SUCCESS\r\n"
        await until(lambda: connections(tls_server) == 3)
        address = raw.peer.writer.get_extra_info("sockname")
        (flooded,) = (one for one in alive(TLSConnection) if one.peer == format_address(address))
        raw.peer.pause_reading()
        openssl = OpenSSL(raw)
        most = 0
        for number in range(60):
            raw.peer.send(openssl.key_updates(1000))
            await a.send(f"{number}")
            async with asyncio.timeout(0.5):
                assert await anext(b) == Message("a", f"{number}")
            most = max(most, flooded.unsent)
        assert 0 < most < 65_536


async def test_renegotiation_is_refused_however_often_it_is_demanded(
    program: StartProgram,
) -> None:
    server = program("main_server.py", "--port", "0", "--tls-cert", CERTIFICATE)
    context = client_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    for _ in range(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        raw = RawTLS(Peer(reader, writer), context)
        await raw.shake_hands()
        raw.peer.send(raw.encrypt(b"CONNECT b\n"))
        assert await raw.read() == b"SUCCESS\r\n"
        raw.peer.send(OpenSSL(raw).renegotiation())
        async with asyncio.timeout(5):
            with pytest.raises(ssl.SSLError, match="NO_RENEGOTIATION"):
                await raw.read()
        writer.close()


async def test_host_that_no_certificate_can_be_for_is_an_error(tls_server: BroadcastServer) -> None:
    with pytest.raises(TLSMismatchError, match="no certificate can be for the host ''"):
        await BroadcastClient("", tls_server.port, tls=client_context()).connect()
