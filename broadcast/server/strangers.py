"""Bound the number of connections that have not joined, so that they cannot exclude clients."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

DEFAULT_MAX_STRANGERS = 512
"""Connections in their handshake at once: enough for many clients that connect at the same time
over a slow network, with a memory use of some 10 MB, or 30 MB with TLS."""


class Displaceable(Protocol):
    """A connection that can be closed to make room for another."""

    def displace(self) -> None:
        """Close after a delay; a second call closes immediately."""


class Strangers:
    """The connections that have not joined yet, at most `limit`, oldest first.

    Each connection above the limit displaces the oldest one, so that a peer that opens connections
    and sends nothing displaces its own, and a client that performs the handshake promptly joins.
    A displaced connection closes slowly, so that a peer that replaces each closed connection cannot
    do so at full speed. At most `limit` connections do that; beyond, the oldest closes at once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: OrderedDict[Displaceable, None] = OrderedDict()
        # Displaced, and closing slowly.
        self._lingering: OrderedDict[Displaceable, None] = OrderedDict()
        self.displaced = 0  # since the start

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, newcomer: Displaceable) -> None:
        """Add a connection, and displace the oldest if there are too many."""
        self._waiting[newcomer] = None
        if len(self._waiting) > self._limit:
            oldest, _ = self._waiting.popitem(last=False)
            self._lingering[oldest] = None
            self.displaced += 1
            oldest.displace()
        if len(self._lingering) > self._limit:
            oldest, _ = self._lingering.popitem(last=False)
            oldest.displace()

    def discard(self, session: Displaceable) -> None:
        """Remove a connection that has joined or closed; no effect if it is not here."""
        self._waiting.pop(session, None)
        self._lingering.pop(session, None)
