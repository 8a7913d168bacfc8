"""Split a stream of bytes into lines in bounded memory, and encode lines as bytes."""

import enum

ENDING = b"\r\n"
"""The line ending that the server sends, which telnet expects."""

LINE_LIMIT = 65_536
"""Bytes in a line as received, without its ending: far more than a person types, and small enough
that ten thousand unfinished lines fit in memory."""

REPLACEMENT = "\ufffd"
"""The replacement character, U+FFFD."""


class TooLong(enum.Enum):
    """Marks the place of a line that was too long and has been skipped."""

    LINE = enum.auto()


class LineSplitter:
    """Splits a stream of bytes into chunks of whole lines, in bounded memory.

    `limit`: maximum bytes of a line, without its ending. The splitter holds one unfinished line
    at most.
    """

    __slots__ = ("_limit", "_partial", "_skipping")

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._partial = bytearray()  # the unfinished line; limit + 1 bytes at most between calls
        self._skipping = False  # while the rest of a line that is too long is discarded

    def feed(self, data: bytes) -> list[bytes | TooLong]:
        """Add bytes; return the lines that are now whole, in chunks that end in LF.

        TooLong.LINE stands in place of each line that is too long.
        """
        if self._skipping:
            _, ending, data = data.partition(b"\n")
            if not ending:
                return []
            self._skipping = False
        end = data.rfind(b"\n") + 1
        items: list[bytes | TooLong] = []
        if end:
            chunk = b"".join((self._partial, data[:end])) if self._partial else data[:end]
            self._partial.clear()
            items = self._split_oversized(chunk)
        self._partial += data[end:]
        if self._is_too_long(self._partial):
            self._partial.clear()
            self._skipping = True
            items.append(TooLong.LINE)
        return items

    @property
    def is_between_lines(self) -> bool:
        """Whether the next byte begins a line."""
        return not self._partial and not self._skipping

    @property
    def held(self) -> int:
        """Bytes of memory that the unfinished line takes up, with what a bytearray keeps spare."""
        return len(self._partial) * 9 // 8

    def finish(self) -> list[bytes | TooLong]:
        """Return the last line of a stream that has ended without a line ending."""
        line = bytes(self._partial) + b"\n"
        self._partial.clear()
        return [line] if len(line) > 1 else []

    def _is_too_long(self, line: bytes | bytearray) -> bool:
        # The CR of a line ending does not count.
        return len(line) - line.endswith(b"\r") > self._limit

    def _split_oversized(self, chunk: bytes) -> list[bytes | TooLong]:
        """Return whole lines with each that is too long replaced by TooLong.LINE."""
        first = chunk.find(b"\n")
        if first <= self._limit and len(chunk) - first - 2 <= self._limit:
            return [chunk]  # neither the first line nor all others together exceed the limit
        items: list[bytes | TooLong] = []
        start = end = 0  # the lines within the limit that have not been appended yet
        while end < len(chunk):
            # In the next limit + 1 bytes, no line can be longer than the limit.
            fitting = chunk.rfind(b"\n", end, end + self._limit + 1) + 1
            line_end = fitting or chunk.index(b"\n", end) + 1
            if not fitting and self._is_too_long(chunk[end : line_end - 1]):
                items += [chunk[start:end], TooLong.LINE]
                start = line_end
            end = line_end
        return list(filter(None, [*items, chunk[start:]]))


def encode(*lines: str) -> bytes:
    """Return lines as they are sent, each with a line ending."""
    return b"".join(line.encode() + ENDING for line in lines)
