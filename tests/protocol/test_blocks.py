"""Blocks: what clients send, sanitised and split into messages and commands."""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Callable

import pytest

from broadcast.protocol.blocks import (
    BLOCK_LIMIT,
    BLOCK_LINES,
    BLOCK_TOLERANCE,
    Block,
    has_messages,
    parse,
    sanitize,
)


def parsed(data: bytes, prefix: bytes = b"a: ") -> list[bytes | str]:
    """Return the messages, one by one, and commands that a chunk of lines contains."""
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
    """Return the seconds that an action takes, the best of three."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return min(times)


CHUNK = 57_344
"""Bytes that a client sends at once."""


class TestSanitize:
    def test_each_control_separator_and_bidirectional_character_is_replaced(self) -> None:
        controls = [*range(0x20), 0x7F, *range(0x80, 0xA0)]
        bidirectional = [0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
        for code in [*controls, 0x2028, 0x2029, *bidirectional]:
            expected = "a\tb" if code == 9 else "a\ufffdb"
            assert sanitize(f"a{chr(code)}b".encode()) == expected, hex(code)

    def test_no_other_character_is_replaced(self) -> None:
        text = "".join(chr(code) for code in range(0x20, 0x30000) if not 0xD800 <= code < 0xE000)
        changed = [
            char
            for char, kept in zip(text, sanitize(f"{text}.".encode()), strict=False)
            if char != kept
        ]
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
    def test_sanitize_returns_the_expected_text(self, data: bytes, text: str) -> None:
        assert sanitize(data) == text


class TestHasMessages:
    @pytest.mark.parametrize(
        ("chunk", "expected"),
        [
            (b"hello\n", True),
            (b"\n", True),
            (b"\\ping\n", False),
            (b"\\ping\r\n\\clients\r\n", False),
            (b"\\ping\nhello\n", True),
            (b"hello\n\\ping\n", True),
            (b"\\ping\na \\ in a message\n\\ping\n", True),
        ],
    )
    def test_commands_alone_are_no_messages(self, chunk: bytes, expected: bool) -> None:
        assert has_messages(chunk) == expected


class TestParse:
    @pytest.mark.parametrize("special", [b"", "é\n".encode(), b"\x00\n", b"\\x\n"])
    def test_fast_and_slow_path_make_the_same_messages(self, special: bytes) -> None:
        plain = [b"a: one", b"a:   two", b"a: three\tx", b"a: four"]
        assert parsed(b"one\n  two \t\r\n\n \nthree\tx\r\n\r\nfour\n" + special)[:4] == plain

    def test_only_one_carriage_return_belongs_to_the_line_ending(self) -> None:
        assert parsed(b"a\r\n") == [b"a: a"]
        assert parsed(b"a\r\r\n") == ["a: a\ufffd".encode()]
        assert parsed(b"a\rb\n") == ["a: a\ufffdb".encode()]

    def test_commands_keep_their_place_among_the_messages(self) -> None:
        assert parsed(b"one\n\\exit now\ntwo\n\\\\ping\n") == [
            b"a: one",
            "\\exit now",
            b"a: two",
            "\\\\ping",
        ]
        assert parsed(b" \\exit\nmid\\dle\n") == [b"a:  \\exit", b"a: mid\\dle"]

    def test_parse_counts_every_line(self) -> None:
        assert parse(b"a\n\n\\x\n", b"")[0] == 3
        assert parse(b"a\n\nb\n", b"")[0] == 3

    @pytest.mark.parametrize("letter", ["a", "é"])
    def test_block_size_includes_the_sender_names(self, letter: str) -> None:
        prefix = ("\U0001f600" * 32 + ": ").encode()
        blocks = [
            item.data
            for item in parse(f"{letter}\n".encode() * 20_000, prefix)[1]
            if isinstance(item, Block)
        ]
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
    def test_block_has_a_bounded_number_of_lines_and_bytes(self, unit: bytes) -> None:
        chunk = unit * (CHUNK // len(unit))
        for prefix in (b"a: ", ("\U0001f600" * 32 + ": ").encode()):
            blocks = [item for item in parse(chunk, prefix)[1] if isinstance(item, Block)]
            assert sum(block.lines for block in blocks) == sum(map(bool, chunk.split(b"\n")))
            assert all(block.lines <= BLOCK_LINES for block in blocks)
            assert all(len(block.data) <= BLOCK_LIMIT + BLOCK_TOLERANCE for block in blocks)

    def test_ordinary_chunk_makes_the_fewest_blocks_of_equal_size(self) -> None:
        chunk = (b"x" * 99 + b"\n") * (CHUNK // 100)
        for prefix, count in ((b"bob: ", 1), (b"b" * 30 + b": ", 2), (b"b" * 128 + b": ", 3)):
            sizes = [len(item.data) for item in parse(chunk, prefix)[1] if isinstance(item, Block)]
            assert len(sizes) == count
            assert max(sizes) - min(sizes) < 1_000

    @pytest.mark.parametrize(
        "line",
        [b"ab\n", b"\\a\n", "é\n".encode(), b"a\n\\b\n"],
        ids=["plain", "commands", "not ASCII", "both"],
    )
    def test_parse_keeps_no_list_of_lines_between_two_items(self, line: bytes) -> None:
        """A list would take twenty times the memory of the chunk while its sender waits."""
        chunk = line * (CHUNK // len(line))
        prefix = b"x" * 128 + b": "
        list(parse(chunk, prefix)[1])
        tracemalloc.start()
        try:
            _, items = parse(chunk, prefix)
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
    def test_difficult_lines_cost_at_most_six_times_as_much_as_plain_ones(
        self, line: bytes
    ) -> None:
        plain, hard = (unit * (CHUNK // len(unit)) for unit in (b"abc\n"[-len(line) :], line))
        cost = seconds(lambda: list(parse(hard, b"bob: ")[1]))
        assert cost < 6 * seconds(lambda: list(parse(plain, b"bob: ")[1]))

    def test_blank_lines_cost_less_than_others(self) -> None:
        cost = seconds(lambda: list(parse(b"\n" * CHUNK, b"bob: ")[1]))
        assert cost < seconds(lambda: list(parse(b"a\n" * (CHUNK // 2), b"bob: ")[1]))

    def test_random_lines_agree_with_the_definition_on_both_paths(self) -> None:
        chance = random.Random(11)
        for _ in range(500):
            chunk = b"".join(
                bytes(
                    chance.choices(
                        b"ab \t\\\r\x1b\xc3\xa9",
                        [9, 9, 4, 2, 1, 1, chance.random() < 0.1, 1, 1],
                        k=chance.randrange(6),
                    )
                )
                + chance.choice([b"\n", b"\r\n"])
                for _ in range(chance.randrange(1, 8))
            )
            expected: list[bytes | str] = []
            for line in chunk.split(b"\n")[:-1]:
                text = sanitize(line.removesuffix(b"\r"))
                if text:
                    expected.append(text if text.startswith("\\") else f"a: {text}".encode())
            assert parsed(chunk) == expected, chunk
