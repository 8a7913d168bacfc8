"""The person at the terminal or the pipeline: stdin, stdout and stderr via executors, nothing else.

Neither may block the event loop, nor keep the program from ending: `readline` in an executor hangs the exit until Enter, and `print` into a
full pipe hangs it for ever. So the executor's threads wait in `poll` for the stream or for a wake pipe that `close` writes to, and only
then read or write once. (Not epoll, which takes no files; and never O_NONBLOCK, which whoever shares the terminal would get too.)

Where somebody else fills a pipe between the poll and the write, the write blocks its thread, which
nobody waits for at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from types import TracebackType
from typing import Any, Self, TypeVar

from ..errors import BroadcastError, OutputClosedError

try:
    import termios
except ImportError:  # Windows: lines in, lines out
    termios = None  # type: ignore[assignment]

READ_SIZE = 65_536
"""Bytes read from stdin at once."""

WRITE_SIZE = 4_096
"""Bytes written at once: a pipe that polls as writable takes that many (PIPE_BUF) without
blocking."""

ERROR_TIMEOUT = 1.0
"""Seconds that `report` waits for a stderr that nobody reads: an error must not keep the program
from ending, nor a lost connection from being taken up again."""

JOIN_TIMEOUT = 0.1
"""Seconds for a thread to end once it has been woken: it does in microseconds, unless a write of
its blocks."""

T = TypeVar("T")


class DaemonThreadExecutor(Executor):
    """Executes calls in order, in a thread that the interpreter does not join at exit."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None  # from the first call on

    def submit(self, work: Callable[..., T], /, *arguments: Any, **named: Any) -> Future[T]:
        future: Future[T] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work(*arguments, **named))
            except (OSError, BroadcastError) as problem:
                future.set_exception(problem)

        self._calls.put(call)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        return future

    def end(self, deadline: float) -> bool:
        """Have the thread end after the calls submitted; return whether it has by the deadline.

        The deadline is a time of the monotonic clock.
        """
        self._calls.put(None)
        if self._thread:
            self._thread.join(max(0, deadline - time.monotonic()))
        return self._thread is None or not self._thread.is_alive()

    def _work(self) -> None:
        while call := self._calls.get():
            call()


class Console:
    """stdin, stdout and stderr of this process, within `with Console() as console:`.

    One that was closed from the start has nothing to read, or takes everything and shows it to
    nobody.
    """

    def __init__(self) -> None:
        # When 0, 1 or 2 is closed, the next file that is opened takes that number; sys tells what
        # was there at the start.
        self._stdin = sys.stdin.fileno() if sys.stdin else None
        self._stdout = sys.stdout.fileno() if sys.stdout else None
        self._stderr = sys.stderr.fileno() if sys.stderr else None
        self.reads_a_terminal = self._stdin is not None and os.isatty(self._stdin)
        self.writes_to_a_terminal = self._stdout is not None and os.isatty(self._stdout)
        self._reading: asyncio.Future[bytes] | None = None
        self._watching: asyncio.Future[bool] | None = None
        self._wake, self._waker = os.pipe()
        # A thread each. A read, or a watch, that goes on when nobody waits for it any more is kept
        # for the next call.
        self._reader = DaemonThreadExecutor()
        self._writer = DaemonThreadExecutor()
        self._error_writer = DaemonThreadExecutor()
        self._before: list[Any] | None = None  # while raw: how the terminal was
        self._enter: Callable[[], None] | None = None  # while raw: makes it so again
        self._opened: int | None = None  # a second way to the terminal that stdout is
        self._opened_for_errors: int | None = None  # likewise for stderr
        # A write to a terminal that is nearly full blocks though it polls as writable; this
        # description is ours to make non-blocking.
        if self.writes_to_a_terminal and (opened := _open_terminal(self._stdout)) is not None:
            self._opened = self._stdout = opened
        if (opened := _open_terminal(self._stderr)) is not None:
            self._opened_for_errors = self._stderr = opened

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._waker)  # wakes whoever polls the other end
        # Without poll nothing wakes the threads.
        deadline = time.monotonic() + (JOIN_TIMEOUT if hasattr(select, "poll") else 0)
        executors = (self._reader, self._writer, self._error_writer)
        ended = [executor.end(deadline) for executor in executors]
        if all(ended):  # otherwise a thread uses them still: they are closed with the process
            for descriptor in (self._wake, self._opened, self._opened_for_errors):
                if descriptor is not None:
                    os.close(descriptor)

    async def read(self) -> bytes:
        """Return what can be read from stdin next, nothing at its end. Raises OutputClosedError as soon as nobody reads stdout.

        Cancelled, it loses nothing: the next call returns what was read.
        """
        if self._stdin is None:
            return b""
        if self._reading is None:
            self._reading = self._run(self._reader, self._read_blocking)
        try:
            data = await asyncio.shield(self._reading)
        except BroadcastError:
            self._reading = None
            raise
        self._reading = None
        return data

    async def until_output_closed(self) -> None:
        """Read nothing; raise OutputClosedError as soon as nobody reads stdout."""
        if self._watching is None:
            self._watching = self._run(self._reader, lambda: self._poll(None, 0))
        await asyncio.shield(self._watching)
        await asyncio.Event().wait()  # it cannot be watched here

    async def write(self, data: bytes) -> None:
        """Write all of it to stdout. Raises OutputClosedError where nobody reads that any more, BroadcastError where it can't be written."""
        if self._stdout is not None and data:
            await self._run(self._writer, lambda: self._write_blocking(data))

    async def write_errors(self, *lines: str) -> None:
        """Write lines to stderr, each with `broadcast: ` in front.

        They are lost where the reader of stderr has gone.
        """
        if self._stderr is not None and lines:
            data = _error_lines(lines)
            await self._run(self._error_writer, lambda: self._write_errors_blocking(data))

    async def report(self, text: str) -> None:
        """Write a line to stderr as `write_errors` does, and give up after ERROR_TIMEOUT."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ERROR_TIMEOUT):
                await self.write_errors(text)

    def write_at_once(self, data: bytes) -> None:
        """Write to a terminal what it takes without waiting: the last thing, when nothing can be waited for."""
        if self._opened is not None:
            with contextlib.suppress(OSError):
                os.write(self._opened, data)

    def size(self) -> tuple[int, int]:
        """Return the columns and rows of the terminal that stdout is; the usual ones where it does not know."""
        columns, rows = os.get_terminal_size(self._stdout if self._stdout is not None else -1)
        return columns or 80, rows or 24

    @property
    def can_be_raw(self) -> bool:
        """Whether keys can be had one by one."""
        return termios is not None and self.reads_a_terminal and self._opened is not None

    @contextlib.contextmanager
    def raw(self) -> Iterator[Callable[[], None]]:
        """Have keys arrive one by one and as they are, Ctrl-C and Ctrl-Z too, until the end; gives what does it again after a stop.

        At the end, and before a stop, the terminal is as it was. Nothing typed ahead is lost, nor does it wait for a terminal that takes no output.
        """
        assert self._stdin is not None
        terminal, before = self._stdin, termios.tcgetattr(self._stdin)
        keys: list[Any] = [part[:] if isinstance(part, list) else part for part in before]
        keys[0] &= ~(termios.ICRNL | termios.IXON)
        keys[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN)
        keys[6][termios.VMIN], keys[6][termios.VTIME] = 1, 0

        def enter() -> None:
            with contextlib.suppress(OSError):  # it is not the terminal that controls us
                if os.tcgetpgrp(terminal) != os.getpgrp():
                    return  # from the background it would stop us
            termios.tcsetattr(terminal, termios.TCSANOW, keys)

        enter()
        self._before, self._enter = before, enter
        try:
            yield enter
        finally:
            self._before = self._enter = None
            with contextlib.suppress(termios.error):  # it has hung up
                termios.tcsetattr(terminal, termios.TCSANOW, before)

    def stop(self) -> None:
        """Stop this process as Ctrl-Z would, the terminal being as it was; it goes on where it was left, by SIGCONT."""
        if self._stdin is not None and self._before is not None and self._enter is not None:
            termios.tcsetattr(self._stdin, termios.TCSANOW, self._before)
            os.kill(os.getpid(), signal.SIGTSTP)
            self._enter()  # where nobody could continue us, as under `ssh host command`, the signal is ignored

    def _run(self, executor: Executor, work: Callable[[], T]) -> asyncio.Future[T]:
        future = asyncio.get_running_loop().run_in_executor(executor, work)
        # At the end nobody may wait for it when it fails: asyncio would log that to stderr, and
        # block there.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        return future

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
            except (
                BlockingIOError
            ):  # a terminal that polls as writable with room for less than a character
                continue
            except BrokenPipeError:
                raise OutputClosedError from None
            except OSError as problem:
                raise BroadcastError(f"can't write what arrives: {problem.strerror}") from None

    def _write_errors_blocking(self, data: bytes) -> None:
        rest = memoryview(data)
        with contextlib.suppress(OSError):
            while rest and self._stderr is not None:
                if not self._poll(self._stderr, select.POLLOUT, watch_stdout=False):
                    break
                with contextlib.suppress(BlockingIOError):
                    rest = rest[os.write(self._stderr, rest[:WRITE_SIZE]) :]

    def _poll(self, stream: int | None, events: int, watch_stdout: bool = True) -> bool:
        """Wait until a stream is ready; return False where the console is being closed.

        Raises OutputClosedError as soon as nobody reads stdout, if that is watched.
        """
        if not hasattr(select, "poll"):  # Windows: what blocks, blocks a thread that nobody joins
            return stream is not None
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        watched = self._stdout if watch_stdout else None
        if watched is not None:
            poll.register(watched, 0)  # errors are reported all the same
        if stream is not None:
            poll.register(stream, events)
        ready = dict(poll.poll())
        if self._wake in ready:
            return False
        if watched is not None and ready.get(watched, 0) & (select.POLLERR | select.POLLHUP):
            raise OutputClosedError
        return True


def print_error(text: str) -> None:
    """Write a line to stderr where there is no console; give up after ERROR_TIMEOUT."""
    if sys.stderr is None:
        return
    deadline = time.monotonic() + ERROR_TIMEOUT
    with contextlib.suppress(OSError):
        stream, rest = sys.stderr.fileno(), memoryview(_error_lines([text]))
        while rest and _is_writable(stream, max(0, deadline - time.monotonic())):
            rest = rest[os.write(stream, rest[:WRITE_SIZE]) :]


def _error_lines(texts: Iterable[str]) -> bytes:
    return "".join(f"broadcast: {text}\n" for text in texts).encode(errors="backslashreplace")


def _is_writable(stream: int, seconds: float) -> bool:
    """Wait until a write of WRITE_SIZE bytes would not block; return False when time is up."""
    if not hasattr(select, "poll"):
        return True
    poll = select.poll()
    poll.register(stream, select.POLLOUT)
    return bool(poll.poll(1000 * seconds))


def _open_terminal(stream: int | None) -> int | None:
    """Open the terminal that a stream is once more, as non-blocking.

    Return None where it is no terminal, or can't be opened.
    """
    with contextlib.suppress(OSError, AttributeError):
        if stream is not None and os.isatty(stream):
            return os.open(os.ttyname(stream), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    return None
