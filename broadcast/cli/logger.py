"""The program's log: its format, its level, and a writer thread that never delays the server."""

import contextlib
import logging
import logging.handlers
import os
import queue
import sys
from typing import Self

from ..system.threads import call_in_thread

LOGGER = logging.getLogger("broadcast")
"""The package's logger; only a program configures it."""

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class Log(logging.handlers.QueueListener):
    """The log of a program on stderr, a line per event from `level` up, within `with Log(level):`.

    Its own thread writes it, so a blocked or missing stderr delays nobody. Lines that do not fit
    into a bounded queue are dropped and counted in `lost`. asyncio's errors are logged, too,
    but not its warnings about writes to peers that have gone.
    """

    queue_limit = 10_000
    """Lines waiting to be written: enough for ten thousand clients at once, and some megabytes."""

    close_timeout = 0.5
    """Seconds that leaving it waits at most for the last lines to be written."""

    queue: queue.SimpleQueue[logging.LogRecord]

    def __init__(self, level: str) -> None:
        super().__init__(queue.SimpleQueue())
        self.lost = 0
        self._levels = {LOGGER: level, logging.getLogger("asyncio"): "ERROR"}
        self._formatter = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s")
        self._handler = DroppingQueueHandler(self.queue)
        self._handler.log = self

    def __enter__(self) -> Self:
        for logger, lowest in self._levels.items():
            logger.addHandler(self._handler)
            logger.setLevel(lowest)
            logger.propagate = False
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        for logger in self._levels:
            logger.removeHandler(self._handler)
        # `stop` waits for the writer thread, which may be blocked forever.
        with contextlib.suppress(TimeoutError):
            call_in_thread(self.stop).result(self.close_timeout)

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
