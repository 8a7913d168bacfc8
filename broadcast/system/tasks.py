"""Tasks that end together."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


@contextlib.asynccontextmanager
async def tasks_together() -> AsyncIterator[asyncio.TaskGroup]:
    """Run a TaskGroup that raises the first problem itself, not a group of exceptions.

    The first one cancels all other tasks, so that what these raise afterwards only follows from it.
    """
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except ExceptionGroup as problems:
        raise problems.exceptions[0] from None
