"""The person at the terminal or the pipeline: stdin and stdout via an executor, nothing else.

Neither may block the event loop, nor keep the program from ending: `readline` in an executor hangs the exit until Enter, and `print` into a
full pipe hangs it for ever. So the executor's threads wait in `poll` for the stream or for a wake pipe that `close` writes to, and only
then read or write once. (Not epoll, which takes no files; and never O_NONBLOCK, which whoever shares the terminal would get too.)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

from .protocol import BroadcastError

READ_SIZE = 65_536
"""Bytes read from stdin at once."""

WRITE_SIZE = 4_096
"""Bytes written to stdout at once: a pipe that polls as writable takes that many (PIPE_BUF) without blocking."""

T = TypeVar("T")


class OutputClosedError(BroadcastError):
    """Whoever read our stdout has gone."""


class Console:
    """stdin and stdout of this process, within `with Console() as console:`. One that was closed from the start has nothing to
    read, or takes everything and shows it to nobody."""

    def __init__(self) -> None:
        # When 0 or 1 is closed, the next file that is opened takes that number; sys tells what was there at the start.
        self._stdin = sys.stdin.fileno() if sys.stdin else None
        self._stdout = sys.stdout.fileno() if sys.stdout else None
        self._terminal: int | None = None  # a second way to the terminal that stdout is
        with contextlib.suppress(OSError, AttributeError):
            # A write to a terminal that is nearly full blocks though it polls as writable; this description is ours alone to make non-blocking.
            if self._stdout is not None and os.isatty(self._stdout):
                self._terminal = self._stdout = os.open(os.ttyname(self._stdout), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        self._wake, self._waker = os.pipe()
        self._executor = ThreadPoolExecutor(max_workers=2, thread_name_prefix="console")  # one reads, one writes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None) -> None:
        os.close(self._waker)  # wakes whoever polls the other end
        self._executor.shutdown()
        os.close(self._wake)
        if self._terminal is not None:
            os.close(self._terminal)

    async def read(self) -> bytes:
        """Return what can be read from stdin next, nothing at its end. Raises OutputClosedError as soon as nobody reads stdout."""
        return b"" if self._stdin is None else await self._run(self._read_blocking)

    async def until_output_closed(self) -> None:
        """Read nothing; raise OutputClosedError as soon as nobody reads stdout."""
        await self._run(lambda: self._poll(None, 0))

    async def write(self, data: bytes) -> None:
        """Write all of it to stdout. Raises OutputClosedError where nobody reads that any more."""
        if self._stdout is not None and data:
            await self._run(lambda: self._write_blocking(data))

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def _read_blocking(self) -> bytes:
        if self._stdin is not None and self._poll(self._stdin, select.POLLIN):
            with contextlib.suppress(OSError):  # a terminal that has hung up
                return os.read(self._stdin, READ_SIZE)
        return b""

    def _write_blocking(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest and self._stdout is not None and self._poll(self._stdout, select.POLLOUT):
            try:
                rest = rest[os.write(self._stdout, rest[:WRITE_SIZE]) :]
            except BlockingIOError:  # a terminal that polls as writable with room for less than a character
                continue
            except BrokenPipeError:
                raise OutputClosedError from None
            except OSError as problem:
                raise BroadcastError(f"can't write what arrives: {problem.strerror}") from None

    def _poll(self, stream: int | None, events: int) -> bool:
        """Wait until a stream is ready; return False where the console is being closed. Raises OutputClosedError."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if self._stdout is not None:
            poll.register(self._stdout, 0)  # errors are reported all the same
        if stream is not None:
            poll.register(stream, events)
        ready = dict(poll.poll())
        if self._wake in ready:
            return False
        if self._stdout is not None and ready.get(self._stdout, 0) & (select.POLLERR | select.POLLHUP):
            raise OutputClosedError
        return True
