"""Tasks that live as long as a block of code."""

from __future__ import annotations

import asyncio

import pytest

from broadcast.system.tasks import background_task, background_tasks


async def fail(problem: Exception) -> None:
    raise problem


async def wait_for_ever() -> None:
    await asyncio.Event().wait()


class TestBackgroundTasks:
    async def test_tasks_end_with_the_block(self) -> None:
        async with background_tasks() as start:
            task = start(wait_for_ever())
            await asyncio.sleep(0)
        assert task.cancelled()

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
            async with background_tasks() as start:
                start(wait(None))
                start(wait(ValueError("what follows from it")))
                await asyncio.sleep(0)
                start(fail(KeyError("first")))
                try:
                    await asyncio.Event().wait()
                finally:
                    ended.append("body")
        assert sorted(ended) == ["body", "task", "task"]

    async def test_problem_of_the_body_is_raised_itself(self) -> None:
        with pytest.raises(KeyError, match="body"):
            async with background_tasks():
                await fail(KeyError("body"))

    async def test_problem_of_the_block_comes_before_what_follows_from_it(self) -> None:
        async def fail_at_the_end() -> None:
            try:
                await wait_for_ever()
            finally:
                raise ValueError("what follows from it")

        with pytest.raises(KeyError, match="first"):
            async with background_tasks() as start:
                start(fail_at_the_end())
                await asyncio.sleep(0)
                raise KeyError("first")

    async def test_cancellation_is_no_problem(self) -> None:
        async def run() -> None:
            async with background_tasks() as start:
                start(wait_for_ever())
                await asyncio.Event().wait()

        running = asyncio.create_task(run())
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


class TestBackgroundTask:
    async def test_task_ends_with_the_block(self) -> None:
        async with background_task(wait_for_ever()) as task:
            await asyncio.sleep(0)
        assert task.cancelled()

    async def test_what_it_has_raised_is_raised_at_the_end(self) -> None:
        went_on = False
        with pytest.raises(KeyError, match="early"):
            async with background_task(fail(KeyError("early"))) as task:
                await asyncio.wait([task])
                went_on = True
        assert went_on

    async def test_problem_of_the_block_comes_first(self) -> None:
        with pytest.raises(ValueError, match="block"):
            async with background_task(wait_for_ever()) as task:
                raise ValueError("block")
        assert task.cancelled()
