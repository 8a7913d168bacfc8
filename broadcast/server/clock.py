"""Measure the time that counts against a client: only while the server is running."""

import asyncio
from typing import Self

TICK = 0.25
"""Seconds between two ticks: cheap, and short enough to notice that the process was stopped."""

TICK_LIMIT = 0.5
"""Maximum seconds that count between two ticks. More have passed only if the process did not run:
it was stopped (SIGSTOP, a suspended machine) or starved."""


class ServingClock:
    """Two monotonic clocks, in seconds.

    Running time stops while the process does not run; reading time also stops while input is
    paused. The clock ticks while it is used as a context manager, in an event loop.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ticked_at = self._loop.time()  # the last tick, in the loop's time
        self._counted = 0.0  # running time at the last tick
        self._stopped_for = 0.0  # seconds for which reading time was stopped before
        self._stopped_at: float | None = None  # while it is: since when, in running time
        self._timer: asyncio.TimerHandle | None = None  # the next tick

    def __enter__(self) -> Self:
        self._tick()
        return self

    def _tick(self) -> None:
        self._counted = self.running_time()
        self._ticked_at = self._loop.time()
        self._timer = self._loop.call_later(TICK, self._tick)

    def __exit__(self, *_: object) -> None:
        if self._timer:
            self._timer.cancel()

    def running_time(self) -> float:
        """Return the seconds for which the process has run."""
        return self._counted + min(self._loop.time() - self._ticked_at, TICK_LIMIT)

    def reading_time(self) -> float:
        """Return the seconds for which the process has run and input was not paused."""
        until = self.running_time() if self._stopped_at is None else self._stopped_at
        return until - self._stopped_for

    def stop_reading_time(self, stopped: bool) -> None:
        """Stop the reading time, or let it go on; no effect if it does that already."""
        if stopped and self._stopped_at is None:
            self._stopped_at = self.running_time()
        elif not stopped and self._stopped_at is not None:
            self._stopped_for += self.running_time() - self._stopped_at
            self._stopped_at = None
