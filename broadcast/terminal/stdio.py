"""stdin, stdout and stderr through threads, so that none of them blocks the event loop.

They must not delay the exit either: `readline` in an ordinary executor delays the exit until
Enter is pressed, and `print` into a full pipe delays it forever. So the threads here wait in
`poll` for the stream or for a wake-up pipe, and only then read or write once. Not in epoll, which
does not support files; and the streams are never made non-blocking, because other programs share
them.

If another program fills a pipe between the poll and the write, the write blocks its thread, which
is not joined at exit.
"""

import asyncio
import contextlib
import functools
import os
import queue
import select
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import IO, Any, Self, TypeVar

from ..errors import BroadcastError, OutputClosedError
from ..system.stderr import ERROR_TIMEOUT, error_lines
from ..system.threads import complete
from .tty import HAS_RAW_MODE, RawMode, open_terminal

READ_SIZE = 65_536
"""Bytes read from stdin at once."""

WRITE_SIZE = 4_096
"""Bytes written at once: a pipe that polls as writable accepts this many (PIPE_BUF) without
blocking."""

JOIN_TIMEOUT = 0.1
"""Seconds for a woken thread to end; it needs more only if a write has blocked."""

T = TypeVar("T")


class Worker:
    """A thread that makes calls in order; the interpreter does not join it at exit."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """Queue a call; its future gets the result or the exception."""
        result: Future[T] = Future()
        self._calls.put(functools.partial(complete, result, work, *arguments))
        future = asyncio.wrap_future(result)
        # At exit nobody may be waiting when it fails: asyncio would log that to stderr, and block.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return future

    def join(self, deadline: float) -> bool:
        """End the thread after the queued calls; return False if the monotonic deadline passes."""
        self._calls.put(None)
        self._thread.join(max(0, deadline - time.monotonic()))
        return not self._thread.is_alive()

    def _work(self) -> None:
        while call := self._calls.get():
            call()


class Console:
    """stdin, stdout and stderr of this process, within `with Console() as console:`.

    A stream that was closed when the program started has no input, or discards all output.
    """

    def __init__(self) -> None:
        # While fd 0, 1 or 2 is closed, the next file to be opened gets that number, so only sys
        # knows which streams existed at the start.
        streams = (sys.stdin, sys.stdout, sys.stderr)
        fds = (file.fileno() if file else None for file in streams)
        self._stdin, self._stdout, self._stderr = fds
        self._stdin_is_terminal = self._stdin is not None and os.isatty(self._stdin)
        self.stdout_is_terminal = self._stdout is not None and os.isatty(self._stdout)
        # While it is open.
        self._terminal: int | None = None
        self._wake_reader: int
        self._wake_writer: IO[bytes]
        self._reader: Worker
        self._writer: Worker
        self._error_writer: Worker
        self._opened: contextlib.ExitStack
        # Kept when its caller is cancelled: the next call gets the result.
        self._pending_read: asyncio.Future[bytes] | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as opened:
            # A write to a nearly full terminal blocks although it polls as writable, so this one
            # is opened again as non-blocking. If stderr is one, a write may block its own thread.
            self._terminal = open_terminal(self._stdout)
            if self._terminal is not None:
                opened.callback(os.close, self._terminal)
                self._stdout = self._terminal
            self._wake_reader, wake_writer = os.pipe()
            opened.callback(os.close, self._wake_reader)
            # Closing it wakes every thread that polls the other end.
            self._wake_writer = opened.enter_context(open(wake_writer, "wb"))
            self._reader, self._writer, self._error_writer = Worker(), Worker(), Worker()
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._wake_writer.close()
        # Without poll nothing wakes the threads.
        deadline = time.monotonic() + (JOIN_TIMEOUT if hasattr(select, "poll") else 0)
        workers = (self._reader, self._writer, self._error_writer)
        ended = [worker.join(deadline) for worker in workers]
        if all(ended):  # otherwise a thread still uses them, and they are closed at exit
            self._opened.close()

    async def read(self) -> bytes:
        """Return the next chunk of stdin, empty at its end.

        If the call is cancelled, the next one returns what was read. Raises OutputClosedError as
        soon as the reader of stdout has gone.
        """
        return b"" if self._stdin is None else await self._read(self._stdin)

    async def wait_output_closed(self) -> None:
        """Wait, reading nothing; raise OutputClosedError when the reader of stdout has gone."""
        await self._read(None)
        await asyncio.Event().wait()  # it cannot be watched on this system

    async def write(self, data: bytes) -> None:
        """Write all data to stdout, even if the call is cancelled; closing the console ends that.

        Raises OutputClosedError if its reader has gone, BroadcastError if writing fails otherwise.
        """
        try:
            if data:
                # The caller will assume that all of it is on the screen.
                await _uncancelled(self._writer.submit(self._write_all, self._stdout, data))
        except BrokenPipeError:
            raise OutputClosedError from None
        except OSError as error:
            raise BroadcastError(f"can't write what arrives: {error.strerror}") from None

    async def write_errors(self, *lines: str) -> None:
        """Write lines to stderr, prefixed with `broadcast: `; they are lost if writing fails."""
        with contextlib.suppress(OSError):
            if lines:
                data = error_lines(*lines)
                await self._error_writer.submit(self._write_all, self._stderr, data)

    async def report(self, text: str) -> None:
        """Write a line to stderr like `write_errors`, but give up after ERROR_TIMEOUT."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ERROR_TIMEOUT):
                await self.write_errors(text)

    def write_nowait(self, data: bytes) -> None:
        """Write as much to the terminal as it accepts at once, where waiting is impossible."""
        if self._terminal is not None:
            with contextlib.suppress(OSError):
                os.write(self._terminal, data)

    def size(self) -> tuple[int, int]:
        """Return the columns and rows of the terminal, or 80 and 24 where it does not know."""
        assert self._terminal is not None
        columns = rows = 0
        with contextlib.suppress(OSError):  # the terminal has hung up
            columns, rows = os.get_terminal_size(self._terminal)
        return columns or 80, rows or 24

    @property
    def supports_raw_mode(self) -> bool:
        """Whether keys can be read one at a time."""
        return HAS_RAW_MODE and self._stdin_is_terminal and self._terminal is not None

    def raw_mode(self) -> RawMode:
        """Return the raw mode of stdin, which must be a terminal."""
        assert self._stdin is not None
        return RawMode(self._stdin)

    async def _read(self, fd: int | None) -> bytes:
        if self._pending_read is None:
            self._pending_read = self._reader.submit(self._read_once, fd)
        data = await _uncancelled(self._pending_read)
        self._pending_read = None
        return data

    def _read_once(self, fd: int | None) -> bytes:
        if self._wait_ready(fd) and fd is not None:
            with contextlib.suppress(OSError):  # a terminal that has hung up
                return os.read(fd, READ_SIZE)
        return b""

    def _write_all(self, fd: int | None, data: bytes) -> None:
        unwritten = memoryview(data)
        while fd is not None and unwritten and self._wait_ready(fd):
            # A terminal polls as writable even if it lacks room for one whole character.
            with contextlib.suppress(BlockingIOError):
                unwritten = unwritten[os.write(fd, unwritten[:WRITE_SIZE]) :]

    def _wait_ready(self, fd: int | None) -> bool:
        """Wait until a stream is ready; return False if the console is closed meanwhile.

        Raises OutputClosedError as soon as the reader of stdout has gone, unless it waits for
        stderr; with None it waits for nothing else.
        """
        if not hasattr(select, "poll"):  # Windows: a blocked thread is not joined at exit
            return True
        watched = None if fd is not None and fd == self._stderr else self._stdout
        poll = select.poll()
        poll.register(self._wake_reader, select.POLLIN)
        if watched is not None:
            poll.register(watched, 0)  # errors are reported even without any event
        if fd is not None:
            poll.register(fd, select.POLLIN if fd == self._stdin else select.POLLOUT)
        ready = dict(poll.poll())
        if self._wake_reader in ready:
            return False
        if watched is not None and ready.get(watched, 0) & (select.POLLERR | select.POLLHUP):
            raise OutputClosedError
        return True


async def _uncancelled(future: asyncio.Future[T]) -> T:
    """Wait for a future that goes on if the caller is cancelled.

    From 3.14 on, `asyncio.shield` would log the future's exception after that.
    """
    await asyncio.wait([future])
    return future.result()
