"""What is sent together, and which of it is not for whom."""

from dataclasses import dataclass, field

from ..protocol.blocks import BLOCK_LIMIT
from .subscription import Subscription

BATCH_SIZE = 2 * BLOCK_LIMIT
"""Bytes in a batch, unless it is a single longer block. With one block in each batch a delivery
costs more; more than two gain nothing."""

BATCH_OVERHEAD = 600
"""Bytes of memory that a batch in the backlog takes up in addition to its data."""

EXCLUSION_OVERHEAD = 250
"""Bytes of memory that a batch takes up for each client that does not receive all of it."""


@dataclass(slots=True, eq=False)
class Batch:
    """Blocks that are sent together, and the parts of them that some clients do not receive."""

    number: int  # consecutive, from 0
    start: int = 0  # while in the backlog: the memory cost of all that was kept before it
    blocks: list[bytes] = field(default_factory=list)
    size: int = 0
    data: bytes | None = None  # all blocks, joined; None until it is sealed
    waiting: int = 0  # how many cursors point here
    # By client, the ranges of the data that it does not receive: its own messages, and what was
    # published before it joined or after it left (there the end is None).
    excluded: dict[Subscription, list[tuple[int, int | None]]] = field(default_factory=dict)

    @property
    def memory_cost(self) -> int:
        """Bytes of memory that it takes up in the backlog."""
        return self.size + BATCH_OVERHEAD + EXCLUSION_OVERHEAD * len(self.excluded)

    def exclude(self, subscription: Subscription, start: int, stop: int | None) -> None:
        """Withhold a range of the data from a client; ranges come in ascending order."""
        self.excluded.setdefault(subscription, []).append((start, stop))

    def seal(self) -> bytes:
        """Join the blocks, after which none may be added, and return the data."""
        self.data = b"".join(self.blocks)  # a single block is not copied
        self.blocks.clear()
        return self.data

    def data_for(self, subscription: Subscription) -> bytes:
        """Return what a client receives of the batch, which need not be sealed."""
        data = b"".join(self.blocks) if self.data is None else self.data
        ranges = self.excluded.get(subscription)
        if ranges is None:
            return data
        start, parts = 0, []
        for gap_start, gap_end in ranges:
            parts.append(data[start:gap_start])
            if gap_end is None:
                break
            start = gap_end
        else:
            parts.append(data[start:])
        return b"".join(parts)
