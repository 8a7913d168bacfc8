"""The clock that counts only the time that the server spends serving."""

from __future__ import annotations

import asyncio

import pytest

from broadcast.server.clock import TICK, TICK_LIMIT, ServingClock


class Time:
    """A time that a test sets, in place of that of the event loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: self.now)


async def test_clock_counts_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Time(monkeypatch)
    clock = ServingClock()
    fake.now += 0.25
    assert clock.running_time() == clock.reading_time() == 0.25


async def test_time_while_the_process_is_stopped_counts_as_one_tick_at_most(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = Time(monkeypatch)
    with ServingClock() as clock:
        for _ in range(4):
            fake.now += TICK
            clock._tick()
        assert clock.running_time() == 4 * TICK
        fake.now += 3600
        assert clock.running_time() == 4 * TICK + TICK_LIMIT, "even before the timer has run"
        clock._tick()
        fake.now += 0.25
        assert clock.running_time() == 4 * TICK + TICK_LIMIT + 0.25


async def test_only_the_reading_time_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Time(monkeypatch)
    clock = ServingClock()
    fake.now += 0.0625
    clock.stop_reading_time(True)
    fake.now += 0.0625
    clock.stop_reading_time(True)
    fake.now += 0.0625
    assert (clock.running_time(), clock.reading_time()) == (0.1875, 0.0625)
    clock.stop_reading_time(False)
    clock.stop_reading_time(False)
    fake.now += 0.25
    assert (clock.running_time(), clock.reading_time()) == (0.4375, 0.3125)


async def test_clock_ticks_by_itself_until_it_is_stopped() -> None:
    with ServingClock() as clock:
        before = clock._timer
        async with asyncio.timeout(5 * TICK):
            while clock._timer is before:
                await asyncio.sleep(TICK / 4)
    assert clock._timer and clock._timer.cancelled()
