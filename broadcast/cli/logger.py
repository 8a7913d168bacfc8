"""The project's logger: one place that sets format, level and stream."""

from __future__ import annotations

import logging
import logging.handlers
import os
import queue
import sys
import threading

LOGGER = logging.getLogger("broadcast")
"""What this package logs to. As a library it sets nothing up: that is the program's to do."""

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

QUEUE_LIMIT = 10_000
"""Log lines that wait to be written: a rush of ten thousand clients fits in, and it is 5 MB."""

CLOSING_TIME = 0.5
"""Seconds that the last lines have to be written."""


class Log:
    """The log of a program on stderr, from `level` (one of LEVELS) up, a line an event, with the time in front; `close` it at the end.

    A thread of its own writes it, so a stderr that takes nothing, or is not there, delays and stops nobody; what does not fit a bounded
    queue is dropped and counted in `lost`. asyncio's errors go the same way; its warnings, of writes to peers that are gone, tell nobody anything.
    """

    def __init__(self, level: str) -> None:
        self.lost = 0
        self._queue: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
        front = DroppingQueueHandler(self._queue)
        front.log = self
        writer = DescriptorHandler()
        writer.log = self
        writer.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
        self._listener = logging.handlers.QueueListener(self._queue, writer)
        self._listener.start()
        for source, lowest in ((LOGGER, level), (logging.getLogger("asyncio"), logging.ERROR)):
            source.handlers[:] = [front]
            source.setLevel(lowest)
            source.propagate = False

    def close(self) -> None:
        """Have the last lines written, within CLOSING_TIME."""
        # It waits for the writer, which may be stuck for good.
        stopping = threading.Thread(target=self._listener.stop, daemon=True)
        stopping.start()
        stopping.join(CLOSING_TIME)


class DroppingQueueHandler(logging.handlers.QueueHandler):
    log: Log
    queue: queue.SimpleQueue[logging.LogRecord]

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Leave it to the writing thread to format a record that holds only strings and numbers.

        Anything else could have changed by then, and an exception would keep the frames of its
        traceback alive.
        """
        arguments = record.args or ()
        if record.exc_info or record.stack_info or not isinstance(arguments, tuple):
            return super().prepare(record)  # type: ignore[no-any-return]
        if not all(isinstance(argument, (str, int, float)) for argument in arguments):
            return super().prepare(record)  # type: ignore[no-any-return]
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Append a record without ever waiting; count it as lost when too many are pending."""
        if self.queue.qsize() < QUEUE_LIMIT:
            self.queue.put(record)
        else:
            self.log.lost += 1


class DescriptorHandler(logging.Handler):
    log: Log

    def handle(self, record: logging.LogRecord) -> bool:
        """Take no lock: only one thread is here, and the interpreter's end would wait for it while it is stuck."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stderr is None:  # descriptor 2 is somebody else's by now
            return
        rest = f"{self.format(record)}\n".encode(errors="replace")
        try:
            while rest:  # not by sys.stderr: its lock, held by a thread that is stuck, would abort the interpreter's end
                rest = rest[os.write(2, rest) :]
        except OSError:
            self.log.lost += 1
