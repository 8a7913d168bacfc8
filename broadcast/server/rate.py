"""A maximum rate of lines for each client, which reconnecting does not get around."""

from __future__ import annotations

import math

BURST = 1.0
"""Seconds' worth of lines that a client can save up by saying less."""

SWEEP_SIZE = 1_000
"""Addresses remembered before those that no longer matter are forgotten."""


class RateLimiter:
    """Says when lines may be handled, `rate` a second from one client; times are in running time.

    A client's state is the time up to which its lines have used the rate up. A newcomer may begin
    with a burst, but only one from each address in the time that it takes to save one up, and what
    a client owes when it leaves is handed on to the next: whoever connects, sends, resets and
    connects again gains nothing by that. A neighbour at most begins without a burst.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._used_until: dict[str, float] = {}  # by address: of the next newcomer from there

    @property
    def most_lines(self) -> int:
        """How many lines may be handled at once."""
        return math.ceil(self.rate * BURST)

    def enter(self, address: str, now: float) -> float:
        """Return the state of a newcomer."""
        used_until = max(self._used_until.get(address, -math.inf), now - BURST)
        self._remember(address, max(used_until, now), now)
        return used_until

    def use(self, used_until: float, lines: int, now: float) -> float:
        """Return the state after so many lines more, which is also when they may be handled."""
        return max(used_until, now - BURST) + lines / self.rate

    def leave(self, address: str, used_until: float, now: float) -> None:
        """Remember the state of one that leaves, as far as it matters for the next one."""
        self._remember(address, min(used_until, now + BURST), now)  # not for longer than that

    def _remember(self, address: str, used_until: float, now: float) -> None:
        self._used_until[address] = max(used_until, self._used_until.get(address, -math.inf))
        if len(self._used_until) > SWEEP_SIZE:
            recent = {a: t for a, t in self._used_until.items() if t > now - BURST}
            self._used_until = recent
