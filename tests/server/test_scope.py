"""Scopes: a body ends by itself, or is interrupted with a reason."""

from __future__ import annotations

import asyncio

import pytest

from broadcast.server.scope import Scope


async def test_body_that_ends_by_itself_leaves_no_reason() -> None:
    scope: Scope[str] = Scope()
    assert await scope.run(asyncio.sleep(0, "result")) == "result"
    assert scope.reason is None


async def test_interruption_cancels_the_body_and_continues_after_it() -> None:
    scope: Scope[str] = Scope()
    asyncio.get_running_loop().call_soon(scope.interrupt, "first")
    asyncio.get_running_loop().call_soon(scope.interrupt, "second")
    assert await scope.run(asyncio.get_running_loop().create_future()) == "first"
    assert scope.reason == "first"


async def test_scope_interrupted_before_it_is_entered_cancels_its_body_at_once() -> None:
    scope: Scope[str] = Scope()
    scope.interrupt("early")
    assert await scope.run(asyncio.get_running_loop().create_future()) == "early"
    assert scope.reason == "early"


async def test_exception_of_the_body_passes_through() -> None:
    scope: Scope[str] = Scope()

    async def body() -> None:
        raise TimeoutError  # an unreachable peer raises the same type

    with pytest.raises(TimeoutError):
        await scope.run(body())
    assert scope.reason is None


async def test_cancellation_from_outside_passes_through() -> None:
    scope: Scope[str] = Scope()
    task = asyncio.create_task(scope.run(asyncio.get_running_loop().create_future()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert scope.reason is None
