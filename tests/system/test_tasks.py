"""Tasks that end together."""

from __future__ import annotations

import asyncio

import pytest

from broadcast.system.tasks import tasks_together


async def fail(problem: Exception) -> None:
    raise problem


class TestTasksTogether:
    async def test_first_problem_is_raised_itself_and_ends_the_others(self) -> None:
        ended: list[str] = []

        async def wait(problem: Exception | None) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("task")
                if problem:
                    raise problem

        with pytest.raises(KeyError, match="first"):
            async with tasks_together() as tasks:
                tasks.create_task(wait(None))
                tasks.create_task(wait(ValueError("what follows from it")))
                await asyncio.sleep(0)
                tasks.create_task(fail(KeyError("first")))
                try:
                    await asyncio.Event().wait()
                finally:
                    ended.append("body")
        assert sorted(ended) == ["body", "task", "task"]

    async def test_problem_of_the_body_is_raised_itself(self) -> None:
        with pytest.raises(KeyError, match="body"):
            async with tasks_together():
                await fail(KeyError("body"))

    async def test_cancellation_is_no_problem(self) -> None:
        async def run() -> None:
            async with tasks_together() as tasks:
                tasks.create_task(asyncio.Event().wait())

        running = asyncio.create_task(run())
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
