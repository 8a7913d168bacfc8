"""Connections that have not joined yet: a bound of their own, so that they keep nobody out."""

from __future__ import annotations

from typing import Protocol

DEFAULT_MAX_STRANGERS = 512
"""Connections in their handshake at once: a rush of clients on a slow network fits in, and they
hold some 10 MB, or 30 MB with TLS."""


class Displaceable(Protocol):
    """One that can be made to go."""

    def displace(self) -> None:
        """Close, to make room for a newcomer; the second time at once."""


class Strangers:
    """Those who have not joined yet, in the order in which they came, `limit` at most.

    When one more comes, the one that has waited longest makes room for it: whoever opens
    connections and says nothing displaces itself, and a client that shakes hands at once gets in.
    One that is displaced may linger while it closes, so that whoever opens a connection for each
    that is closed does not do so as fast as it can; as many more may do that, and of one more the
    oldest is displaced for good.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: dict[Displaceable, None] = {}
        self._lingering: dict[Displaceable, None] = {}
        self.displaced = 0  # since the beginning

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, newcomer: Displaceable) -> None:
        """Add the newest one, and displace the oldest if there are too many then."""
        self._waiting[newcomer] = None
        if len(self._waiting) > self._limit:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            self._lingering[oldest] = None
            self.displaced += 1
            oldest.displace()
        if len(self._lingering) > self._limit:
            oldest = next(iter(self._lingering))
            del self._lingering[oldest]
            oldest.displace()

    def discard(self, session: Displaceable) -> None:
        """Take one out, because it has joined or gone; without effect on one that is not here."""
        self._waiting.pop(session, None)
        self._lingering.pop(session, None)
