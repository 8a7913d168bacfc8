"""Connections: reading, writing, closing gracefully or by a reset, connecting."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import ssl
import struct
import termios
import time
import tracemalloc
from asyncio.trsock import TransportSocket
from collections.abc import AsyncIterator, Callable
from typing import cast

import pytest
from helpers import count_open_files, linux_only, until
from sockets import reset_on_close

from broadcast import ConnectError
from broadcast.net.connection import (
    READ_AHEAD_LIMIT,
    SMALLEST_READ,
    Connection,
)
from broadcast.net.dial import connect
from broadcast.net.tls import PIECE_SIZE, REPLY_LIMIT, TLSConnection


@contextlib.asynccontextmanager
async def pair(
    buffer: int | None = None, make: Callable[[], Connection] = Connection
) -> AsyncIterator[tuple[Connection, socket.socket]]:
    """Yield one of our connections and the plain socket at its other end."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = socket.socket()
        if buffer:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        theirs.connect(listening.getsockname())
        ours, _ = listening.accept()
    with theirs:
        _, connection = await asyncio.get_running_loop().create_connection(make, sock=ours)
        yield connection, theirs
        connection.reset()
        await asyncio.sleep(0)


def reset(connected: socket.socket) -> None:
    reset_on_close(connected)
    connected.close()


def socket_of(connection: Connection) -> socket.socket:
    return cast(socket.socket, connection.transport.get_extra_info("socket"))


def queued(connected: socket.socket, which: int) -> int:
    """Return how many bytes the kernel holds: unacknowledged (TIOCOUTQ) or unread (FIONREAD)."""
    (count,) = struct.unpack("i", fcntl.ioctl(connected.fileno(), which, b"\0\0\0\0"))
    return int(count)


async def read_all(connection: Connection) -> bytes:
    data = b""
    while chunk := await connection.read_chunk():
        data += chunk
    return data


async def receive(theirs: socket.socket) -> bytes:
    """Return what the other end receives up to the end of the stream."""

    def work() -> bytes:
        theirs.settimeout(10)
        data = b""
        while chunk := theirs.recv(65_536):
            data += chunk
        return data

    return await asyncio.get_running_loop().run_in_executor(None, work)


class TestReading:
    async def test_connection_closed_gracefully_is_not_lost(self) -> None:
        async with pair() as (connection, theirs):
            theirs.sendall(b"data")
            theirs.close()
            assert await read_all(connection) == b"data"
            assert connection.lost is None

    async def test_read_ahead_is_bounded(self) -> None:
        async with pair() as (connection, theirs):
            theirs.setblocking(False)
            data, sent, read = bytes(range(256)) * 8000, 0, b""
            while len(read) < len(data):
                with contextlib.suppress(BlockingIOError):
                    sent += theirs.send(data[sent:])
                for _ in range(5):
                    await asyncio.sleep(0)
                chunk = await connection.read_chunk()
                assert 0 < len(chunk) <= READ_AHEAD_LIMIT
                read += chunk
            assert read == data

    async def test_reset_hides_nothing_that_the_event_loop_has_read(self) -> None:
        async with pair() as (connection, theirs):
            theirs.sendall(b"x" * 5000)
            await asyncio.sleep(0.05)
            reset(theirs)
            await asyncio.sleep(0.05)
            assert await read_all(connection) == b"x" * 5000
            assert isinstance(connection.lost, ConnectionResetError)

    @linux_only("counts open files in /proc, and unacknowledged bytes")
    async def test_reset_found_by_a_write_hides_nothing_that_is_in_the_kernel(
        self,
    ) -> None:
        before = count_open_files()
        async with pair() as (connection, theirs):
            data = bytes(range(256)) * 200
            connection.transport.pause_reading()  # as asyncio does when its buffer is full
            theirs.sendall(data)
            await until(lambda: not queued(theirs, termios.TIOCOUTQ), interval=0)
            assert queued(socket_of(connection), termios.FIONREAD) == len(data)
            reset(theirs)
            for _ in range(3):
                connection.send(b"y")
                await asyncio.sleep(0.01)
            assert connection.is_closing
            assert await read_all(connection) == data
        await asyncio.sleep(0.01)
        assert count_open_files() == before

    async def test_nothing_is_read_while_reading_is_paused(self) -> None:
        async with pair() as (connection, theirs):
            theirs.setblocking(False)
            theirs.send(b"first")
            assert await connection.read_chunk() == b"first"
            connection.pause_reading()
            theirs.send(b"second")
            for _ in range(10):
                await asyncio.sleep(0.001)
            assert queued(socket_of(connection), termios.FIONREAD) == len(b"second")
            assert await connection.read_chunk() == b"second"

    async def test_read_ahead_is_reduced_by_what_the_reader_holds(self) -> None:
        async with pair() as (connection, theirs):
            theirs.setblocking(False)
            theirs.send(bytes(100_000))
            connection.limit_read_ahead(READ_AHEAD_LIMIT - 10_000)
            assert len(await connection.read_chunk()) <= 10_000
            connection.limit_read_ahead(2 * READ_AHEAD_LIMIT)
            assert 0 < len(await connection.read_chunk()) <= SMALLEST_READ


async def test_tls_with_a_peer_that_has_gone_fails_at_once() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    async with pair(make=lambda: TLSConnection(context)) as (connection, theirs):
        reset(theirs)
        while not connection.is_closing:
            await asyncio.sleep(0.001)
        async with asyncio.timeout(5):
            with pytest.raises(ConnectionResetError):
                await connection.do_handshake()


class DemandingPeer(TLSConnection):
    """A connection on which each piece of ciphertext demands a reply and has no data."""

    pieces = 0
    reply_size = PIECE_SIZE

    def __init__(self) -> None:
        super().__init__(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        self._established = True

    def _decrypt_piece(self, piece: memoryview) -> list[bytes]:
        DemandingPeer.pieces += 1
        self._outgoing.write(bytes(self.reply_size))
        return []


class TestTLSReplies:
    """Replies that TLS sends by itself, such as those to key updates, are bounded as well."""

    @pytest.fixture(autouse=True)
    def count_from_zero(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(DemandingPeer, "pieces", 0)

    async def test_peer_that_does_not_read_tls_replies_is_not_read_either(self) -> None:
        async with pair(4096, DemandingPeer) as (connection, theirs):
            connection.limit_send_buffer(4096)
            reading = asyncio.create_task(connection.read_chunk())
            theirs.setblocking(False)
            before = -1
            while before != DemandingPeer.pieces:
                before = DemandingPeer.pieces
                for _ in range(20):
                    with contextlib.suppress(BlockingIOError):
                        theirs.send(bytes(65_536))
                    await asyncio.sleep(0.001)
            assert connection.unsent <= REPLY_LIMIT + 2 * PIECE_SIZE
            theirs.setblocking(True)
            receiving = asyncio.create_task(receive(theirs))
            await until(lambda: DemandingPeer.pieces != before)
            connection.reset()
            await asyncio.gather(reading, receiving, return_exceptions=True)

    async def test_other_tasks_run_between_two_pieces_of_ciphertext(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(DemandingPeer, "reply_size", 0)
        monkeypatch.setattr("broadcast.net.tls.TIME_SLICE", 0)
        async with pair(make=DemandingPeer) as (connection, theirs):
            reading = asyncio.create_task(connection.read_chunk())
            theirs.sendall(bytes(10 * PIECE_SIZE))
            seen = []
            async with asyncio.timeout(5):
                while DemandingPeer.pieces < 10:
                    await asyncio.sleep(0)
                    seen.append(DemandingPeer.pieces)
            assert max(after - before for before, after in zip([0, *seen], seen, strict=False)) <= 1
            reading.cancel()


class SlowPeer(TLSConnection):
    """A connection on which data is complete only with the last piece of ciphertext."""

    def __init__(self) -> None:
        super().__init__(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        self._established = True
        self.pieces = b""

    def _decrypt_piece(self, piece: memoryview) -> list[bytes]:
        self.pieces += piece
        return [self.pieces] if self.pieces.endswith(b"end") else []


async def test_reset_hides_no_ciphertext_whose_time_slice_ran_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("broadcast.net.tls.TIME_SLICE", 0)
    async with pair(make=SlowPeer) as (connection, _):
        data = bytes(10 * PIECE_SIZE) + b"end"
        connection.data_received(data)
        connection.connection_lost(ConnectionResetError())
        assert await connection.read_chunk() == data
        assert await connection.read_chunk() == b""


class TestSending:
    async def test_send_returns_whether_everything_was_written(self) -> None:
        async with pair(buffer=4096) as (connection, theirs):
            assert connection.send(b"a")
            data = b"b" * 8_000_000
            assert not connection.send(data)
            receiving = asyncio.create_task(receive(theirs))
            await connection.drain()
            assert connection.send(b"c")
            connection.transport.write_eof()
            assert await receiving == b"a" + data + b"c"

    async def test_unsent_data_is_not_copied(self) -> None:
        async with pair(buffer=4096) as (connection, theirs):
            data = bytes(8_000_000)
            tracemalloc.start()
            assert not connection.send(data)
            assert tracemalloc.get_traced_memory()[1] < 50_000
            tracemalloc.stop()
            assert connection.unsent > 1_000_000
            connection.send(b"!")
            receiving = asyncio.create_task(receive(theirs))
            await connection.drain()
            connection.transport.write_eof()
            assert await receiving == data + b"!"

    async def test_callback_tells_when_nothing_is_left_to_write(self) -> None:
        for end in (receive, reset):
            async with pair(buffer=4096) as (connection, theirs):
                drained = asyncio.Event()
                connection.on_drained = drained.set
                connection.send(bytes(8_000_000))
                connection.send(b"!")
                assert connection.write_pending
                await asyncio.sleep(0.05)
                assert not drained.is_set()
                ending = end(theirs)
                receiving = asyncio.create_task(ending) if ending else None
                async with asyncio.timeout(5):
                    await drained.wait()
                assert not connection.write_pending
                assert connection.unsent == 0
                if receiving:
                    connection.transport.write_eof()
                    assert len(await receiving) == 8_000_001

    async def test_nothing_overtakes_pending_data(self) -> None:
        async with pair(buffer=4096) as (connection, theirs):
            data = b"a" * 8_000_000
            connection.send(data)
            received = bytearray()
            theirs.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:  # until the socket would accept more
                    received += theirs.recv(65_536)
            assert not connection.send(b"b")
            theirs.setblocking(True)
            receiving = asyncio.create_task(receive(theirs))
            await connection.drain()
            connection.transport.write_eof()
            assert received + await receiving == data + b"b"

    async def test_send_on_a_closing_connection_has_no_effect(self) -> None:
        async with pair() as (connection, theirs):
            connection.close()
            connection.send(b"late")
            assert await receive(theirs) == b""

    async def test_send_after_the_end_of_the_output_has_no_effect(self) -> None:
        async with pair() as (connection, theirs):
            ending = asyncio.create_task(connection.close_gracefully())
            assert await receive(theirs) == b""
            assert connection.send(b"late")
            theirs.close()
            await ending
            assert connection.lost is None

    async def test_reset_between_two_writes_hides_nothing_that_arrived(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with pair(buffer=4096) as (connection, theirs):
            connection.send(bytes(8_000_000))
            theirs.setblocking(False)
            write = os.write

            def reset_before_write(descriptor: int, data: bytes) -> int:
                if descriptor == socket_of(connection).fileno() and theirs.fileno() >= 0:
                    theirs.send(b"last words")
                    reset(theirs)
                return write(descriptor, data)

            monkeypatch.setattr("broadcast.net.connection.os.write", reset_before_write)
            async with asyncio.timeout(5):
                while theirs.fileno() >= 0:
                    with contextlib.suppress(BlockingIOError):
                        theirs.recv(65_536)
                    await asyncio.sleep(0)
                assert await read_all(connection) == b"last words"
            assert isinstance(connection.lost, ConnectionError)
            await asyncio.sleep(0)
            assert not caplog.records


class LongFarewell(Connection):
    """A connection whose close_notify is longer than what the system accepts at once."""

    def _send_close_notify(self) -> None:
        if self._accepts_output:
            self.transport.write(bytes(8_000_000))


class TestClosing:
    async def test_close_notify_that_is_pending_arrives_before_the_end_of_the_stream(self) -> None:
        async with pair(4096, LongFarewell) as (connection, theirs):
            ending = asyncio.create_task(connection.close_gracefully())
            await asyncio.sleep(0.05)
            assert connection.unsent > 1_000_000 and not connection.is_closing
            assert len(await receive(theirs)) == 8_000_000
            theirs.close()
            await ending
            assert connection.lost is None

    async def test_peer_that_does_not_read_the_close_notify_is_reset(self) -> None:
        async with pair(4096, LongFarewell) as (connection, theirs):
            await connection.close_gracefully(timeout=0.2)
            with pytest.raises(ConnectionResetError):
                await receive(theirs)

    async def test_pending_data_arrives_although_input_was_never_read(self) -> None:
        async with pair() as (connection, theirs):
            pending = b"x" * 3_000_000
            theirs.sendall(b"unread" * 10_000)
            connection.send(pending)
            receiving = asyncio.create_task(receive(theirs))
            ending = asyncio.create_task(connection.close_gracefully())
            assert await receiving == pending
            theirs.close()
            await ending

    async def test_graceful_close_waits_a_bounded_time_for_the_peer(self) -> None:
        async with pair() as (connection, _):
            began = time.monotonic()
            await connection.close_gracefully(timeout=0.2)
            assert 0.18 < time.monotonic() - began < 0.7

    async def test_peer_that_does_not_read_pending_data_is_reset(self) -> None:
        async with pair(buffer=4096) as (connection, theirs):
            connection.send(b"x" * 8_000_000)
            await connection.close_gracefully(timeout=0.2)
            with pytest.raises(ConnectionResetError):
                await receive(theirs)

    async def test_reset_after_a_graceful_close_has_no_effect(self) -> None:
        async with pair() as (connection, theirs):
            connection.send(b"pending")
            theirs.shutdown(socket.SHUT_WR)
            await connection.close_gracefully()
            connection.reset()
            assert await receive(theirs) == b"pending"

    async def test_drain_returns_when_everything_is_written_and_not_before(self) -> None:
        async with pair(buffer=4096) as (connection, theirs):
            connection.send(b"x" * 8_000_000)
            draining = asyncio.create_task(connection.drain())
            await asyncio.sleep(0.05)
            assert not draining.done()
            receiving = asyncio.create_task(receive(theirs))
            await draining
            assert connection.transport.get_write_buffer_size() == 0
            connection.transport.write_eof()
            assert len(await receiving) == 8_000_000

    async def test_drain_returns_when_the_connection_is_lost(self) -> None:
        async with pair(buffer=4096) as (connection, theirs):
            connection.send(b"x" * 8_000_000)
            draining = asyncio.create_task(connection.drain())
            await asyncio.sleep(0.05)
            reset(theirs)
            async with asyncio.timeout(5):
                await draining
            assert connection.is_closing
            connection.send(b"more")

    async def test_close_releases_the_socket_even_if_data_is_pending(self) -> None:
        async with pair(buffer=4096) as (connection, _theirs):
            connection.limit_send_buffer(4096)
            for _ in range(5):  # the system takes some more after a moment
                while not connection.write_pending:
                    connection.send(bytes(1000))
                await asyncio.sleep(0.05)
            draining = asyncio.create_task(connection.drain())
            await asyncio.sleep(0)
            await connection.aclose()
            async with asyncio.timeout(5):
                await draining
            assert socket_of(connection).fileno() == -1


class TestConnecting:
    async def test_connect_error_says_what_could_not_be_reached_and_why(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        with pytest.raises(
            ConnectError, match=rf"^can't reach 127\.0\.0\.1:{port}: Connection refused$"
        ):
            await connect("127.0.0.1", port, 5)
        with pytest.raises(ConnectError, match=r"^can't reach nowhere\.invalid:1: "):
            await connect("nowhere.invalid", 1, 5)
        with pytest.raises(ConnectError, match=r": not a host name$"):
            await connect("x" * 64 + ".invalid", 1, 5)

    @linux_only("127.0.0.2 is not reachable elsewhere")
    async def test_connect_tries_each_address(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
            found = [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))
                for host in ("127.0.0.2", "127.0.0.1")
            ]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
            connection = await connect("both", port, 5)
            connection.close()

    @linux_only("finds the addresses in /proc")
    async def test_connect_reaches_a_link_local_address(self) -> None:
        with open("/proc/net/if_inet6") as lines:
            local = [line.split() for line in lines if line.startswith("fe80")]
        if not local:
            pytest.skip("no interface has a link-local address")
        digits, interface = local[0][0], local[0][-1]
        host = ":".join(digits[start : start + 4] for start in range(0, 32, 4)) + f"%{interface}"
        with socket.socket(socket.AF_INET6) as listening:
            listening.bind(socket.getaddrinfo(host, 0)[0][4])
            listening.listen()
            connection = await connect(host, listening.getsockname()[1], 5)
            connection.close()

    @linux_only("has TCP_USER_TIMEOUT")
    async def test_keepalive_detects_a_vanished_peer_within_30_seconds(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            connection = await connect("127.0.0.1", listening.getsockname()[1], 5)
            connected = socket_of(connection)
            assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            idle, interval = (
                connected.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL)
            )
            limit = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert idle + interval + limit / 1000 <= 30
            connection.close()

    async def test_failing_socket_option_does_not_prevent_the_connection(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:  # as macOS does once the peer has reset the connection
            raise OSError(errno.EINVAL, "Invalid argument")

        monkeypatch.setattr(TransportSocket, "setsockopt", fail)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            connection = await connect("127.0.0.1", listening.getsockname()[1], 5)
            connection.close()

    async def test_slow_name_lookup_does_not_delay_the_timeout(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def look_up(*_: object, **__: object) -> list[object]:
            time.sleep(2)
            return []

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        began = time.monotonic()
        with pytest.raises(ConnectError, match="no answer within 0.1 s"):
            await connect("slow", 1, 0.1)
        await asyncio.get_running_loop().shutdown_default_executor()
        assert time.monotonic() - began < 1
