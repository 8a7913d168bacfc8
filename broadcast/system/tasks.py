"""Tasks that live as long as a block of code."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine

Start = Callable[[Coroutine[None, None, None]], asyncio.Task[None]]


@contextlib.asynccontextmanager
async def background_tasks() -> AsyncIterator[Start]:
    """Start tasks that are cancelled when the block ends, and end it when one of them fails.

    The first problem is raised itself, not as a group of exceptions: it cancels everything else, so
    that what the other tasks raise afterwards only follows from it.
    """
    running: set[asyncio.Task[None]] = set()
    problems: list[BaseException] = []  # in the order in which they came

    def on_end(task: asyncio.Task[None]) -> None:
        running.discard(task)
        if not task.cancelled() and (problem := task.exception()):
            problems.append(problem)

    try:
        async with asyncio.TaskGroup() as group:

            def start(work: Coroutine[None, None, None]) -> asyncio.Task[None]:
                task = group.create_task(work)
                running.add(task)
                task.add_done_callback(on_end)
                return task

            try:
                yield start
            except Exception as problem:
                problems.append(problem)
                raise
            for task in running:
                task.cancel()
    except ExceptionGroup:
        raise problems[0] from None


@contextlib.asynccontextmanager
async def background_task(
    work: Coroutine[None, None, None],
) -> AsyncIterator[asyncio.Task[None]]:
    """Run one task that is cancelled when the block ends; what it raised before is raised then.

    Unlike the tasks of `background_tasks`, it does not end the block when it fails, and another
    task may leave the block than has entered it.
    """
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
    if not task.cancelled():
        task.result()
