"""Keep the latest messages, for clients that join later."""

import datetime
from collections import deque
from collections.abc import Callable

from ..protocol import messages, notices
from ..protocol.blocks import Block
from ..protocol.framing import ENDING

BLOCK_OVERHEAD = 250
"""Bytes of memory that a block takes up here in addition to its lines."""

LINE_OVERHEAD = len("* [2026-11-22 13:05] ")
"""Bytes that each line of a block grows by when it becomes a notice."""


class History:
    """The latest `lines` messages, in at most `limit` bytes of memory.

    Blocks are kept as they were published, and made into notices when a client joins; clients that
    join before the next message share the same bytes.
    """

    def __init__(
        self,
        lines: int,
        limit: int,
        now: Callable[[], datetime.datetime] = datetime.datetime.now,
    ) -> None:
        self._most_lines = lines
        self._limit = limit
        self._now = now
        # When each block was said, and its position in the log of a cluster.
        self._blocks: deque[tuple[datetime.datetime, Block, int]] = deque()
        self._lines = 0  # in all blocks: up to one block more than `lines`
        self._size = 0  # bytes of memory that the blocks take up
        # All as notices, and the day on which that was made; None once it is outdated.
        self._rendered: tuple[datetime.date, bytes] | None = None

    @property
    def oldest_position(self) -> int | None:
        """The position of the first message that is kept, or None without any."""
        return self._blocks[0][2] if self._blocks else None

    def add(self, block: Block, seconds: int | None = None, position: int = 0) -> None:
        """Keep a block of messages, said now or at a wall-clock time, and forget the oldest."""
        said_at = self._now() if seconds is None else datetime.datetime.fromtimestamp(seconds)
        self._blocks.append((said_at, block, position))
        self._lines += block.lines
        self._size += _cost(block)
        self._rendered = None
        while self._blocks and (
            self._size > self._limit or self._lines - self._blocks[0][1].lines >= self._most_lines
        ):
            _, oldest, _ = self._blocks.popleft()
            self._lines -= oldest.lines
            self._size -= _cost(oldest)

    def clear(self) -> None:
        """Forget everything."""
        self._blocks.clear()
        self._lines = self._size = 0
        self._rendered = None

    def render(self) -> bytes:
        """Return the messages as notices with the time at which each was said."""
        today = self._now().date()
        if self._rendered is None or self._rendered[0] != today:
            surplus = max(0, self._lines - self._most_lines)
            rendered = []
            for said_at, block, _ in self._blocks:
                lines = block.data.split(ENDING)[surplus:-1]
                surplus = 0
                before = messages.notice(notices.history(said_at, today, "")).encode()
                rendered += [before + line + ENDING for line in lines]
            self._rendered = today, b"".join(rendered)
        return self._rendered[1]


def _cost(block: Block) -> int:
    """Return the memory that a block takes up, as it is and as notices."""
    return 2 * len(block.data) + block.lines * LINE_OVERHEAD + BLOCK_OVERHEAD
