"""The gate at which publishers wait while input is paused."""

from __future__ import annotations

import asyncio

import pytest

from broadcast.server.clock import ServingClock
from broadcast.server.gate import InputGate, PauseReason


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_gate_opens_when_no_reason_is_left() -> None:
    gate = InputGate(ServingClock())
    gate.hold(PauseReason.AWAY, True)
    gate.hold(PauseReason.BEHIND, True)
    waiting = asyncio.create_task(gate.wait_turn())
    gate.hold(PauseReason.AWAY, False)
    await settle()
    assert not gate.is_open and gate.must_wait and not waiting.done()
    gate.hold(PauseReason.BEHIND, False)
    await waiting
    assert gate.is_open and not gate.must_wait


async def test_commands_wait_only_for_readers() -> None:
    gate = InputGate(ServingClock())
    gate.hold(PauseReason.BEHIND, True)
    assert not gate.is_backlogged
    await gate.wait_for_readers()
    gate.hold(PauseReason.BACKLOG, True)
    waiting = asyncio.create_task(gate.wait_for_readers())
    await settle()
    assert gate.is_backlogged and not waiting.done()
    gate.hold(PauseReason.BACKLOG, False)
    await waiting


async def test_publishers_take_turns_in_the_order_in_which_they_came() -> None:
    gate, order = InputGate(ServingClock()), list[int]()

    async def publish(number: int) -> None:
        await gate.wait_turn()
        order.append(number)
        gate.hold(PauseReason.BACKLOG, True)  # what it has published fills the backlog again

    gate.hold(PauseReason.BACKLOG, True)
    tasks = [asyncio.create_task(publish(number)) for number in range(3)]
    for count in range(1, 4):
        gate.hold(PauseReason.BACKLOG, False)
        await settle()
        assert order == [*range(count)]
    await asyncio.gather(*tasks)


async def test_publisher_that_gives_up_lets_the_next_one_go() -> None:
    gate = InputGate(ServingClock())
    gate.hold(PauseReason.BACKLOG, True)
    first, second = (asyncio.create_task(gate.wait_turn()) for _ in range(2))
    await settle()
    first.cancel()
    gate.hold(PauseReason.BACKLOG, False)
    await second
    assert not gate.must_wait


@pytest.mark.parametrize("reason", PauseReason)
async def test_what_may_last_stops_the_time_that_counts_against_clients(
    reason: PauseReason,
) -> None:
    with ServingClock() as clock:
        gate = InputGate(clock)
        gate.hold(PauseReason.IN_FLIGHT, True)
        gate.hold(reason, True)
        before = clock.reading_time()
        await asyncio.sleep(0.01)
        stops = clock.reading_time() == before
        assert stops == (reason in {PauseReason.BACKLOG, PauseReason.AWAY, PauseReason.BEHIND})
        gate.hold(reason, False)
        before = clock.reading_time()
        await asyncio.sleep(0.01)
        assert clock.reading_time() > before
