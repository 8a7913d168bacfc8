"""Bytes in, whole lines out, in bounded memory; and lines as bytes."""

from __future__ import annotations

import enum

ENDING = b"\r\n"
"""What the server ends each line with; telnet and the textbooks expect it."""

LINE_LIMIT = 65_536
"""Bytes in a line as received, its ending not counted: far above what a person types, small enough that ten thousand clients in
the middle of a line are no danger."""

REPLACEMENT = "\ufffd"


class TooLong(enum.Enum):
    """Stands in the input for one line that was too long and has been skipped."""

    LINE = enum.auto()


class LineSplitter:
    """Cuts a stream of bytes into runs of whole lines, in bounded memory.

    `limit` is the most bytes a line may have, without its ending. What is held back is never more than that and one read.
    """

    __slots__ = ("_limit", "_partial", "_skipping")

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._partial = (
            bytearray()
        )  # the line that has begun; at most limit + 1 bytes between two calls
        self._skipping = False  # from when a line is certain to be too long until its LF

    def feed(self, data: bytes) -> list[bytes | TooLong]:
        """Take what was read; return what is whole by now: runs of lines, each ended by LF, and the places of lines too long."""
        if self._skipping:
            _, ending, data = data.partition(b"\n")
            if not ending:
                return []
            self._skipping = False
        end = data.rfind(b"\n") + 1
        items: list[bytes | TooLong] = []
        if end:
            run = b"".join((self._partial, data[:end])) if self._partial else data[:end]
            self._partial.clear()
            items = self._split_oversized(run)
        self._partial += data[end:]
        if self._is_too_long(self._partial):
            self._partial.clear()
            self._skipping = True
            items.append(TooLong.LINE)
        return items

    @property
    def is_between_lines(self) -> bool:
        """Whether what comes next begins a line."""
        return not self._partial and not self._skipping

    @property
    def held(self) -> int:
        """Bytes of memory that the line that has begun takes up: a bytearray keeps some to spare."""
        return len(self._partial) * 9 // 8

    def finish(self) -> list[bytes | TooLong]:
        """Return the last line, had it no ending when the stream ended."""
        run = bytes(self._partial) + b"\n"
        self._partial.clear()
        return [run] if len(run) > 1 else []

    def _is_too_long(self, line: bytes | bytearray) -> bool:
        # One byte more may be the CR of an ending.
        return len(line) - line.endswith(b"\r") > self._limit

    def _split_oversized(self, run: bytes) -> list[bytes | TooLong]:
        first = run.find(b"\n")
        if first <= self._limit and len(run) - first - 2 <= self._limit:
            return [run]  # neither the first line nor all others together are over the limit
        items: list[bytes | TooLong] = []
        start = end = 0  # the stretch of lines within the limit that has not been appended yet
        while end < len(run):
            fitting = run.rfind(b"\n", end, end + self._limit + 1) + 1
            if fitting:  # a stretch this short has no room for a line that is too long
                end = fitting
                continue
            line_end = run.index(b"\n", end) + 1
            if self._is_too_long(run[end : line_end - 1]):
                if start < end:
                    items.append(run[start:end])
                items.append(TooLong.LINE)
                start = line_end
            end = line_end
        if start < end:
            items.append(run[start:end])
        return items


def encode(*lines: str) -> bytes:
    """Return lines of the server's own, or of a client's, as they are sent."""
    return b"".join(line.encode() + ENDING for line in lines)
