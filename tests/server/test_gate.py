"""The gate at which publishers wait while input is paused."""

from __future__ import annotations

import asyncio

from broadcast.server.gate import BACKLOG, InputGate


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_gate_opens_when_no_reason_is_left() -> None:
    gate = InputGate()
    gate.hold("one", True)
    gate.hold("other", True)
    waiting = asyncio.create_task(gate.wait_turn())
    gate.hold("one", False)
    await settle()
    assert not gate.is_open and gate.must_wait and not waiting.done()
    gate.hold("other", False)
    await waiting
    assert gate.is_open and not gate.must_wait


async def test_commands_wait_only_for_readers() -> None:
    gate = InputGate()
    gate.hold("other", True)
    assert not gate.is_backlogged
    await gate.wait_for_readers()
    gate.hold(BACKLOG, True)
    waiting = asyncio.create_task(gate.wait_for_readers())
    await settle()
    assert gate.is_backlogged and not waiting.done()
    gate.hold(BACKLOG, False)
    await waiting


async def test_publishers_take_turns_in_the_order_in_which_they_came() -> None:
    gate, order = InputGate(), list[int]()

    async def publish(number: int) -> None:
        await gate.wait_turn()
        order.append(number)
        gate.hold("full", True)  # what it has published fills the backlog again

    gate.hold("full", True)
    tasks = [asyncio.create_task(publish(number)) for number in range(3)]
    for count in range(1, 4):
        gate.hold("full", False)
        await settle()
        assert order == [*range(count)]
    await asyncio.gather(*tasks)


async def test_publisher_that_gives_up_lets_the_next_one_go() -> None:
    gate = InputGate()
    gate.hold("full", True)
    first, second = (asyncio.create_task(gate.wait_turn()) for _ in range(2))
    await settle()
    first.cancel()
    gate.hold("full", False)
    await second
    assert not gate.must_wait
