"""The sessions of a server: they begin, are interrupted, and end together."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Self

from ..net.connection import Connection
from .reasons import LeaveReason
from .session import ServerContext, Session

LOGGER = logging.getLogger("broadcast")


class Sessions:
    """Runs each session in a task of its own; leaving it as a context manager ends them all.

    Not a TaskGroup: one session that fails must not end the others.
    """

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._running: dict[asyncio.Task[None], Session] = {}

    def __len__(self) -> int:
        return len(self._running)

    def start(self, opening: Coroutine[None, None, Connection]) -> Session:
        """Serve a connection, once it is open, in a task that owns it until it is closed."""
        session = Session(self._context)
        task = asyncio.create_task(session.run(opening), name="session")
        self._running[task] = session
        task.add_done_callback(self._forget)
        return session

    def _forget(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        if not task.cancelled() and (problem := task.exception()):
            LOGGER.error("a session failed: please report this", exc_info=problem)

    def interrupt(self, reason: LeaveReason) -> None:
        """Interrupt all sessions for a reason."""
        for session in self._running.values():
            session.interrupt(reason)

    async def wait(self, seconds: float) -> None:
        """Wait until those that are running have ended, at most for some seconds."""
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cut off all that are left; the room is closed first, so that nobody is told of that."""
        self._context.room.close()
        for task in self._running:
            # Not at once: a task that is cancelled before it has begun can't close what it owns.
            asyncio.get_running_loop().call_soon(task.cancel)
        await asyncio.gather(*self._running, return_exceptions=True)
