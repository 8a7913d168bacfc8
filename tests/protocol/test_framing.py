"""Framing: bytes in, whole lines out, in bounded memory."""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Callable

import pytest

from broadcast.protocol.framing import LINE_LIMIT, LineSplitter, TooLong


def split(limit: int, *pieces: bytes) -> list[bytes | TooLong]:
    """Return the lines, one by one, that a splitter makes of these pieces."""
    splitter = LineSplitter(limit)
    chunks = [chunk for piece in pieces for chunk in splitter.feed(piece)] + splitter.finish()
    lines: list[bytes | TooLong] = []
    for chunk in chunks:
        lines.extend([chunk] if isinstance(chunk, TooLong) else chunk.split(b"\n")[:-1])
    return lines


def seconds(action: Callable[[], object]) -> float:
    """Return the seconds that an action takes, the best of three."""
    times = []
    for _ in range(3):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return min(times)


class TestLineSplitter:
    def test_lines_are_the_same_wherever_the_packets_end(self) -> None:
        stream = (
            b"one\ntwo\r\n\n" + b"x" * 20 + b"\n" + b"y" * 21 + b"\r\n" + b"z" * 20 + b"\r\nlast"
        )
        whole = split(20, stream)
        assert whole == [b"one", b"two\r", b"", b"x" * 20, TooLong.LINE, b"z" * 20 + b"\r", b"last"]
        for at in range(len(stream) + 1):
            assert split(20, stream[:at], stream[at:]) == whole, at
        assert split(20, *(stream[i : i + 1] for i in range(len(stream)))) == whole

    @pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
    def test_line_ending_does_not_count_towards_the_limit(self, ending: bytes) -> None:
        assert split(5, b"12345" + ending) == [b"12345" + ending[:-1]]
        assert split(5, b"123456" + ending) == [TooLong.LINE]

    def test_oversized_line_is_reported_once_and_as_soon_as_possible(self) -> None:
        splitter = LineSplitter(5)
        assert splitter.feed(b"12345") == []
        assert splitter.feed(b"\r") == [], "it may belong to the line ending"
        assert splitter.feed(b"6") == [TooLong.LINE]
        assert splitter.feed(b"7" * 1000) == []
        assert splitter.feed(b"8\nnext\n") == [b"next\n"]

    def test_memory_is_bounded_however_long_a_line_gets(self) -> None:
        splitter = LineSplitter(1000)
        for _ in range(1000):
            splitter.feed(b"x" * 1000)
        assert splitter.held <= 1001 * 9 // 8

    def test_short_lines_after_a_long_one_are_split_without_a_list_of_them(self) -> None:
        """A list would take twenty times the memory of the lines."""
        splitter = LineSplitter()
        assert splitter.feed(b"x" * LINE_LIMIT) == []
        chunk, lines = b"y\n" + b"ab\n" * 20_000, b"ab\n" * 20_000
        tracemalloc.start()
        try:
            assert splitter.feed(chunk) == [TooLong.LINE, lines]
            assert tracemalloc.get_traced_memory()[1] < 400_000
        finally:
            tracemalloc.stop()

    def test_line_that_arrives_byte_by_byte_takes_linear_time(self) -> None:
        def feed(count: int) -> None:
            splitter = LineSplitter()
            for _ in range(count):
                splitter.feed(b"x")

        assert seconds(lambda: feed(60_000)) < 30 * seconds(lambda: feed(6_000))

    def test_random_streams_in_random_pieces_agree_with_the_definition(self) -> None:
        chance = random.Random(7)
        for _ in range(300):
            stream = bytes(chance.choices(b"ab\r\n", [5, 5, 2, 3], k=chance.randrange(80)))
            pieces, at = [], 0
            while at < len(stream):
                step = chance.randrange(1, 20)
                pieces.append(stream[at : at + step])
                at += step
            *lines, last = stream.split(b"\n")
            expected = [
                TooLong.LINE if len(line) - line.endswith(b"\r") > 6 else line
                for line in lines + [last] * (last != b"")
            ]
            assert split(6, *pieces) == expected, stream
