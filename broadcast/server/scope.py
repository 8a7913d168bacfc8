"""Run a block of code until it ends or is interrupted, and keep the reason."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Generic, Self, TypeVar

Reason = TypeVar("Reason")


class Scope(Generic[Reason]):
    """Runs the body of `async with scope:` until it ends, or `interrupt` cancels it.

    `reason` is that of the first interruption, or None. It may be set even though the body ended by
    itself, if both happened in one iteration of the event loop. A scope is used once. If it was
    interrupted before it is entered, its body is cancelled at its first wait.
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

    async def __aenter__(self) -> Self:
        self._timeout = asyncio.timeout(None if self.reason is None else 0)
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        assert self._timeout
        timeout, self._timeout = self._timeout, None
        try:
            await timeout.__aexit__(kind, exception, traceback)
        except TimeoutError:
            return True
        return False
