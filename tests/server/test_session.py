"""Sessions over raw sockets: names, messages, commands, timeouts, leaving."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Iterable

import pytest
from helpers import Connect, MakeServer, Peer, alive, connections, fanout_of, until

from broadcast import BroadcastServer
from broadcast.net.connection import READ_AHEAD_LIMIT, Connection
from broadcast.protocol.blocks import Block, parse
from broadcast.protocol.framing import LINE_LIMIT
from broadcast.protocol.messages import OUT_OF_SYNC
from broadcast.protocol.names import NAME_BYTES
from broadcast.server import dispatcher
from broadcast.server.batch import BATCH_SIZE
from broadcast.server.reasons import Interrupt, LeaveReason
from broadcast.server.registry import Registry
from broadcast.server.room import LocalRoom, Member
from broadcast.server.session import FAST_PATH_LIMIT, Session

TOO_LONG = f"ERROR line too long (at most {LINE_LIMIT} bytes)"


class TestNames:
    async def test_client_with_a_taken_name_is_given_a_number_and_notified(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server()
        first, second, third = (
            await connect(server, "Attila"),
            await connect(server, "ATTILA"),
            await connect(server, "Attila"),
        )
        assert await first.lines(2) == ["* ATTILA-2 joined", "* Attila-3 joined"]
        assert await second.line() == "* ATTILA is taken: you are ATTILA-2"
        assert await third.line() == "* Attila is taken: you are Attila-3"

    async def test_fifty_clients_that_join_at_once_get_fifty_names(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server()
        peers = await asyncio.gather(*(connect(server, "same") for _ in range(50)))
        given = [
            line.rpartition(" ")[2] for peer in peers for line in (await peer.synchronise())[:1]
        ]
        numbers = sorted(
            int(name.partition("-")[2] or 1) for name in given if name.startswith("same-")
        )
        assert numbers == list(range(2, 51))

    async def test_name_is_free_after_its_client_left(
        self, server: BroadcastServer, connect: Connect
    ) -> None:
        first = await connect(server, "Attila")
        first.send("\\exit\n")
        await first.read_to_end()
        second = await connect(server, "Attila")
        second.send("\\clients\n")
        assert await second.lines(2) == ["* 1 client", "* Attila (you)"]


class TestMessages:
    async def test_message_reaches_everyone_but_its_sender(
        self, server: BroadcastServer, connect: Connect
    ) -> None:
        a, b, c = [await connect(server, name) for name in "abc"]
        a.send("hello\n")
        b.send(" hi: you \r\n")
        assert sorted(await c.lines(2)) == ["a: hello", "b:  hi: you"]
        assert await a.line() == "b:  hi: you"
        assert await b.line() == "a: hello"
        assert await a.synchronise() == await b.synchronise() == await c.synchronise() == []

    async def test_message_is_sanitized_before_it_is_sent(
        self, server: BroadcastServer, connect: Connect
    ) -> None:
        a, b = await connect(server, "a"), await connect(server, "b")
        a.send(b"\x1b[2J\xff\x00\r\r\n" + "\u202eabc\u2028def\x9b\n".encode())
        assert await b.lines(2) == ["a: \ufffd[2J\ufffd\ufffd\ufffd", "a: \ufffdabc\ufffddef\ufffd"]

    async def test_blank_lines_are_ignored(self, server: BroadcastServer, connect: Connect) -> None:
        a, b = await connect(server, "a"), await connect(server, "b")
        a.send("\n\r\n   \n\t\r\nend\n")
        assert await b.line() == "a: end"

    async def test_line_may_grow_threefold_when_sanitized(
        self, server: BroadcastServer, connect: Connect
    ) -> None:
        a, b = await connect(server, "a"), await connect(server, "b")
        a.send(b"\xff" * LINE_LIMIT + b"\r\n")
        assert await b.line() == "a: " + "\ufffd" * LINE_LIMIT

    async def test_oversized_line_is_answered_immediately_and_skipped(
        self, server: BroadcastServer, connect: Connect
    ) -> None:
        a, b = await connect(server, "a"), await connect(server, "b")
        a.send(b"before\n" + b"x" * LINE_LIMIT + b"\nshort\n" + b"y" * (LINE_LIMIT + 2))
        assert await a.line() == TOO_LONG
        a.send(b"y" * 5_000_000 + b"\nafter\n")
        assert await b.lines(4) == ["a: before", "a: " + "x" * LINE_LIMIT, "a: short", "a: after"]
        assert await a.synchronise() == []

    async def test_line_limit_is_an_argument_of_the_server(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server(line_limit=40)
        a = await connect(server, "a")
        a.send("x" * 40 + "\n" + "y" * 41 + "\n")
        assert await a.synchronise() == ["ERROR line too long (at most 40 bytes)"]


class TestFastPath:
    """A short chunk is handled in the iteration in which it arrives, but overtakes nothing."""

    async def test_short_chunk_does_not_overtake_the_long_one_before_it(
        self, server: BroadcastServer, connect: Connect
    ) -> None:
        a, b = await connect(server, "a"), await connect(server, "b")
        texts = [f"{number:07}" for number in range(READ_AHEAD_LIMIT // 8 + 10)]
        a.send("\n".join(texts) + "\n")
        assert await b.lines(len(texts)) == [f"a: {text}" for text in texts]

    async def test_short_chunk_does_not_overtake_earlier_lines_of_its_sender(
        self, server: BroadcastServer, connect: Connect
    ) -> None:
        a, b = await connect(server, "a"), await connect(server, "b")
        a.send("\\help\n" * 500 + "first\n")  # each answer takes an iteration
        await until(lambda: server.statistics()["lines in"] >= 501, interval=0)
        a.send("second\n")
        assert await b.lines(2) == ["a: first", "a: second"]

    async def test_short_chunk_waits_while_input_is_paused(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server(backlog=200_000, notices=False)
        stalled, sender, other = (
            await connect(server, "stalled", buffer=4096),
            await connect(server, "s"),
            await connect(server, "o"),
        )
        stalled.pause_reading()
        sender.send(f"{'x' * 100}\n" * 40_000)
        await until(lambda: not fanout_of(server).gate.is_open, interval=0)
        before = server.statistics()
        other.send("waits\n")
        expected = before["bytes in"] + len("waits\n")
        await until(lambda: server.statistics()["bytes in"] >= expected, interval=0)
        for _ in range(3):
            await asyncio.sleep(0)
        assert server.statistics()["deliveries"] == before["deliveries"]

    @pytest.mark.parametrize(
        "texts",
        [
            b"x\n" * (FAST_PATH_LIMIT // 2),
            b"\xff\n" * (FAST_PATH_LIMIT // 2),
            b"\xff" * (FAST_PATH_LIMIT - 1) + b"\n",
        ],
    )
    def test_short_chunk_fits_into_one_batch(self, texts: bytes) -> None:
        """Input cannot be paused between two blocks of a short chunk."""
        _, blocks = parse(texts, b"n" * NAME_BYTES)
        assert sum(len(block.data) for block in blocks if isinstance(block, Block)) <= BATCH_SIZE

    async def test_short_chunk_is_ignored_once_its_sender_has_left(
        self, server: BroadcastServer, connect: Connect
    ) -> None:
        stays, leaves = await connect(server, "stays"), await connect(server, "leaves")
        leaves.send("\\exit\n")
        assert await leaves.reader.read() == b""
        leaves.send("late\n")
        await leaves.writer.drain()
        leaves.writer.write_eof()
        await until(lambda: connections(server) <= 1, interval=0)
        assert await stays.synchronise() == []


class TestCommands:
    async def test_command_is_answered_only_to_its_sender(
        self, server: BroadcastServer, connect: Connect
    ) -> None:
        a, b = await connect(server, "a"), await connect(server, "B")
        a.send("\\CLIENTS all\n\\\\clients\n\\ping\n\\\\PING\n")
        assert await a.synchronise() == ["* 2 clients", "* a (you)", "* B"] * 2
        assert await b.synchronise() == []

    @pytest.mark.parametrize("alone", [True, False])
    async def test_ping_with_a_word_is_answered_to_its_sender_and_a_bare_one_is_not(
        self, server: BroadcastServer, connect: Connect, alone: bool
    ) -> None:
        a, b = await connect(server, "a"), await connect(server, "b")
        await a.synchronise()
        for ping in ("\\ping\n", "\\ping one\n", "\\\\PING two\r\n", "\\ping three four\n"):
            a.send(ping)
            if alone:  # otherwise they arrive together
                await asyncio.sleep(0.01)
        assert await a.synchronise() == ["PONG one", "PONG two"]
        assert await b.synchronise() == []

    async def test_client_that_pings_and_never_reads_only_blocks_itself(
        self, server: BroadcastServer, connect: Connect
    ) -> None:
        a, b = await connect(server, "a", buffer=4096), await connect(server, "b")
        a.pause_reading()
        (connection,) = (one for one in alive(Connection) if one.peer == a.address)
        most = 0
        for _ in range(40_000):
            a.send(f"\\ping {'x' * 60}\n")
            await asyncio.sleep(0)
            most = max(most, connection.unsent)
        assert 0 < most < 10_000
        b.send("\\ping here\n")
        assert await b.line() == "PONG here"

    async def test_clients_are_listed_as_they_come_and_go(
        self, server: BroadcastServer, connect: Connect
    ) -> None:
        a, b = await connect(server, "a"), await connect(server, "b")

        async def listed(peer: Peer) -> list[str]:
            peer.send("\\clients\n")
            return await peer.synchronise()

        assert await listed(a) == ["* 2 clients", "* a (you)", "* b"]
        assert await listed(b) == ["* 2 clients", "* a", "* b (you)"]
        c = await connect(server, "Aa")
        assert await listed(a) == ["* 3 clients", "* a (you)", "* Aa", "* b"]
        c.send("\\exit\n")
        await c.read_to_end()
        assert await listed(b) == ["* 2 clients", "* a", "* b (you)"]

    async def test_unknown_command_is_answered_with_an_error(
        self, server: BroadcastServer, connect: Connect
    ) -> None:
        a = await connect(server, "a")
        a.send("\\\\Foo bar\n")
        hint = "try \\help, or begin the line with a space to send it as text"
        assert await a.line() == f"ERROR unknown command \\\\Foo: {hint}"

    async def test_help_lists_every_command(
        self, server: BroadcastServer, connect: Connect
    ) -> None:
        a = await connect(server, "a")
        a.send("\\help\n")
        assert [line.split(":")[0] for line in await a.lines(4)] == [
            "* \\exit",
            "* \\clients",
            "* \\ping",
            "* \\help",
        ]

    async def test_client_that_asks_and_never_reads_only_blocks_itself(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server()
        asker = await connect(server, "asker", buffer=4096)
        asker.pause_reading()
        asker.send("\\help\n" * 200_000)
        a, b = await connect(server, "a"), await connect(server, "b")
        await a.line()
        for _ in range(50):
            a.send("ping\n")
            assert await b.line() == "a: ping"
        asker.reset()

    async def test_answer_ends_when_its_client_is_interrupted(
        self, server: BroadcastServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = 0

        def answer(*_arguments: object) -> Iterable[bytes]:
            nonlocal made
            for _ in range(10):
                made += 1
                if made == 2:
                    (session,) = alive(Session)
                    session.interrupt(LeaveReason.TOO_SLOW)
                yield b"page\r\n"

        monkeypatch.setattr(dispatcher, "answer", answer)
        asker = await connect(server, "asker")
        asker.send("\\clients\n")
        await asker.read_to_end()
        assert made <= 3

    async def test_many_long_answers_do_not_delay_the_messages_of_others(
        self, server: BroadcastServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        askers = [await connect(server, "asker") for _ in range(20)]
        a, b = await connect(server, "a"), await connect(server, "b")
        answered = 0
        answer = dispatcher.answer

        def count(line: str, name: str, roster: Registry) -> Iterable[bytes]:
            nonlocal answered
            answered += 1
            return answer(line, name, roster)

        monkeypatch.setattr(dispatcher, "answer", count)
        for asker in askers:
            asker.send("\\clients\n" * 200)
        a.send("hello\n")
        assert await b.line() == "a: hello"
        assert 20 <= answered <= 20 * 20


class TestLeaving:
    @pytest.mark.parametrize(
        "command", ["\\exit\n", "\\\\EXIT\r\n", "\\exit and the rest is ignored\n"]
    )
    async def test_exit_takes_effect_after_the_lines_before_it(
        self, make_server: MakeServer, connect: Connect, command: str
    ) -> None:
        server = await make_server()
        stays, leaves = await connect(server, "stays"), await connect(server, "leaves")
        leaves.send("one\ntwo\n" + command + "three\n")
        assert await leaves.read_to_end() == []
        assert await stays.lines(4) == [
            "* leaves joined",
            "leaves: one",
            "leaves: two",
            "* leaves left",
        ]
        assert await stays.synchronise() == []

    async def test_last_line_before_a_half_close_needs_no_ending(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server()
        stays, leaves = await connect(server, "stays"), await connect(server, "leaves")
        leaves.send("one\ntwo")
        leaves.writer.write_eof()
        assert await leaves.read_to_end() == []
        assert await stays.lines(4) == [
            "* leaves joined",
            "leaves: one",
            "leaves: two",
            "* leaves left",
        ]

    async def test_reset_is_a_lost_connection_and_hides_nothing_that_had_arrived(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server()
        stays, leaves = await connect(server, "stays"), await connect(server, "leaves")
        leaves.send("".join(f"{number}\n" for number in range(1000)) + "cut o")
        await leaves.writer.drain()
        leaves.reset()
        assert await stays.line() == "* leaves joined"
        assert await stays.lines(1000) == [f"leaves: {number}" for number in range(1000)]
        assert await stays.line() == "* leaves left (connection lost)"

    @pytest.mark.parametrize("how", ["exit", "half-close"])
    async def test_leaver_receives_all_that_was_published_before(
        self, server: BroadcastServer, connect: Connect, how: str
    ) -> None:
        sender, leaver = await connect(server, "s"), await connect(server, "l", buffer=4096)
        text = "x" * 1000
        sender.send(f"{text}\n" * 6000)
        await sender.synchronise()
        if how == "exit":
            leaver.send("\\exit\n")
        else:
            leaver.writer.write_eof()
        sender.send("\\clients\n")
        while "* l" in await sender.synchronise():
            sender.send("\\clients\n")
        sender.send("after\n")
        assert await leaver.read_to_end() == [f"s: {text}"] * 6000

    async def test_leaver_that_reads_slowly_but_steadily_receives_everything(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server(timeout=0.3, notices=False)
        sender, leaver = (
            await connect(server, "s"),
            await connect(server, "l", buffer=4096, limit=4096),
        )
        text = "x" * 1000
        sender.send(f"{text}\n" * 2000)
        await sender.synchronise()
        leaver.writer.write_eof()
        began = time.monotonic()
        lines = []
        for _ in range(2000):
            lines.append(await leaver.line())
            if len(lines) % 100 == 0:
                await asyncio.sleep(0.06)
        assert time.monotonic() - began > 3 * 0.3
        assert lines == [f"s: {text}"] * 2000

    async def test_leaver_that_does_not_read_is_reset_after_the_timeout(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server(timeout=0.3, notices=False)
        sender, leaver = await connect(server, "s"), await connect(server, "l", buffer=4096)
        leaver.pause_reading()
        sender.send(("x" * 1000 + "\n") * 6000)
        await sender.synchronise()
        leaver.send("\\exit\n")
        while connections(server) > 1:
            await sender.synchronise()
        leaver.resume_reading()
        with pytest.raises(ConnectionResetError):
            await leaver.read_to_end()


class TestTimeout:
    async def test_silent_client_times_out_and_the_others_are_notified(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server(timeout=0.25)
        silent = await connect(server, "silent")
        other = await connect(server, "other")
        began = time.monotonic()
        seen: list[str] = []
        while "* silent left (timed out)" not in seen:
            seen += await other.synchronise()
            await asyncio.sleep(0.02)
        assert time.monotonic() - began > 0.15
        assert await silent.read_to_end() == [
            "* other joined",
            "ERROR timed out: nothing heard for 0.25 s",
        ]

    async def test_every_line_postpones_the_timeout(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server(timeout=0.3, notices=False)
        signs = {"a": "\\ping\n", "b": "\\\\ping\r\n", "c": "\n", "d": "hello\n"}
        peers = {name: await connect(server, name) for name in signs}
        for _ in range(8):
            await asyncio.sleep(0.05)
            for name, peer in peers.items():
                peer.send(signs[name])
        for peer in peers.values():
            assert set(await peer.synchronise()) <= {"d: hello"}

    async def test_incomplete_line_does_not_postpone_the_timeout(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server(timeout=0.3, notices=False)
        peer = await connect(server, "a")

        async def dribble() -> None:
            while True:
                peer.send("x")
                await asyncio.sleep(0.05)

        dribbling = asyncio.create_task(dribble())
        assert await peer.read_to_end() == ["ERROR timed out: nothing heard for 0.3 s"]
        dribbling.cancel()


class TestLog:
    async def test_log_has_one_line_for_each_event_and_never_a_message(
        self, make_server: MakeServer, connect: Connect, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "broadcast")
        server = await make_server()
        peer = await connect(server, "Attila")
        peer.send("secret text\n\\clients\n\\exit\n")
        await peer.read_to_end()
        assert len(caplog.records) == 3
        refused = await connect(server)
        refused.send("nonsense text\n")
        await refused.read_to_end()
        await server.close()
        listening, came, left, refusal, stopping = [
            record.getMessage() for record in caplog.records
        ]
        assert listening == f"listening on 127.0.0.1:{server.port}"
        assert came.startswith("Attila in from 127.0.0.1:")
        assert left.startswith("Attila out: left, after 0.") and left.endswith(" s, 3 lines")
        assert refusal.startswith("127.0.0.1:") and refusal.endswith(
            " refused: expected CONNECT <username>"
        )
        assert stopping.startswith("stopping")
        assert "text" not in caplog.text


class TestMaximumRate:
    async def test_infinite_maximum_rate_is_no_limit(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server(max_rate=math.inf, notices=False)
        a, b = await connect(server, "a"), await connect(server, "b")
        a.send("hello\n")
        assert await b.line() == "a: hello"

    async def test_client_above_the_maximum_rate_is_slowed_and_loses_nothing(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server(max_rate=100, timeout=0.3, notices=False)
        fast, other = await connect(server, "fast"), await connect(server, "other")
        keeping = asyncio.create_task(keep_alive(other))
        began = time.monotonic()
        fast.send("".join(f"{number}\n" for number in range(170)))
        assert await other.lines(170) == [f"fast: {number}" for number in range(170)]
        assert 0.6 < time.monotonic() - began < 5
        keeping.cancel()

    async def test_one_second_of_lines_passes_the_maximum_rate_immediately(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server(max_rate=50, notices=False)
        fast, other = await connect(server, "fast"), await connect(server, "other")
        began = time.monotonic()
        fast.send("x\n" * 50)
        await other.lines(50)
        assert time.monotonic() - began < 0.5

    async def test_line_that_is_too_long_counts_against_the_maximum_rate(
        self, make_server: MakeServer, connect: Connect
    ) -> None:
        server = await make_server(max_rate=100, line_limit=10, notices=False)
        fast = await connect(server, "fast")
        began = time.monotonic()
        fast.send(f"{'x' * 11}\n" * 130)
        lines = await fast.lines(130)
        assert lines == ["ERROR line too long (at most 10 bytes)"] * 130
        assert 0.2 < time.monotonic() - began < 5
        assert server.statistics()["lines in"] == 130


async def keep_alive(peer: Peer) -> None:
    while True:
        await asyncio.sleep(0.1)
        peer.send("\\ping\n")


async def test_timeouts_use_only_the_monotonic_clock(
    make_server: MakeServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await make_server(timeout=0.4, notices=False)
    peer = await connect(server, "a")
    for jump in (1e9, -1e9):
        monkeypatch.setattr(time, "time", lambda jump=jump: jump)
        await asyncio.sleep(0.1)
        peer.send("\\ping\n")
        assert await peer.synchronise() == []


async def test_malformed_input_affects_only_its_sender(
    server: BroadcastServer, connect: Connect
) -> None:
    """Two other clients talk all the time and miss nothing."""
    one, two = await connect(server, "one"), await connect(server, "two")
    chance = random.Random(5)
    nasty = [
        b"\x00" * 1000 + b"\n",
        bytes(range(256)) * 20,
        b"\n" * 100_000,
        b"\xed\xa0\x80\n" * 100,
        b"CONNECT nasty\n" * 3,
        b"\\exit\nCONNECT\n",
        b"x" * 200_000,
        b"\\" * 1000 + b"\n",
        "\u202e".encode() * 100 + b"\n",
    ]
    for number in range(36):
        peer = await connect(server)
        if number % 2:
            peer.send(b"CONNECT nasty\n")
        piece = chance.choice(nasty)
        at = chance.randrange(len(piece))
        peer.send(piece[:at])
        await asyncio.sleep(0)
        peer.send(piece[at:])
        if number % 3 == 0:
            peer.reset()
        elif number % 3 == 1:
            peer.writer.write_eof()
        one.send(f"marked {number}\n")
        while await two.line() != f"one: marked {number}":
            continue
        two.send(f"marked {number}\n")
        while await one.line() != f"two: marked {number}":
            continue


async def test_client_that_is_cut_off_as_it_joins_is_told(
    make_server: MakeServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Room(LocalRoom):
        async def join(self, username: str, connection: Connection, interrupt: Interrupt) -> Member:
            member = await super().join(username, connection, interrupt)
            self._fanout.remove(member.subscription)
            interrupt(LeaveReason.OUT_OF_SYNC)
            return member

    monkeypatch.setattr("broadcast.server.server.LocalRoom", Room)
    server = await make_server()
    peer = await connect(server)
    peer.send("CONNECT a\n")
    assert await peer.read_to_end() == ["SUCCESS", f"ERROR {OUT_OF_SYNC}"]
    await until(lambda: connections(server) == 0)
    assert len(server._context.room) == 0
