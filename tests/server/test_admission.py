"""Admission: the handshake and the token, over raw sockets."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest
from helpers import Connect, MakeServer

from broadcast import BroadcastServer
from broadcast.protocol.framing import LINE_LIMIT
from broadcast.protocol.handshake import HANDSHAKE_LIMIT


class TestHandshake:
    @pytest.mark.parametrize(
        "first",
        [
            "CONNECT",
            "CONNECT Attila",
            "CONNECT  Attila  ",
            "CONNECT Attila unasked-token",
            "\r\n \n\nCONNECT Attila",
        ],
    )
    @pytest.mark.parametrize("ending", ["\n", "\r\n"])
    async def test_success_is_a_line_of_its_own(
        self, server: BroadcastServer, connect: Connect, first: str, ending: str
    ) -> None:
        peer = await connect(server)
        peer.send(first + ending + "\\clients" + ending)
        assert await peer.line() == "SUCCESS"
        assert await peer.line() == "* 1 client"
        assert await peer.line() == (
            "* anonymous (you)" if first == "CONNECT" else "* Attila (you)"
        )

    @pytest.mark.parametrize(
        ("line", "answer"),
        [
            ("hello", "ERROR expected CONNECT <username>"),
            ("connect Attila", "ERROR expected CONNECT <username>"),
            ("CONNECT a b c", "ERROR expected CONNECT <username>"),
            ("\\exit", "ERROR expected CONNECT <username>"),
            ("CONNECT a:b", "ERROR bad username: it has a colon in it"),
            ("CONNECT " + "x" * 33, "ERROR bad username: longer than 32 characters"),
            ("CONNECT a\x00b", "ERROR bad username: it has characters in it that can't be shown"),
            ("x" * (LINE_LIMIT + 2), "ERROR expected CONNECT <username>"),
        ],
    )
    async def test_invalid_connect_line_is_refused_and_the_connection_closed(
        self, server: BroadcastServer, connect: Connect, line: str, answer: str
    ) -> None:
        peer = await connect(server)
        peer.send(f"{line}\r\n")
        assert await peer.read_to_end() == [answer]

    async def test_endless_first_line_is_refused_as_soon_as_it_is_too_long(
        self, server: BroadcastServer, connect: Connect
    ) -> None:
        peer = await connect(server)
        peer.send("x" * (LINE_LIMIT + 2))
        assert await peer.read_to_end() == ["ERROR expected CONNECT <username>"]

    @pytest.mark.parametrize("blank", [b"\n", b" \r\n", b"\t\n"])
    async def test_more_than_a_kilobyte_before_the_end_of_connect_is_refused(
        self, server: BroadcastServer, connect: Connect, blank: bytes
    ) -> None:
        peer = await connect(server)
        peer.send(blank * (HANDSHAKE_LIMIT // len(blank) + 1))
        assert await peer.read_to_end() == ["ERROR expected CONNECT <username>"]

    async def test_lines_after_connect_do_not_count_towards_its_limit(
        self, server: BroadcastServer, connect: Connect
    ) -> None:
        listener, peer = await connect(server, "listener"), await connect(server)
        connect_line = f"CONNECT a {'t' * (HANDSHAKE_LIMIT - len('CONNECT a ') - 1)}\n"
        assert len(connect_line) == HANDSHAKE_LIMIT
        peer.send(connect_line + "hello\n" * 10_000)
        assert await peer.line() == "SUCCESS"
        assert await listener.lines(10_000) == ["a: hello"] * 10_000

    async def test_first_line_is_cheap_to_handle_whatever_is_in_it(
        self, server: BroadcastServer, connect: Connect
    ) -> None:
        """Normalising combining marks in descending order takes quadratic time."""
        marks = "".join(chr(0x300 + number % 0x30) for number in range(30_000))
        began = time.monotonic()
        for _ in range(20):
            peer = await connect(server)
            peer.send(f"CONNECT {marks}\n")
            assert await peer.read_to_end() == ["ERROR expected CONNECT <username>"]
        assert time.monotonic() - began < 2

    async def test_client_that_closes_without_a_line_is_refused(
        self, server: BroadcastServer, connect: Connect
    ) -> None:
        peer = await connect(server)
        peer.writer.write_eof()
        assert await peer.read_to_end() == ["ERROR expected CONNECT <username>"]

    async def test_connect_may_be_the_last_line_and_have_no_ending(
        self, server: BroadcastServer, connect: Connect
    ) -> None:
        peer = await connect(server)
        peer.send("CONNECT Attila")
        peer.writer.write_eof()
        assert await peer.read_to_end() == ["SUCCESS"]

    async def test_incomplete_handshake_times_out(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server(handshake_timeout=0.1)
        peer = await connect(server)
        peer.send("CONN")
        assert await peer.read_to_end() == ["ERROR handshake timed out"]

    async def test_blank_lines_do_not_extend_the_handshake_timeout(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server(handshake_timeout=0.2)
        peer = await connect(server)

        async def dribble() -> None:
            while True:
                peer.send("\n")
                await asyncio.sleep(0.05)

        dribbling = asyncio.create_task(dribble())
        assert await peer.read_to_end() == ["ERROR handshake timed out"]
        dribbling.cancel()

    async def test_client_neither_sends_nor_receives_before_success(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server()
        outside, inside = await connect(server), await connect(server, "inside")
        inside.send("not for outside\n")
        await inside.synchronise()
        outside.send("hello\n")
        assert await outside.read_to_end() == ["ERROR expected CONNECT <username>"]
        assert await inside.synchronise() == []

    async def test_lines_that_arrive_with_connect_are_handled_after_it(
        self, server: BroadcastServer, connect: Connect
    ) -> None:
        listener, peer = await connect(server, "listener"), await connect(server)
        peer.send("CONNECT Attila\none\n\\clients\ntwo\n")
        assert await peer.lines(4) == ["SUCCESS", "* 2 clients", "* Attila (you)", "* listener"]
        assert await listener.lines(2) == ["Attila: one", "Attila: two"]

    async def test_stream_may_be_split_at_every_byte(
        self, server: BroadcastServer, connect: Connect
    ) -> None:
        listener = await connect(server, "listener")
        stream = "CONNECT Zoë\r\nhällo\r\n\\clients\n🙂\n".encode()
        for at in range(1, len(stream)):
            peer = await connect(server)
            peer.send(stream[:at])
            await asyncio.sleep(0)
            peer.send(stream[at:])
            assert await peer.lines(4) == ["SUCCESS", "* 2 clients", "* listener", "* Zoë (you)"]
            assert await listener.lines(2) == ["Zoë: hällo", "Zoë: 🙂"]
            peer.send("\\exit\n")
            await peer.read_to_end()


class TestToken:
    @pytest.mark.parametrize(
        "line",
        ["CONNECT", "CONNECT a", "CONNECT a wrong", "CONNECT a geheim2", "CONNECT a gehei\ufffd"],
    )
    async def test_wrong_or_missing_token_is_not_authorised(
        self, make_server: MakeServer, connect: Connect, caplog: pytest.LogCaptureFixture, line: str
    ) -> None:
        caplog.set_level(logging.INFO, "broadcast")
        server = await make_server(token="geheim", wrong_token_delay=0.01)
        peer = await connect(server)
        peer.send(f"{line}\n")
        assert await peer.read_to_end() == ["ERROR not authorised"]
        assert (
            "127.0.0.1" in caplog.text
            and "refused: not authorised" in caplog.text
            and "geheim" not in caplog.text
        )

    async def test_right_token_is_accepted(self, make_server: MakeServer, connect: Connect) -> None:
        server = await make_server(token="geheim-é")
        peer = await connect(server)
        peer.send("CONNECT a geheim-é\n")
        assert await peer.line() == "SUCCESS"

    async def test_wrong_token_is_answered_after_a_delay(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server(token="geheim", wrong_token_delay=0.3, notices=False)
        began = time.monotonic()
        guesser, right = await connect(server), await connect(server)
        guesser.send("CONNECT a wrong\n")
        right.send("CONNECT b geheim\n")
        assert await right.line() == "SUCCESS"
        assert time.monotonic() - began < 0.3
        assert server.statistics()["connections"] == 2
        assert await guesser.read_to_end() == ["ERROR not authorised"]
        assert time.monotonic() - began > 0.3
