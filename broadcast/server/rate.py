"""Limit the rate of lines from each client, so that reconnecting does not circumvent it."""

import math

BURST = 1.0
"""Seconds' worth of lines that a client may send at once after a silence."""

SWEEP_SIZE = 1_000
"""Addresses remembered before outdated ones are removed; more where more are in use."""


class RateLimiter:
    """Decides when lines may be handled: `rate` per second and client; times are in running time.

    A client's state is the time at which the rate will have caught up with its lines. A new client
    may begin with a burst, but only one for each address within BURST seconds, and the state of a
    client that leaves is passed on to the next one from its address. So reconnecting gains nothing,
    and costs an honest neighbour at most its first burst.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._used_until: dict[str, float] = {}  # by address: the state of its next new client
        self._sweep_size = SWEEP_SIZE  # number of addresses at which outdated ones are removed

    @property
    def most_lines(self) -> int:
        """Maximum number of lines that may be handled at once."""
        return math.ceil(self.rate * BURST)

    def enter(self, address: str, now: float) -> float:
        """Return the state of a new client."""
        used_until = max(self._used_until.get(address, -math.inf), now - BURST)
        self._remember(address, max(used_until, now), now)
        return used_until

    def use(self, used_until: float, lines: int, now: float) -> float:
        """Return the state after `lines` more lines, which is the time when they may be handled."""
        return max(used_until, now - BURST) + lines / self.rate

    def leave(self, address: str, used_until: float, now: float) -> None:
        """Remember the state of a client that leaves, for BURST seconds at most."""
        self._remember(address, min(used_until, now + BURST), now)

    def _remember(self, address: str, used_until: float, now: float) -> None:
        self._used_until[address] = max(used_until, self._used_until.get(address, -math.inf))
        if len(self._used_until) > self._sweep_size:
            self._used_until = {a: t for a, t in self._used_until.items() if t > now - BURST}
            # Otherwise each client in a crowd would cost a sweep.
            self._sweep_size = max(SWEEP_SIZE, 2 * len(self._used_until))
