"""Run something until it ends or is interrupted, and keep the reason."""

import asyncio
from collections.abc import Awaitable
from typing import Generic, TypeVar

Reason = TypeVar("Reason")


class Scope(Generic[Reason]):
    """Runs a body until it ends, or `interrupt` cancels it; use it once.

    `reason`: the reason of the first interruption, or None. It may be set even though the body
    ended by itself, if both happened in one iteration of the event loop. If the scope was
    interrupted before it runs, its body is cancelled at its first wait.
    """

    __slots__ = ("_timeout", "reason")

    def __init__(self) -> None:
        self.reason: Reason | None = None
        self._timeout: asyncio.Timeout | None = None  # while the body runs

    def interrupt(self, reason: Reason) -> None:
        """Cancel the body; only the first call has an effect."""
        if self.reason is None:
            self.reason = reason
            if self._timeout:
                self._timeout.reschedule(asyncio.get_running_loop().time())

    async def run(self, body: Awaitable[Reason | None]) -> Reason | None:
        """Run the body; return the reason of the interruption or, without one, its result."""
        result = None
        try:
            async with asyncio.timeout(None if self.reason is None else 0) as self._timeout:
                result = await body
        except TimeoutError:
            if self.reason is None:
                raise  # the body's own: an unreachable peer raises the same type
        finally:
            self._timeout = None
        return self.reason or result
