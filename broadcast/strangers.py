"""Connections that have not joined yet: a bound of their own, so that they keep nobody out."""

from __future__ import annotations

from typing import Protocol

DEFAULT_MAX_STRANGERS = 512
"""Connections in their handshake at once: a rush of clients on a slow network fits in, and they
hold some 10 MB, or 30 MB with TLS."""


class Displaceable(Protocol):
    """One that can be made to go."""

    def displace(self) -> None:
        """Make room for a newcomer."""


class Strangers:
    """Those who have not joined yet, in the order in which they came, `limit` at most.

    When one more comes, the one that has waited longest makes room for it: whoever opens
    connections and says nothing displaces itself, and a client that shakes hands at once gets in.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: dict[Displaceable, None] = {}
        self.displaced = 0  # since the beginning

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, newcomer: Displaceable) -> None:
        """Add the newest one, and displace the oldest if there are too many then."""
        self._waiting[newcomer] = None
        if len(self._waiting) > self._limit:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            self.displaced += 1
            oldest.displace()

    def discard(self, session: Displaceable) -> None:
        """Take one out, because it has joined or gone; without effect on one that is not here."""
        self._waiting.pop(session, None)
