"""What goes out together, and which of it is not for whom."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from ..net.connection import Connection
from ..protocol import BLOCK_LIMIT

BATCH_SIZE = 2 * BLOCK_LIMIT
"""Bytes in a batch, but for a single longer block: what is published beyond that in one turn goes into another. One block in each cost 6 to
17 % more a delivery, four are no better."""

BATCH_OVERHEAD = 600
"""Bytes that a batch in the backlog weighs beyond its data: the objects around it, measured with tracemalloc."""

EXCLUSION_OVERHEAD = 250
"""Bytes that a client with a part of its own in a batch adds to its weight, measured likewise."""


class Subscription:
    """One client's place in the fan-out; made by `Fanout.join`, for `Fanout` alone to change."""

    __slots__ = ("connection", "cursor", "joined_at", "on_evicted", "delivered", "end_batch")

    def __init__(
        self, connection: Connection, on_evicted: Callable[[], None], joined_at: float
    ) -> None:
        self.connection = connection
        self.joined_at = joined_at  # on the serving clock
        self.on_evicted = on_evicted
        self.cursor = 0  # while lagging: the number of the batch it gets next
        self.end_batch = math.inf  # from its leaving on: the number of the first batch it is not owed
        self.delivered: asyncio.Future[None] | None = (
            None  # from its leaving on: done when it has all it is owed
        )


class Batch:
    """Blocks that go out together, and what of them is not for whom."""

    __slots__ = ("blocks", "data", "number", "size", "start", "waiting", "excluded")

    def __init__(self, number: int) -> None:
        self.number = number  # counts up from 0, without a gap
        self.start = 0  # while in the backlog: the weight of all that was ever kept there before it
        self.blocks: list[bytes] = []  # until it is sealed
        self.size = 0
        self.data = b""  # from its sealing on
        self.waiting = 0  # how many cursors stand here
        # Client -> the stretches of `data` it does not get: what it sent, what was before it joined or (to None, the end) came after it left.
        self.excluded: dict[Subscription, list[tuple[int, int | None]]] = {}

    @property
    def memory_cost(self) -> int:
        return self.size + BATCH_OVERHEAD + EXCLUSION_OVERHEAD * len(self.excluded)

    def exclude(self, receiver: Subscription, start: int, stop: int | None) -> None:
        self.excluded.setdefault(receiver, []).append((start, stop))

    def seal(self) -> bytes:
        self.data = b"".join(self.blocks)  # a single block as it is, without a copy
        self.blocks.clear()
        return self.data

    def data_for(self, receiver: Subscription) -> bytes:
        stretches = self.excluded.get(receiver)
        if stretches is None:
            return self.data
        start, parts = 0, []
        for stop, resume in stretches:
            parts.append(self.data[start:stop])
            if resume is None:
                break
            start = resume
        else:
            parts.append(self.data[start:])
        return b"".join(parts)
