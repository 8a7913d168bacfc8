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

CLOSE_TIMEOUT = 0.5
"""Seconds that `close` waits for the last lines to be written."""


class Log(logging.handlers.QueueListener):
    """The log of a program on stderr, one line per event, from `level` up; `close` it at the end.

    Its own thread writes it, so a blocked or missing stderr delays nobody. Lines that do not fit
    into a bounded queue are dropped and counted in `lost`. asyncio's errors are logged, too,
    but not its warnings about writes to peers that have gone.

    `queue_limit`: lines that may wait. `close_timeout`: seconds that `close` takes at most.
    """

    queue: queue.SimpleQueue[logging.LogRecord]

    def __init__(
        self, level: str, queue_limit: int = QUEUE_LIMIT, close_timeout: float = CLOSE_TIMEOUT
    ) -> None:
        super().__init__(queue.SimpleQueue())
        self.queue_limit = queue_limit
        self.lost = 0
        self._close_timeout = close_timeout
        self._formatter = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s")
        handler = DroppingQueueHandler(self.queue)
        handler.log = self
        for logger, lowest in ((LOGGER, level), (logging.getLogger("asyncio"), logging.ERROR)):
            logger.handlers[:] = [handler]
            logger.setLevel(lowest)
            logger.propagate = False
        self.start()

    def handle(self, record: logging.LogRecord) -> None:
        """Write a record to file descriptor 2 in the log's thread, or count it as lost."""
        if sys.stderr is None:  # closed at the start: fd 2 may be another file by now
            return
        unwritten = f"{self._formatter.format(record)}\n".encode(errors="replace")
        try:
            # Neither through sys.stderr nor with a handler's lock: if a blocked thread holds one of
            # them, the interpreter aborts or waits at exit.
            while unwritten:
                unwritten = unwritten[os.write(2, unwritten) :]
        except OSError:
            self.lost += 1

    def close(self) -> None:
        """Write the last lines, for at most the close timeout."""
        # `stop` waits for the writer thread, which may be blocked forever.
        stopping = threading.Thread(target=self.stop, daemon=True)
        stopping.start()
        stopping.join(self._close_timeout)


class DroppingQueueHandler(logging.handlers.QueueHandler):
    """Queues records for the writer thread, and drops them while the queue is full."""

    log: Log
    queue: queue.SimpleQueue[logging.LogRecord]

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Leave the formatting to the writer thread if the arguments are strings and numbers.

        Other arguments may change before that, and an exception would keep the frames of its
        traceback alive.
        """
        arguments = record.args if isinstance(record.args, tuple) else (record.args,)
        is_constant = all(isinstance(argument, (str, int, float)) for argument in arguments)
        if is_constant and not record.exc_info and not record.stack_info:
            return record
        return super().prepare(record)  # type: ignore[no-any-return]

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue a record without waiting, or count it as lost if the queue is full."""
        if self.queue.qsize() < self.log.queue_limit:
            self.queue.put(record)
        else:
            self.log.lost += 1
