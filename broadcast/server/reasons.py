"""Why a session ends."""

import enum
from collections.abc import Callable

from ..protocol.handshake import SHUTTING_DOWN


class LeaveReason(enum.Enum):
    """Why a session ends; the value appears in the log and in the notice to the other clients."""

    LEFT = ""
    LOST = "connection lost"
    TIMED_OUT = "timed out"
    TOO_SLOW = "too slow"
    OUT_OF_SYNC = "lost touch with the room"
    """Its server may have missed something that was said on another one."""
    SHUTDOWN = SHUTTING_DOWN
    DISPLACED = "too many connections that have not joined"
    UNREAD = "did not read in time at the shutdown"


Interrupt = Callable[[LeaveReason], None]
"""Ends the session of one client for a reason; without effect if it is ending anyway."""
