"""A batch of published blocks, and a client's subscription to the batches."""

from __future__ import annotations

import asyncio
import enum
import math
from collections.abc import Callable

from ..net.connection import Connection
from ..protocol import BLOCK_LIMIT

BATCH_SIZE = 2 * BLOCK_LIMIT
"""Bytes in a batch, unless it is a single longer block. With one block in each batch a delivery
costs more; more than two gain nothing."""

BATCH_OVERHEAD = 600
"""Bytes of memory that a batch in the backlog takes up in addition to its data."""

EXCLUSION_OVERHEAD = 250
"""Bytes of memory that a batch takes up for each client that does not receive all of it."""


class SubscriptionState(enum.Enum):
    """Where a client is in the fan-out; changed only in `Fanout._set_state`."""

    READY = enum.auto()
    """It has been sent every batch, and nothing is pending."""
    LAGGING = enum.auto()
    """It is being fed from the backlog."""
    LEAVING = enum.auto()
    """It is being fed up to its last batch."""
    GONE = enum.auto()
    """It is sent nothing more."""


class Subscription:
    """A client's place in the fan-out, created by `Fanout.join` and changed only by the fan-out."""
