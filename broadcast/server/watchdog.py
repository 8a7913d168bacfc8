"""The timeout task of one client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

SHORTEST_SLEEP = 0.05
"""Seconds: how late a deadline may be noticed, so that nobody spins while a clock stands still."""

SECOND_LOOK = 0.001
"""Seconds from a deadline that has passed to the look that decides. After a stop asyncio runs its
timers before it polls its sockets; by then it has polled them too, and what live clients sent
meanwhile is known."""


async def watch(
    deadline: Callable[[], float],
    clock: Callable[[], float],
    longest: float,
    on_expired: Callable[[], None],
) -> None:
    """Call `on_expired` when `deadline`, which may move, has passed on `clock`; both are seconds.

    It looks again every `longest` seconds: a deadline never moves to less than that from now.
    """
    while True:
        await asyncio.sleep(min(max(deadline() - clock(), SHORTEST_SLEEP), longest))
        if deadline() <= clock():
            await asyncio.sleep(SECOND_LOOK)
            if deadline() <= clock():
                on_expired()
                return
