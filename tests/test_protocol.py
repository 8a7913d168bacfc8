"""The wire format: pure functions, and the same sentences again over the wire where they need no session."""

from __future__ import annotations

import random
import time
import tracemalloc
import unicodedata
from collections.abc import Callable
from types import SimpleNamespace
from typing import Literal

import pytest

from broadcast import HandshakeError, Message, Notice, ServerError, UsernameError
from broadcast.protocol import (
    BLOCK_LIMIT,
    BLOCK_LINES,
    BLOCK_TOLERANCE,
    LINE_LIMIT,
    NAME_LIMIT,
    Block,
    Connect,
    LineSplitter,
    TooLong,
    check_username,
    name_key,
    parse,
    parse_connect,
    parse_incoming,
    parse_renamed,
    renamed_notice,
    sanitize,
)


def cut(limit: int, *pieces: bytes) -> list[bytes | TooLong]:
    """The lines, one by one, that a cutter makes of what arrives piece by piece."""
    cutter = LineSplitter(limit)
    runs = [run for piece in pieces for run in cutter.feed(piece)] + cutter.finish()
    lines: list[bytes | TooLong] = []
    for run in runs:
        lines.extend([run] if isinstance(run, TooLong) else run.split(b"\n")[:-1])
    return lines


def sent(data: bytes, prefix: bytes = b"a: ") -> list[bytes | str]:
    """What a run of lines comes to: messages one by one, and commands."""
    items: list[bytes | str] = []
    for item in parse(data, prefix)[1]:
        if isinstance(item, str):
            items.append(item)
        else:
            assert item.data.endswith(b"\r\n")
            messages = item.data.split(b"\r\n")[:-1]
            assert item.lines == len(messages)
            items.extend(messages)
    return items


def seconds(action: Callable[[], object]) -> float:
    """How long an action takes, the best of three."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return min(times)


CHUNK = 57_344
"""Bytes: as much as a client sends at once."""


class TestLineSplitter:
    def test_cuts_the_same_lines_wherever_the_packets_end(self) -> None:
        stream = b"one\ntwo\r\n\n" + b"x" * 20 + b"\n" + b"y" * 21 + b"\r\n" + b"z" * 20 + b"\r\nlast"
        whole = cut(20, stream)
        assert whole == [b"one", b"two\r", b"", b"x" * 20, TooLong.LINE, b"z" * 20 + b"\r", b"last"]
        for at in range(len(stream) + 1):
            assert cut(20, stream[:at], stream[at:]) == whole, at
        assert cut(20, *(stream[i : i + 1] for i in range(len(stream)))) == whole

    @pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
    def test_the_ending_does_not_count_for_the_limit(self, ending: bytes) -> None:
        assert cut(5, b"12345" + ending) == [b"12345" + ending[:-1]]
        assert cut(5, b"123456" + ending) == [TooLong.LINE]

    def test_a_line_is_too_long_as_soon_as_that_is_certain_and_only_once(self) -> None:
        cutter = LineSplitter(5)
        assert cutter.feed(b"12345") == []
        assert cutter.feed(b"\r") == [], "that may be the ending"
        assert cutter.feed(b"6") == [TooLong.LINE]
        assert cutter.feed(b"7" * 1000) == []
        assert cutter.feed(b"8\nnext\n") == [b"next\n"]

    def test_memory_stays_bounded_however_long_a_line_gets(self) -> None:
        cutter = LineSplitter(1000)
        for _ in range(1000):
            cutter.feed(b"x" * 1000)
        assert len(cutter._partial) <= 1001

    def test_short_lines_after_a_long_one_are_cut_without_a_list_of_them(self) -> None:
        """It would take twenty times the memory of the lines."""
        cutter = LineSplitter()
        assert cutter.feed(b"x" * LINE_LIMIT) == []
        chunk, lines = b"y\n" + b"ab\n" * 20_000, b"ab\n" * 20_000
        tracemalloc.start()
        try:
            assert cutter.feed(chunk) == [TooLong.LINE, lines]
            assert tracemalloc.get_traced_memory()[1] < 400_000
        finally:
            tracemalloc.stop()

    def test_a_line_that_arrives_byte_by_byte_takes_linear_time(self) -> None:
        def feed(count: int) -> None:
            cutter = LineSplitter()
            for _ in range(count):
                cutter.feed(b"x")

        assert seconds(lambda: feed(60_000)) < 30 * seconds(lambda: feed(6_000))

    def test_random_streams_in_random_pieces(self) -> None:
        chance = random.Random(7)
        for _ in range(300):
            stream = bytes(chance.choices(b"ab\r\n", [5, 5, 2, 3], k=chance.randrange(80)))
            pieces, at = [], 0
            while at < len(stream):
                step = chance.randrange(1, 20)
                pieces.append(stream[at : at + step])
                at += step
            *lines, last = stream.split(b"\n")
            expected = [TooLong.LINE if len(line) - line.endswith(b"\r") > 6 else line for line in lines + [last] * (last != b"")]
            assert cut(6, *pieces) == expected, stream


class TestCleaning:
    def test_each_control_separator_and_bidirectional_character_becomes_a_replacement(self) -> None:
        controls = [*range(0x20), 0x7F, *range(0x80, 0xA0)]
        bidirectional = [0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
        for code in [*controls, 0x2028, 0x2029, *bidirectional]:
            expected = "a\tb" if code == 9 else "a\ufffdb"
            assert sanitize(f"a{chr(code)}b".encode()) == expected, hex(code)

    def test_nothing_else_changes(self) -> None:
        text = "".join(chr(code) for code in range(0x20, 0x30000) if not 0xD800 <= code < 0xE000)
        changed = [char for char, kept in zip(text, sanitize(f"{text}.".encode()), strict=False) if char != kept]
        assert len(changed) == 1 + 32 + 1 + 2 + 2 + 5 + 4
        assert len(f"a{text}".splitlines()) > 1
        assert len(sanitize(f"a{text}".encode()).splitlines()) == 1

    @pytest.mark.parametrize(
        ("data", "text"),
        [
            (b"\xff\xfe", "\ufffd\ufffd"),
            (b"a\xc3", "a\ufffd"),
            (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
            (b"\xc0\x80", "\ufffd\ufffd"),
            ("a\u2028b\u2029c\u2028".encode(), "a\ufffdb\ufffdc\ufffd"),
            (b"\xc3\x01\xa9", "\ufffd\ufffd\ufffd"),
            (b"\xe2\x80\x7f\x8e", "\ufffd\ufffd\ufffd"),
            (b"  lead \t ", "  lead"),
            ("wide\u3000".encode(), "wide"),
            (b"\x0b", "\ufffd"),
            (b" \t", ""),
        ],
    )
    def test_examples(self, data: bytes, text: str) -> None:
        assert sanitize(data) == text


class TestParse:
    @pytest.mark.parametrize("special", [b"", "é\n".encode(), b"\x00\n", b"\\x\n"])
    def test_messages_are_the_same_on_the_fast_way_and_the_slow(self, special: bytes) -> None:
        plain = [b"a: one", b"a:   two", b"a: three\tx", b"a: four"]
        assert sent(b"one\n  two \t\r\n\n \nthree\tx\r\n\r\nfour\n" + special)[:4] == plain

    def test_one_carriage_return_belongs_to_the_ending_and_a_second_does_not(self) -> None:
        assert sent(b"a\r\n") == [b"a: a"]
        assert sent(b"a\r\r\n") == ["a: a\ufffd".encode()]
        assert sent(b"a\rb\n") == ["a: a\ufffdb".encode()]

    def test_commands_stand_where_they_were_among_the_messages(self) -> None:
        assert sent(b"one\n\\exit now\ntwo\n\\\\ping\n") == [b"a: one", "\\exit now", b"a: two", "\\\\ping"]
        assert sent(b" \\exit\nmid\\dle\n") == [b"a:  \\exit", b"a: mid\\dle"]

    def test_counts_every_line(self) -> None:
        assert parse(b"a\n\n\\x\n", b"")[0] == 3
        assert parse(b"a\n\nb\n", b"")[0] == 3

    @pytest.mark.parametrize("letter", ["a", "é"])
    def test_blocks_are_bounded_as_they_are_sent(self, letter: str) -> None:
        prefix = ("\U0001f600" * 32 + ": ").encode()
        blocks = [item.data for item in parse(f"{letter}\n".encode() * 20_000, prefix)[1] if isinstance(item, Block)]
        assert max(map(len, blocks)) <= BLOCK_LIMIT + 200
        assert b"".join(blocks) == (prefix + letter.encode() + b"\r\n") * 20_000

    @pytest.mark.parametrize(
        "unit",
        [
            b"x" * 99 + b"\n",
            b"ab\n",
            b"\n",
            "é\n".encode(),
            b"\xff" * 99 + b"\n",
            b"a\n" * 500 + b"x" * 500 + b"\n",
            b"a\n" * 500 + b"\x01" * 500 + b"\n",
        ],
        ids=["ordinary", "short", "blank", "not ASCII", "not UTF-8", "uneven", "uneven controls"],
    )
    def test_a_block_has_a_bounded_number_of_lines_and_bytes(self, unit: bytes) -> None:
        run = unit * (CHUNK // len(unit))
        for prefix in (b"a: ", ("\U0001f600" * 32 + ": ").encode()):
            blocks = [item for item in parse(run, prefix)[1] if isinstance(item, Block)]
            assert sum(block.lines for block in blocks) == sum(map(bool, run.split(b"\n")))
            assert all(block.lines <= BLOCK_LINES for block in blocks)
            assert all(len(block.data) <= BLOCK_LIMIT + BLOCK_TOLERANCE for block in blocks)

    def test_an_ordinary_chunk_makes_as_few_blocks_as_possible_of_equal_size(self) -> None:
        run = (b"x" * 99 + b"\n") * (CHUNK // 100)
        for prefix, count in ((b"bob: ", 1), (b"b" * 30 + b": ", 2), (b"b" * 128 + b": ", 3)):
            sizes = [len(item.data) for item in parse(run, prefix)[1] if isinstance(item, Block)]
            assert len(sizes) == count
            assert max(sizes) - min(sizes) < 1_000

    @pytest.mark.parametrize(
        "line",
        [b"ab\n", b"\\a\n", "é\n".encode(), b"a\n\\b\n"],
        ids=["plain", "commands", "not ASCII", "both"],
    )
    def test_no_list_of_lines_is_kept_between_two_items(self, line: bytes) -> None:
        """A waiting sender would otherwise hold twenty times what it sent."""
        run = line * (CHUNK // len(line))
        prefix = b"x" * 128 + b": "
        list(parse(run, prefix)[1])
        tracemalloc.start()
        try:
            _, items = parse(run, prefix)
            for _ in range(3):
                next(items)
                assert tracemalloc.get_traced_memory()[0] < BLOCK_LIMIT + 10_000, "one block"
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize(
        "line",
        [b"\xff\n", "é\n".encode(), b"\x01\n", b"\r\r\n"],
        ids=["not UTF-8", "not ASCII", "controls", "CR"],
    )
    def test_hard_lines_cost_a_few_times_as_much_as_plain_ones(self, line: bytes) -> None:
        plain, hard = (unit * (CHUNK // len(unit)) for unit in (b"abc\n"[-len(line) :], line))
        cost = seconds(lambda: list(parse(hard, b"bob: ")[1]))
        assert cost < 6 * seconds(lambda: list(parse(plain, b"bob: ")[1]))

    def test_blank_lines_cost_less_than_others(self) -> None:
        cost = seconds(lambda: list(parse(b"\n" * CHUNK, b"bob: ")[1]))
        assert cost < seconds(lambda: list(parse(b"a\n" * (CHUNK // 2), b"bob: ")[1]))

    def test_random_lines_on_both_ways_agree_with_the_definition(self) -> None:
        chance = random.Random(11)
        for _ in range(500):
            run = b"".join(
                bytes(chance.choices(b"ab \t\\\r\x1b\xc3\xa9", [9, 9, 4, 2, 1, 1, chance.random() < 0.1, 1, 1], k=chance.randrange(6)))
                + chance.choice([b"\n", b"\r\n"])
                for _ in range(chance.randrange(1, 8))
            )
            expected: list[bytes | str] = []
            for line in run.split(b"\n")[:-1]:
                text = sanitize(line.removesuffix(b"\r"))
                if text:
                    expected.append(text if text.startswith("\\") else f"a: {text}".encode())
            assert sent(run) == expected, run


class TestConnect:
    @pytest.mark.parametrize(
        ("line", "connect"),
        [
            ("CONNECT", Connect("anonymous")),
            ("CONNECT   ", Connect("anonymous")),
            ("CONNECT Attila", Connect("Attila")),
            ("CONNECT   Attila   secret  ", Connect("Attila", "secret")),
            ("CONNECT Zoë", Connect("Zoë")),
        ],
    )
    def test_good(self, line: str, connect: Connect) -> None:
        assert parse_connect(line) == connect

    @pytest.mark.parametrize("line", ["connect a", "CONNECTa", " CONNECT a", "CONNECT a b c", "GET / HTTP/1.1", "CONNECT\ta", "\\exit"])
    def test_anything_else(self, line: str) -> None:
        with pytest.raises(HandshakeError, match="^expected CONNECT <username>$"):
            parse_connect(line)

    def test_encodes_what_it_parses(self) -> None:
        assert parse_connect(sanitize(Connect("a", "b").encode()[:-2])) == Connect("a", "b")


class TestUsername:
    @pytest.mark.parametrize("name", ["a", "Attila", "Zoë", "名前", "🙂", "x" * 32, "a*b", "a\\b", "ERROR", "#1", "e\u0301"])
    def test_good(self, name: str) -> None:
        assert check_username(name) == name

    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("", "empty"),
            ("x" * 33, "longer than 32 characters"),
            ("\ufdfa" * 10, "longer than 32 characters"),  # 18 characters each in NFKC
            ("a b", "white space"),
            ("a\u3000b", "white space"),
            ("a\tb", "white space"),
            ("a:b", "colon"),
            ("a\ufe55b", "colon"),
            ("*a", r"begins with \*"),
            ("\uff0aa", r"begins with \*"),
            ("\\a", r"begins with \\"),
            ("\uff3ca", r"begins with \\"),
            ("a\ufffd", "can't be shown"),
            ("a\u200b", "can't be shown"),
            ("a\u202e", "can't be shown"),
            ("a\x1b", "can't be shown"),
            ("\u3164", "can't be shown"),
            ("\u2800", "can't be shown"),
            ("\u115f", "can't be shown"),
            ("bob\u3164", "can't be shown"),
            ("\uffa0", "can't be shown"),
            ("\u0301\u0302", "combining marks"),
            ("\ue000", "can't be shown"),
        ],
    )
    def test_bad(self, name: str, why: str) -> None:
        with pytest.raises(UsernameError, match=f"^bad username: .*{why}"):
            check_username(name)

    @pytest.mark.parametrize("count", [NAME_LIMIT + 1, 32_000])
    def test_only_a_short_name_is_normalised(
        self, count: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It takes seconds for 32,000 combining marks, before anybody is asked for a token."""
        normalised = []

        def normalize(form: Literal["NFKC"], text: str) -> str:
            normalised.append(len(text))
            return unicodedata.normalize(form, text)

        recorder = SimpleNamespace(normalize=normalize, category=unicodedata.category)
        monkeypatch.setattr("broadcast.protocol.names.unicodedata", recorder)
        marks = "a" + "".join(random.Random(3).choices("\u0301\u0323\u0327\u0345", k=count - 1))
        with pytest.raises(UsernameError, match="^bad username: longer than 32 characters$"):
            parse_connect(f"CONNECT {marks}")
        assert check_username(marks[:NAME_LIMIT]) == marks[:NAME_LIMIT]
        name_key(marks[:NAME_LIMIT])
        assert max(normalised) <= NAME_LIMIT

    def test_ascii_names_are_not_normalised(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in map(chr, range(128)):
            assert name_key(name) == unicodedata.normalize("NFKC", name).casefold()
        monkeypatch.setattr("broadcast.protocol.names.unicodedata", None)
        assert check_username("Attila7") == "Attila7"
        assert name_key("Attila-7_x") == "attila-7_x"

    def test_spellings_of_one_name_fold_alike(self) -> None:
        assert name_key("Attila") == name_key("ATTILA") == name_key("\uff21ttila")
        assert name_key("Straße") == name_key("STRASSE")
        assert name_key("Zoë") == name_key("Zoe\u0308")
        assert name_key("Attila") == name_key("Attila\ufe0f") == name_key("At\u034ftila")
        assert name_key("a") != name_key("b")


class TestIncoming:
    @pytest.mark.parametrize(
        ("line", "incoming"),
        [
            ("Attila: hello", Message("Attila", "hello")),
            ("Attila:  a: b", Message("Attila", " a: b")),
            ("ERROR: hello", Message("ERROR", "hello")),
            ("* Attila joined", Notice("Attila joined")),
            ("* a: b", Notice("a: b")),
            ("ERROR too slow: x", ServerError("too slow: x")),
        ],
    )
    def test_is_told_apart_and_shown_as_it_came(self, line: str, incoming: Message | Notice | ServerError) -> None:
        assert parse_incoming(line) == incoming
        assert str(incoming) == line

    def test_line_of_a_sender_with_an_impossibly_long_name_is_a_notice(self) -> None:
        longest = "\U0001f600" * NAME_LIMIT + "-1000000000"
        assert parse_incoming(f"{longest}: hello") == Message(longest, "hello")
        assert parse_incoming(f"x{longest}: hello") == Notice(f"x{longest}: hello")

    def test_a_parse_renamed_is_found_in_no_other_line(self) -> None:
        assert parse_renamed(renamed_notice("Attila", "Attila-2")) == "Attila-2"
        assert parse_renamed("* Attila joined") is None
        assert parse_renamed("Attila: * a is taken: you are b") is None
