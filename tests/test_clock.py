"""Time that counts against a client: only what the server spent serving."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from broadcast.clock import TICK, TICK_LIMIT, ServingClock, passed


class Time:
    """A time that tests set: stands in for the loop's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now)


async def test_counts_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Time(monkeypatch)
    clock = ServingClock()
    fake.now += 0.25
    assert clock.awake() == clock.reading() == 0.25


async def test_a_stop_counts_as_one_tick_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Time(monkeypatch)
    clock = ServingClock()
    clock.start()
    for _ in range(4):
        fake.now += TICK
        clock._tick()
    assert clock.awake() == 4 * TICK
    fake.now += 3600
    assert clock.awake() == 4 * TICK + TICK_LIMIT, "also before the timer has run"
    clock._tick()
    fake.now += 0.25
    assert clock.awake() == 4 * TICK + TICK_LIMIT + 0.25
    clock.stop()


async def test_a_hold_stops_the_reading_clock_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Time(monkeypatch)
    clock = ServingClock()
    fake.now += 0.0625
    clock.hold()
    fake.now += 0.125
    assert (clock.awake(), clock.reading()) == (0.1875, 0.0625)
    clock.release()
    clock.release()
    fake.now += 0.25
    assert (clock.awake(), clock.reading()) == (0.4375, 0.3125)


async def test_ticks_by_itself_until_it_is_stopped() -> None:
    clock = ServingClock()
    clock.start()
    before = clock._timer
    async with asyncio.timeout(5 * TICK):
        while clock._timer is before:
            await asyncio.sleep(TICK / 4)
    clock.stop()
    assert clock._timer and clock._timer.cancelled()


async def test_passed_waits_for_a_deadline_that_moves() -> None:
    deadline = time.monotonic() + 0.1
    waiting = asyncio.create_task(passed(lambda: deadline, time.monotonic, 10.0))
    await asyncio.sleep(0.05)
    deadline += 0.15
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await waiting
    assert 0 <= time.monotonic() - deadline < 1


async def test_passed_looks_again_after_the_sockets_were_polled() -> None:
    """After a stop the timers run first: a sign of life that waits in a socket has to be seen before the deadline counts."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        deadline = time.monotonic() + 0.1

        async def hear() -> None:
            nonlocal deadline
            await asyncio.get_running_loop().sock_recv(ours, 1)
            deadline = time.monotonic() + 100

        hearing = asyncio.create_task(hear())
        waiting = asyncio.create_task(passed(lambda: deadline, time.monotonic, 10.0))
        await asyncio.sleep(0.02)
        theirs.send(b"x")
        selector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
        poll = selector.select

        def interrupted(timeout: float | None = None) -> list[object]:
            selector.select = poll
            return []  # as after SIGCONT: the time is up, and the sockets were not asked

        selector.select = interrupted
        time.sleep(0.2)  # noqa: ASYNC251 (as if the process were stopped)
        await hearing
        await asyncio.sleep(0.1)
        assert not waiting.done()
        waiting.cancel()
