"""stdin, stdout and stderr through executors, so that none of them blocks the event loop.

Nor may they keep the program from exiting: `readline` in an ordinary executor delays the exit until
Enter is pressed, and `print` into a full pipe delays it for ever. So the threads here wait in
`poll` for the stream or for a wake-up pipe, and only then read or write once. Not in epoll, which
does not support files; and the streams are never made non-blocking, because other programs share
them.

If another program fills a pipe between the poll and the write, the write blocks its thread, which
is not joined at exit.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import select
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from typing import Any, Self, TypeVar

from ..errors import BroadcastError, OutputClosedError
from .tty import HAS_RAW_MODE, RawMode, open_terminal, terminal_size

READ_SIZE = 65_536
"""Bytes read from stdin at once."""

WRITE_SIZE = 4_096
"""Bytes written at once: a pipe that polls as writable accepts this many (PIPE_BUF) without
blocking."""

ERROR_TIMEOUT = 1.0
"""Seconds to wait for a stderr that nobody reads: an error message must delay neither the exit nor
the next attempt to connect."""

JOIN_TIMEOUT = 0.1
"""Seconds for a woken thread to end; it needs more only if a write has blocked."""

T = TypeVar("T")


class DaemonThreadExecutor(Executor):
    """Executes calls in order, in a thread that the interpreter does not join at exit."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None  # started by the first call

    def submit(self, work: Callable[..., T], /, *arguments: Any, **named: Any) -> Future[T]:
        """Queue a call; OSError and BroadcastError are passed on to its future."""
        future: Future[T] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work(*arguments, **named))
            except (OSError, BroadcastError) as error:
                future.set_exception(error)

        self._calls.put(call)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        return future

    def join(self, deadline: float) -> bool:
        """End the thread after the queued calls; return False if the monotonic deadline passes."""
        self._calls.put(None)
        if self._thread:
            self._thread.join(max(0, deadline - time.monotonic()))
        return self._thread is None or not self._thread.is_alive()

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
        self._stdin = sys.stdin.fileno() if sys.stdin else None
        self._stdout = sys.stdout.fileno() if sys.stdout else None
        self._stderr = sys.stderr.fileno() if sys.stderr else None
        self._stdin_is_terminal = self._stdin is not None and os.isatty(self._stdin)
        self.stdout_is_terminal = self._stdout is not None and os.isatty(self._stdout)
        # Kept when their caller is cancelled: the next call gets the result.
        self._pending_read: asyncio.Future[bytes] | None = None
        self._pending_watch: asyncio.Future[bool] | None = None
        self._wake_reader, self._wake_writer = os.pipe()
        self._reader = DaemonThreadExecutor()
        self._writer = DaemonThreadExecutor()
        self._error_writer = DaemonThreadExecutor()
        # A write to a nearly full terminal blocks although it polls as writable, so terminals are
        # opened again as non-blocking.
        self._terminal = open_terminal(self._stdout)
        self._error_terminal = open_terminal(self._stderr)
        if self._terminal is not None:
            self._stdout = self._terminal
        if self._error_terminal is not None:
            self._stderr = self._error_terminal

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        os.close(self._wake_writer)  # wakes every thread that polls the other end
        # Without poll nothing wakes the threads.
        deadline = time.monotonic() + (JOIN_TIMEOUT if hasattr(select, "poll") else 0)
        executors = (self._reader, self._writer, self._error_writer)
        ended = [executor.join(deadline) for executor in executors]
        if all(ended):  # otherwise a thread still uses them, and they are closed at exit
            for fd in (self._wake_reader, self._terminal, self._error_terminal):
                if fd is not None:
                    os.close(fd)

    async def read(self) -> bytes:
        """Return the next chunk of stdin, empty at its end.

        If the call is cancelled, the next one returns what was read. Raises OutputClosedError as
        soon as the reader of stdout has gone.
        """
        if self._stdin is None:
            return b""
        if self._pending_read is None:
            self._pending_read = self._run(self._reader, self._read_blocking)
        try:
            data = await asyncio.shield(self._pending_read)
        except BroadcastError:
            self._pending_read = None
            raise
        self._pending_read = None
        return data

    async def wait_output_closed(self) -> None:
        """Wait, reading nothing; raise OutputClosedError when the reader of stdout has gone."""
        if self._pending_watch is None:
            self._pending_watch = self._run(self._reader, lambda: self._wait_ready(None))
        await asyncio.shield(self._pending_watch)
        await asyncio.Event().wait()  # it cannot be watched on this system

    async def write(self, data: bytes) -> None:
        """Write all data to stdout.

        Raises OutputClosedError if its reader has gone, BroadcastError if writing fails otherwise.
        """
        if self._stdout is None or not data:
            return
        stdout = self._stdout
        try:
            await self._run(self._writer, lambda: self._write_blocking(stdout, data))
        except BrokenPipeError:
            raise OutputClosedError from None
        except OSError as error:
            raise BroadcastError(f"can't write what arrives: {error.strerror}") from None

    async def write_errors(self, *lines: str) -> None:
        """Write lines to stderr, prefixed with `broadcast: `; they are lost if writing fails."""
        if self._stderr is None or not lines:
            return
        stderr, data = self._stderr, _error_lines(lines)
        with contextlib.suppress(OSError):
            await self._run(
                self._error_writer,
                lambda: self._write_blocking(stderr, data, watch_stdout=False),
            )

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
        """Return the columns and rows of the terminal that stdout is."""
        return terminal_size(self._stdout)

    @property
    def supports_raw_mode(self) -> bool:
        """Whether keys can be read one at a time."""
        return HAS_RAW_MODE and self._stdin_is_terminal and self._terminal is not None

    def raw_mode(self) -> RawMode:
        """Return the raw mode of the terminal that stdin is."""
        assert self._stdin is not None
        return RawMode(self._stdin)

    def _run(self, executor: Executor, work: Callable[[], T]) -> asyncio.Future[T]:
        future = asyncio.get_running_loop().run_in_executor(executor, work)
        # At exit nobody may be waiting when it fails: asyncio would log that to stderr, and block.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return future

    def _read_blocking(self) -> bytes:
        if self._stdin is not None and self._wait_ready(self._stdin):
            with contextlib.suppress(OSError):  # a terminal that has hung up
                return os.read(self._stdin, READ_SIZE)
        return b""

    def _write_blocking(self, fd: int, data: bytes, watch_stdout: bool = True) -> None:
        unwritten = memoryview(data)
        while unwritten and self._wait_ready(fd, writing=True, watch_stdout=watch_stdout):
            # A terminal polls as writable even if it lacks room for one whole character.
            with contextlib.suppress(BlockingIOError):
                unwritten = unwritten[os.write(fd, unwritten[:WRITE_SIZE]) :]

    def _wait_ready(self, fd: int | None, writing: bool = False, watch_stdout: bool = True) -> bool:
        """Wait until a stream is ready; return False if the console is closed meanwhile.

        Raises OutputClosedError as soon as the reader of a watched stdout has gone.
        """
        if not hasattr(select, "poll"):  # Windows: a blocked thread is not joined at exit
            return fd is not None
        poll = select.poll()
        poll.register(self._wake_reader, select.POLLIN)
        watched = self._stdout if watch_stdout else None
        if watched is not None:
            poll.register(watched, 0)  # errors are reported even without any event
        if fd is not None:
            poll.register(fd, select.POLLOUT if writing else select.POLLIN)
        ready = dict(poll.poll())
        if self._wake_reader in ready:
            return False
        if watched is not None and ready.get(watched, 0) & (select.POLLERR | select.POLLHUP):
            raise OutputClosedError
        return True


def print_error(text: str) -> None:
    """Write a line to stderr without a console; give up after ERROR_TIMEOUT."""
    if sys.stderr is None:
        return
    deadline = time.monotonic() + ERROR_TIMEOUT
    with contextlib.suppress(OSError):
        fd, unwritten = sys.stderr.fileno(), memoryview(_error_lines([text]))
        while unwritten and _wait_writable(fd, max(0, deadline - time.monotonic())):
            unwritten = unwritten[os.write(fd, unwritten[:WRITE_SIZE]) :]


def _error_lines(lines: Iterable[str]) -> bytes:
    return "".join(f"broadcast: {line}\n" for line in lines).encode(errors="backslashreplace")


def _wait_writable(fd: int, seconds: float) -> bool:
    """Wait until a write of WRITE_SIZE bytes would not block; return False after that time."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(1000 * seconds))
