"""Bound the number of connections that have not joined, so that they can't keep clients out."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator

LOGGER = logging.getLogger("broadcast")

LOG_INTERVAL = 1.0
"""Minimum seconds between two log lines about displaced connections, each of which counts those
since the last one."""


class Strangers:
    """The connections that have not joined yet, at most `limit`, oldest first.

    Each connection above the limit displaces the oldest one, so that a peer that opens connections
    and sends nothing displaces its own, and a client that performs the handshake promptly joins.
    A displaced connection closes slowly, so that a peer that replaces each closed connection cannot
    do so at full speed. At most `limit` connections do that; beyond that, the oldest is closed at
    once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # What closes each, as a set that is in the order of their coming.
        self._waiting: dict[Callable[[], None], None] = {}
        self._lingering: dict[Callable[[], None], None] = {}  # displaced, and closing slowly
        self.displaced = 0  # since the start
        self._logged = 0  # of these
        self._log_due: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    @contextlib.contextmanager
    def holding(self, displace: Callable[[], None]) -> Iterator[None]:
        """Hold a connection until it has joined or closed; displace the oldest of too many.

        `displace` closes it after a delay; when called again, at once.
        """
        self._waiting[displace] = None
        if len(self._waiting) > self._limit:
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            self._lingering[oldest] = None
            self.displaced += 1
            if self._log_due is None:
                loop = asyncio.get_running_loop()
                self._log_due = loop.call_later(LOG_INTERVAL, self._log)
            oldest()
        if len(self._lingering) > self._limit:
            oldest = next(iter(self._lingering))
            del self._lingering[oldest]
            oldest()
        try:
            yield
        finally:
            self._waiting.pop(displace, None)
            self._lingering.pop(displace, None)

    def _log(self) -> None:
        self._log_due = None
        count, self._logged = self.displaced - self._logged, self.displaced
        message = "%d turned away: more than %d connections have not joined"
        LOGGER.warning(message, count, self._limit)
