"""The program's log: its format, its level, and a writer thread that never delays the server."""

from __future__ import annotations

import logging
import logging.handlers
import os
import queue
import sys
import threading

LOGGER = logging.getLogger("broadcast")
"""The package's logger; only a program configures it."""

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

QUEUE_LIMIT = 10_000
"""Log lines waiting to be written: enough for ten thousand clients at once, and some megabytes."""

CLOSING_TIME = 0.5
"""Seconds that `close` waits for the last lines to be written."""


class Log:
    """The log of a program on stderr, one line per event, from `level` up; `close` it at the end.

    Its own thread writes it, so a blocked or missing stderr delays nobody. Lines that do not fit
    into a bounded queue are dropped and counted in `lost`. asyncio's errors are logged likewise,
    but not its warnings about writes to peers that have gone.
    """

    def __init__(self, level: str) -> None:
        self.lost = 0
        self._queue: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
        handler = DroppingQueueHandler(self._queue)
        handler.log = self
        writer = StderrHandler()
        writer.log = self
        writer.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
        self._listener = logging.handlers.QueueListener(self._queue, writer)
        self._listener.start()
        for logger, lowest in ((LOGGER, level), (logging.getLogger("asyncio"), logging.ERROR)):
            logger.handlers[:] = [handler]
            logger.setLevel(lowest)
            logger.propagate = False

    def close(self) -> None:
        """Write the last lines, for at most CLOSING_TIME."""
        # `stop` waits for the writer thread, which may be blocked for ever.
        stopping = threading.Thread(target=self._listener.stop, daemon=True)
        stopping.start()
        stopping.join(CLOSING_TIME)


class DroppingQueueHandler(logging.handlers.QueueHandler):
    """Queues records for the writer thread, and drops them while the queue is full."""

    log: Log
    queue: queue.SimpleQueue[logging.LogRecord]

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Leave the formatting to the writer thread if the arguments are strings and numbers.

        Other arguments may change before that, and an exception would keep the frames of its
        traceback alive.
        """
        arguments = record.args or ()
        if record.exc_info or record.stack_info or not isinstance(arguments, tuple):
            return super().prepare(record)  # type: ignore[no-any-return]
        if not all(isinstance(argument, (str, int, float)) for argument in arguments):
            return super().prepare(record)  # type: ignore[no-any-return]
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue a record without waiting, or count it as lost if the queue is full."""
        if self.queue.qsize() < QUEUE_LIMIT:
            self.queue.put(record)
        else:
            self.log.lost += 1


class StderrHandler(logging.Handler):
    """Writes records to file descriptor 2, without a lock."""

    log: Log

    def handle(self, record: logging.LogRecord) -> bool:
        """Emit a record without the handler's lock.

        Only the writer thread calls this, and at exit the interpreter would wait for a lock that a
        blocked thread holds.
        """
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it as lost if that fails."""
        if sys.stderr is None:  # closed at the start: fd 2 may be another file by now
            return
        unwritten = f"{self.format(record)}\n".encode(errors="replace")
        try:
            # Not through sys.stderr: if a blocked thread holds its lock, the interpreter aborts.
            while unwritten:
                unwritten = unwritten[os.write(2, unwritten) :]
        except OSError:
            self.log.lost += 1
