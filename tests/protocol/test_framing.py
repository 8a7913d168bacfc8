"""Framing: bytes in, whole lines out, in bounded memory."""

from __future__ import annotations

import random
import time
import tracemalloc
from collections.abc import Callable

import pytest

from broadcast.protocol import (
    LINE_LIMIT,
    LineSplitter,
    TooLong,
)


def cut(limit: int, *pieces: bytes) -> list[bytes | TooLong]:
    """The lines, one by one, that a cutter makes of what arrives piece by piece."""
    cutter = LineSplitter(limit)
    runs = [run for piece in pieces for run in cutter.feed(piece)] + cutter.finish()
    lines: list[bytes | TooLong] = []
    for run in runs:
        lines.extend([run] if isinstance(run, TooLong) else run.split(b"\n")[:-1])
    return lines


def seconds(action: Callable[[], object]) -> float:
    """How long an action takes, the best of three."""
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
        whole = cut(20, stream)
        assert whole == [b"one", b"two\r", b"", b"x" * 20, TooLong.LINE, b"z" * 20 + b"\r", b"last"]
        for at in range(len(stream) + 1):
            assert cut(20, stream[:at], stream[at:]) == whole, at
        assert cut(20, *(stream[i : i + 1] for i in range(len(stream)))) == whole

    @pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
    def test_line_ending_does_not_count_towards_the_limit(self, ending: bytes) -> None:
        assert cut(5, b"12345" + ending) == [b"12345" + ending[:-1]]
        assert cut(5, b"123456" + ending) == [TooLong.LINE]

    def test_oversized_line_is_reported_once_and_as_soon_as_possible(self) -> None:
        cutter = LineSplitter(5)
        assert cutter.feed(b"12345") == []
        assert cutter.feed(b"\r") == [], "that may be the ending"
        assert cutter.feed(b"6") == [TooLong.LINE]
        assert cutter.feed(b"7" * 1000) == []
        assert cutter.feed(b"8\nnext\n") == [b"next\n"]

    def test_memory_is_bounded_however_long_a_line_gets(self) -> None:
        cutter = LineSplitter(1000)
        for _ in range(1000):
            cutter.feed(b"x" * 1000)
        assert len(cutter._partial) <= 1001

    def test_short_lines_after_a_long_one_are_split_without_a_list_of_them(self) -> None:
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

    def test_line_that_arrives_byte_by_byte_takes_linear_time(self) -> None:
        def feed(count: int) -> None:
            cutter = LineSplitter()
            for _ in range(count):
                cutter.feed(b"x")

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
            assert cut(6, *pieces) == expected, stream
