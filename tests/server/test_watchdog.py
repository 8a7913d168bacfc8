"""The timeout task: it waits for a deadline that moves, and checks twice."""

from __future__ import annotations

import asyncio
import socket
import time

from broadcast.server.watchdog import watch_deadline


async def test_watchdog_waits_for_a_deadline_that_moves() -> None:
    expired = asyncio.Event()
    deadline = time.monotonic() + 0.1
    waiting = asyncio.create_task(
        watch_deadline(lambda: deadline - time.monotonic(), 10.0, expired.set)
    )
    await asyncio.sleep(0.05)
    deadline += 0.15
    await asyncio.sleep(0.1)
    assert not expired.is_set()
    await waiting
    assert expired.is_set()
    assert 0 <= time.monotonic() - deadline < 1


async def test_watchdog_checks_again_after_the_sockets_were_polled() -> None:
    """After the process was stopped, timers run first, before data in a socket is read."""
    expired = asyncio.Event()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        deadline = time.monotonic() + 0.1

        async def hear() -> None:
            nonlocal deadline
            await asyncio.get_running_loop().sock_recv(ours, 1)
            deadline = time.monotonic() + 100

        hearing = asyncio.create_task(hear())
        waiting = asyncio.create_task(
            watch_deadline(lambda: deadline - time.monotonic(), 10.0, expired.set)
        )
        await asyncio.sleep(0.02)
        theirs.send(b"x")
        selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
        poll = selector.select

        def interrupted(timeout: float | None = None) -> list[object]:
            selector.select = poll
            return []  # as after SIGCONT: the time is up, and no socket was polled

        selector.select = interrupted
        time.sleep(0.2)
        await hearing
        await asyncio.sleep(0.1)
        assert not expired.is_set()
        waiting.cancel()
