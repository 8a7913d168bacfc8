"""Watch the deadline of one client."""

import asyncio
from collections.abc import Callable

SHORTEST_SLEEP = 0.05
"""Minimum seconds between two checks, so that they do not spin while a clock is stopped."""

RECHECK_DELAY = 0.001
"""Seconds between a deadline that has passed and the check that decides. After the process was
stopped, asyncio runs its timers before it polls its sockets; the delay lets it poll them first, so
that what clients sent meanwhile is taken into account."""


async def watch_deadline(
    time_left: Callable[[], float], longest: float, on_expired: Callable[[], None]
) -> None:
    """Call `on_expired` when no time is left; `longest`: maximum seconds between two checks.

    `time_left` returns seconds and may grow. It must not shrink by more than `longest` between
    checks, or expiry is detected late.
    """
    while True:
        await asyncio.sleep(min(max(time_left(), SHORTEST_SLEEP), longest))
        if time_left() <= 0:
            await asyncio.sleep(RECHECK_DELAY)
            if time_left() <= 0:
                on_expired()
                return
