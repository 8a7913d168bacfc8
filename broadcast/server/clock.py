"""Time that counts against a client: only what the server spent serving."""

from __future__ import annotations

import asyncio

TICK = 0.25
"""Seconds between two looks at the time: four wake-ups a second are nothing, and a stop of half a second is noticed."""

TICK_LIMIT = 0.5
"""The most seconds that may count between two looks. More have passed only when the process did not run: it was stopped (SIGSTOP, a
suspended machine) or starved."""


class ServingClock:
    """Two clocks that never go back, in seconds: one stands while the process does not run, the other while clients are not read too.

    Runs between `start` and `stop`, within an event loop.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ticked_at = self._loop.time()  # the last tick, in the loop's time
        self._counted = 0.0  # seconds awake up to the last tick
        self._unread = 0.0  # seconds in which clients were not read, up to the end of the last hold
        self._paused_at: float | None = (
            None  # when the hold began, in time awake; None while clients are read
        )
        self._timer: asyncio.TimerHandle | None = None  # the next tick, from `start` to `stop`

    def start(self) -> None:
        """Begin to tick."""
        self._tick()

    def _tick(self) -> None:
        self._counted = self.running_time()
        self._ticked_at = self._loop.time()
        self._timer = self._loop.call_later(TICK, self._tick)

    def stop(self) -> None:
        """Tick no more."""
        if self._timer:
            self._timer.cancel()

    def running_time(self) -> float:
        """Return the seconds in which this process ran."""
        return self._counted + min(self._loop.time() - self._ticked_at, TICK_LIMIT)

    def reading_time(self) -> float:
        """Return the seconds in which this process ran and clients were read."""
        return (self.running_time() if self._paused_at is None else self._paused_at) - self._unread

    def pause(self) -> None:
        """From now on clients are not read."""
        self._paused_at = self.running_time()

    def resume(self) -> None:
        """Clients are read again."""
        if self._paused_at is not None:
            self._unread += self.running_time() - self._paused_at
            self._paused_at = None
