"""A client's place in the fan-out, and its states."""

import asyncio
import enum
from dataclasses import dataclass

from ..net.connection import Connection
from .reasons import Interrupt


class SubscriptionState(enum.Enum):
    """Where a client is in the fan-out; changed only in `Fanout._set_state`."""

    READY = enum.auto()
    """It has been sent every batch; what is pending, if anything, is an answer to a command."""
    LAGGING = enum.auto()
    """It is being fed from the backlog."""
    LEAVING = enum.auto()
    """It is being fed up to its last batch."""
    GONE = enum.auto()
    """It is sent nothing more."""


RECEIVING = (SubscriptionState.READY, SubscriptionState.LAGGING)
"""The states in which a client receives what is published. A tuple is searched by identity; the
hash of an enum member is computed in Python."""

NEXT_STATES = {
    SubscriptionState.READY: {*SubscriptionState} - {SubscriptionState.READY},
    SubscriptionState.LAGGING: {*SubscriptionState} - {SubscriptionState.LAGGING},
    SubscriptionState.LEAVING: {SubscriptionState.GONE},
    SubscriptionState.GONE: set(),
}
"""The states that may follow each state."""


@dataclass(slots=True, eq=False)
class Subscription:
    """A client's place in the fan-out, created by `Fanout.join` and changed only by the fan-out."""

    connection: Connection
    interrupt: Interrupt  # of its session, when it is sent nothing more
    joined_at: float  # in running time
    state: SubscriptionState = SubscriptionState.READY
    cursor: int = 0  # while LAGGING or LEAVING: the number of the next batch to send
    end_batch: int = 0  # while LEAVING: the number after the last batch to send
    # Once it leaves: whether it has been sent everything published before; see `Fanout.leave`.
    delivered: asyncio.Future[bool] | None = None
