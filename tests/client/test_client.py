"""BroadcastClient, with a real server in this process or one that a test plays."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from helpers import PATIENCE, Connect, MakeServer, connections, until
from sockets import reset_on_close

from broadcast import (
    BroadcastClient,
    BroadcastError,
    BroadcastServer,
    ConnectError,
    ConnectionLostError,
    Incoming,
    Message,
    Notice,
    Pong,
    RefusedError,
    ServerError,
    UsernameError,
)
from broadcast.client.heartbeat import Heartbeat
from broadcast.protocol.framing import LINE_LIMIT

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def fake_server(serve: Serve) -> AsyncIterator[int]:
    """Run a server that serves each connection by a function; yields its port."""
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def run() -> None:
            try:
                await serve(reader, writer)
            finally:
                writer.close()

        tasks.add(asyncio.create_task(run()))

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    yield listening.sockets[0].getsockname()[1]
    listening.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def next_of(client: BroadcastClient) -> Incoming:
    async with asyncio.timeout(PATIENCE):
        return await anext(client)


def client_of(server: BroadcastServer, user: str = "Attila") -> BroadcastClient:
    return BroadcastClient(port=server.port, user=user)


async def test_messages_notices_and_errors_have_different_types(make_server: MakeServer) -> None:
    server = await make_server()
    async with client_of(server) as attila:
        async with client_of(server, "bob") as bob:
            assert await next_of(attila) == Notice("bob joined")
            await bob.send("hello: you")
            message = await next_of(attila)
            assert isinstance(message, Message)
            assert (message.sender, message.text) == ("bob", "hello: you")
            await bob.send("\\foo")
            assert isinstance(await next_of(bob), ServerError)
        assert await next_of(attila) == Notice("bob left")


async def test_client_knows_the_name_it_was_given(server: BroadcastServer) -> None:
    async with client_of(server) as first, client_of(server) as second:
        assert await next_of(second) == Notice("Attila is taken: you are Attila-2")
        assert (first.user, second.user) == ("Attila", "Attila-2")


async def test_client_knows_its_name_as_soon_as_it_has_joined(server: BroadcastServer) -> None:
    async with client_of(server), client_of(server) as second:
        assert second.user == "Attila-2"


async def test_name_that_no_server_assigns_is_ignored() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SUCCESS\r\n* Attila is taken: you are " + b"x" * 100_000 + b"\r\n")

    async with fake_server(serve) as port, BroadcastClient(port=port, user="Attila") as client:
        assert isinstance(await next_of(client), Notice)
        assert client.user == "Attila"


@pytest.mark.parametrize("text", ["a\n", "a\nb", "\r", "a\r\nb"])
async def test_text_with_a_line_ending_is_an_error(server: BroadcastServer, text: str) -> None:
    async with client_of(server) as client:
        with pytest.raises(ValueError, match="one line"):
            await client.send(text)


async def test_client_reads_lines_of_three_times_the_limit_and_a_name(
    server: BroadcastServer,
) -> None:
    async with client_of(server) as client, client_of(server, "\U0001f600" * 32) as other:
        await other.send_lines(b"\xff" * LINE_LIMIT + b"\n")
        message = await next_of(client)
        assert message.text == "\ufffd" * LINE_LIMIT


async def test_received_lines_are_sanitized_and_an_unfinished_one_is_dropped() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(
            b"SUCCESS\nbob: \x1b]0;title\x07 \xff\r\n\r\n* \x9b2J\r\nplain\r\nbob: unfinis"
        )

    async with fake_server(serve) as port, BroadcastClient(port=port) as client:
        received = [incoming async for incoming in client]
    assert received == [
        Message("bob", "\ufffd]0;title\ufffd \ufffd"),
        Notice("\ufffd2J"),
        Notice("plain"),
    ]


async def test_endless_line_does_not_fill_the_memory() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SUCCESS\r\n")
        while True:
            writer.write(b"x" * 65_536)
            await writer.drain()

    async with fake_server(serve) as port:
        with pytest.raises(ConnectionLostError, match="longer than this protocol allows"):
            async with BroadcastClient(port=port) as client:
                await next_of(client)


async def test_iteration_ends_as_usual_if_another_task_closes_the_client() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SUCCESS\r\nbob: before\r\n")
        while await reader.readline() not in (b"\\exit\r\n", b""):
            pass
        writer.write(b"bob: after\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)

    received = []
    async with fake_server(serve) as port:
        client = BroadcastClient(port=port)
        await client.connect()

        async def iterate() -> None:
            async for incoming in client:
                received.append(incoming)

        iterating = asyncio.create_task(iterate())
        await until(lambda: bool(received))
        await client.close()
        await iterating
    assert received == [Message("bob", "before"), Message("bob", "after")]


async def test_lines_before_a_line_that_is_too_long_are_yielded_first() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        too_long = b"x" * (3 * LINE_LIMIT + 1_000)
        writer.write(b"SUCCESS\r\nbob: one\r\nbob: two\r\n" + too_long + b"\r\nbob: three\r\n")
        await reader.read()

    received = []
    async with fake_server(serve) as port, BroadcastClient(port=port, line_limit=100) as client:
        with pytest.raises(ConnectionLostError, match="longer than this protocol allows"):
            async for incoming in client:
                received.append(incoming)
        with pytest.raises(ConnectionLostError, match="longer than this protocol allows"):
            await client.receive()
    assert received == [Message("bob", "one"), Message("bob", "two")]


class TestConnecting:
    async def test_bad_username_raises_before_connecting(self) -> None:
        with pytest.raises(UsernameError, match="^bad username: it has a colon in it$"):
            BroadcastClient(user="a:b")

    async def test_refusal_has_the_reason_of_the_server(self) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(b"ERROR no room\r\n")

        async with fake_server(serve) as port:
            with pytest.raises(RefusedError, match=r"^127\.0\.0\.1:\d+ refuses: no room$"):
                await BroadcastClient(port=port).connect()

    async def test_server_with_another_protocol_is_refused(self) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 mail.example ESMTP\r\n")
            await reader.read()

        async with fake_server(serve) as port:
            with pytest.raises(RefusedError, match="does not speak this protocol"):
                await BroadcastClient(port=port).connect()

    @pytest.mark.parametrize("answer", [b"", b"SUCC"])
    async def test_server_that_closes_before_its_answer_is_whole_raises_connect_error(
        self, answer: bytes
    ) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(answer)

        async with fake_server(serve) as port:
            with pytest.raises(ConnectError, match="closed the connection without an answer"):
                await BroadcastClient(port=port).connect()

    async def test_server_that_never_answers_raises_connect_error(self) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()

        async with fake_server(serve) as port:
            with pytest.raises(ConnectError, match="does not answer"):
                await BroadcastClient(port=port, connect_timeout=0.1).connect()

    async def test_client_that_is_connected_cannot_connect_again(
        self, server: BroadcastServer
    ) -> None:
        async with client_of(server) as client:
            with pytest.raises(RuntimeError, match="connected already"):
                await client.connect()
            assert connections(server) == 1
        async with client:
            assert client.is_connected

    async def test_connect_and_close_wait_for_each_other(self, server: BroadcastServer) -> None:
        client = client_of(server)
        results = await asyncio.gather(client.connect(), client.connect(), return_exceptions=True)
        assert [type(result) for result in results] == [type(None), RuntimeError]
        await client.close()
        connecting = asyncio.create_task(client.connect())
        await asyncio.sleep(0)
        await client.close()
        await connecting
        assert not client.is_connected
        await until(lambda: connections(server) <= 0)

    async def test_close_ends_the_iteration_in_another_task(self, server: BroadcastServer) -> None:
        client = client_of(server)
        await client.connect()

        async def iterate() -> list[Incoming]:
            return [incoming async for incoming in client]

        iterating = asyncio.create_task(iterate())
        await asyncio.sleep(0)
        await client.close()
        assert await iterating == []

    async def test_every_error_is_a_broadcast_error(self) -> None:
        for error in (ConnectError, ConnectionLostError, RefusedError, UsernameError):
            assert issubclass(error, BroadcastError)

    async def test_sending_without_a_connection_raises(self) -> None:
        client = BroadcastClient()
        with pytest.raises(ConnectionLostError, match="^not connected to 127.0.0.1:8888$"):
            await client.send("x")
        await client.close()


class TestDisconnecting:
    async def test_iteration_ends_when_the_server_closes_gracefully(
        self, make_server: MakeServer
    ) -> None:
        server = await make_server()
        async with client_of(server) as client:
            closing = asyncio.create_task(server.close())
            assert [incoming async for incoming in client] == [Notice("server is shutting down")]
        await closing

    async def test_client_that_leaves_receives_what_was_sent_before(
        self, server: BroadcastServer
    ) -> None:
        async with client_of(server) as client, client_of(server, "bob") as bob:
            await bob.send("one")
            await asyncio.sleep(0.01)
            await client.leave()
            assert [incoming async for incoming in client] == [Message("bob", "one")]

    async def test_everything_sent_is_delivered_before_the_context_manager_exits(
        self, server: BroadcastServer, connect: Connect
    ) -> None:
        peer = await connect(server, "peer")
        for _ in range(20):
            async with client_of(server) as client:
                await client.send_lines(b"x\n" * 1000 + b"end\n")
            assert await peer.lines(1001) == ["Attila: x"] * 1000 + ["Attila: end"]

    async def test_reset_raises_after_all_that_had_arrived(self, server: BroadcastServer) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(
                b"SUCCESS\r\nbob: one\r\nERROR too slow: did not read what it was sent in time\r\n"
            )
            await reader.readline()
            await asyncio.sleep(0.05)
            reset_on_close(writer.get_extra_info("socket"))
            writer.transport.abort()

        async with fake_server(serve) as port:
            client = BroadcastClient(port=port)
            await client.connect()
            await client.send("never read")
            received = []
            with pytest.raises(ConnectionLostError, match="^lost the connection to"):
                async for incoming in client:
                    received.append(incoming)
            assert [type(incoming) for incoming in received] == [Message, ServerError]
            with pytest.raises(ConnectionLostError):
                await client.send("x")
            await client.close()

    async def test_closing_waits_a_bounded_time_for_the_server(self) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"SUCCESS\r\n")
            await asyncio.sleep(60)

        async with fake_server(serve) as port:
            client = BroadcastClient(port=port)
            await client.connect()
            began = time.monotonic()
            await client.close(0.1)
            assert time.monotonic() - began < 1
            with pytest.raises(RuntimeError, match="ours"):
                async with client:
                    began = time.monotonic()
                    raise RuntimeError("ours")
            assert time.monotonic() - began < 0.5


async def test_heartbeats_keep_a_silent_client_connected(make_server: MakeServer) -> None:
    server = await make_server(timeout=0.3, notices=False)
    async with BroadcastClient(port=server.port, heartbeat=0.05) as client:
        await asyncio.sleep(0.5)
        await client.send("\\clients")
        assert await next_of(client) == Notice("1 client")


async def test_heartbeats_end_quietly_with_the_connection(server: BroadcastServer) -> None:
    async with BroadcastClient(port=server.port, heartbeat=0.01) as client:
        (heart,) = (task for task in asyncio.all_tasks() if "keep_alive" in repr(task))
        closing = asyncio.create_task(server.close())
        assert [incoming async for incoming in client] == [Notice("server is shutting down")]
    await closing
    assert heart.done()
    assert heart.cancelled() or heart.exception() is None


@contextlib.asynccontextmanager
async def answered(answers: float, heartbeat: float) -> AsyncIterator[BroadcastClient]:
    """Connect a client to a server that answers this many pings, and nothing else."""
    left = answers

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        await reader.readline()
        writer.write(b"SUCCESS\r\n")
        while (line := (await reader.readline()).decode().rstrip()) not in ("", "\\exit"):
            if line.startswith("\\ping ") and left > 0:
                left -= 1
                writer.write(b"PONG %s\r\n" % line.removeprefix("\\ping ").encode())

    async with fake_server(serve) as port, BroadcastClient(port=port, heartbeat=heartbeat) as it:
        yield it


class TestHeartbeats:
    @pytest.mark.parametrize("answers", [1, 3])
    async def test_server_that_stops_answering_is_lost_after_two_heartbeats(
        self, answers: int
    ) -> None:
        async with answered(answers, heartbeat=0.1) as client:
            began = time.monotonic()
            why = rf"^lost the connection to {client.address} \(nothing received for 0.2 s\)$"
            with pytest.raises(ConnectionLostError, match=why):
                await next_of(client)
            assert 0.1 * (answers + 2) - 0.05 < time.monotonic() - began < 0.1 * answers + 1

    async def test_server_that_never_answers_is_never_given_up(self) -> None:
        async with answered(0, heartbeat=0.01) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await anext(client)
            assert client.is_connected

    async def test_silence_while_nobody_reads_is_not_counted(self) -> None:
        async with answered(math.inf, heartbeat=0.01) as client:
            reading = asyncio.create_task(client.receive())
            await until(lambda: client._require_stream()._heartbeats._server_answers)
            reading.cancel()
            await asyncio.sleep(0.2)
            assert client.is_connected

    async def test_server_that_has_many_lines_to_read_is_given_time_for_them(self) -> None:
        async with answered(1, heartbeat=0.05) as client:
            reading = asyncio.create_task(client.receive())
            await until(lambda: client._require_stream()._heartbeats._server_answers)
            await client.send_lines(b"x\n" * 100)
            await asyncio.sleep(0.5)
            assert not reading.done()
            reading.cancel()

    async def test_answers_to_own_pings_alone_are_yielded(self) -> None:
        async with answered(math.inf, heartbeat=0.01) as client:
            await client.send("\\ping mine")
            assert await next_of(client) == Pong("mine")
            receiving = asyncio.create_task(client.receive())
            await until(lambda: client._require_stream()._heartbeats._count > 3)
            assert not receiving.done(), "an empty list would be the end"
            await client.send("\\ping again")
            assert await receiving == [Pong("again")]

    async def test_heartbeat_is_short(self) -> None:
        assert len(Heartbeat().next_line()) < 16
