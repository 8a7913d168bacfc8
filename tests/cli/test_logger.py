"""The log: a thread writes it from a bounded queue, and nobody waits for it."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from broadcast.cli.logger import LOGGER, Log


@pytest.fixture
def log() -> Iterator[Log]:
    """A log that is used during the test, which must leave it."""
    loggers = (LOGGER, logging.getLogger("asyncio"))
    before = [(used.handlers[:], used.level, used.propagate) for used in loggers]
    log = Log("INFO")
    yield log.__enter__()
    for used, (handlers, level, propagate) in zip(loggers, before, strict=True):
        assert log._handler not in used.handlers, "the test has not left the log"
        used.handlers[:] = handlers
        used.setLevel(level)
        used.propagate = propagate


class Argument(str):
    """A string that records which thread formats it."""

    formatted_by: threading.Thread | None = None

    def __str__(self) -> str:
        self.formatted_by = threading.current_thread()
        return "argument"


def test_record_is_formatted_by_the_thread_that_writes_it(
    log: Log, capfd: pytest.CaptureFixture[str]
) -> None:
    argument = Argument()
    LOGGER.info("%s %d %.1f", argument, 1, 2.5)
    log.__exit__()
    assert capfd.readouterr().err.endswith(" INFO    argument 1 2.5\n")
    assert argument.formatted_by not in (None, threading.current_thread())


@pytest.mark.parametrize("arguments", [([1],), ({"a": 1},), (ValueError([1]),)])
def test_mutable_argument_is_formatted_immediately(
    log: Log, capfd: pytest.CaptureFixture[str], arguments: tuple[Any]
) -> None:
    message = "%s"
    log.stop()  # so that the record stays in the queue
    LOGGER.info(message, *arguments)
    (value,) = arguments
    expected = str(value)
    if isinstance(value, list):
        value.append(2)
    elif isinstance(value, dict):
        value["a"] = 2
    else:
        value.args = (2,)
    log.start()
    log.__exit__()
    assert capfd.readouterr().err.endswith(f" INFO    {expected}\n")


def test_traceback_is_written_and_its_frames_are_not_kept(
    log: Log, capfd: pytest.CaptureFixture[str]
) -> None:
    class Local:
        pass

    def fail() -> None:
        local = Local()
        raise ValueError(f"no good: {type(local).__name__}")

    log.stop()
    try:
        fail()
    except ValueError:
        LOGGER.exception("it failed")
    record = log.queue.get()
    assert record.exc_info is None
    log.queue.put(record)
    log.start()
    log.__exit__()
    written = capfd.readouterr().err
    assert " ERROR   it failed\nTraceback (most recent call last):\n" in written
    assert written.endswith("ValueError: no good: Local\n")


def test_records_dropped_by_a_stuck_log_are_counted_and_delay_nobody(log: Log) -> None:
    log.queue_limit, log.close_timeout = 100, 0.05
    reading, writing = os.pipe()
    saved = os.dup(2)
    os.dup2(writing, 2)  # nobody reads the pipe
    try:
        for _ in range(1_000):
            LOGGER.info("%s", "x" * 1_000)
        deadline = time.monotonic() + 10
        filled_for = 0
        while filled_for < 5 and time.monotonic() < deadline:  # until the thread is stuck, too
            filled_for = filled_for + 1 if log.queue.qsize() == 100 else 0
            LOGGER.info("%s", "x" * 1_000)
            time.sleep(0.01)
        lost = log.lost
        for _ in range(1_000):
            LOGGER.info("one too many")
        assert log.lost - lost == 1_000
        assert log.queue.qsize() == 100
        began = time.monotonic()
        log.__exit__()
        assert time.monotonic() - began < 1
    finally:
        deadline = time.monotonic() + 10
        while log._thread and time.monotonic() < deadline:  # until everything is written
            os.set_blocking(reading, False)
            with contextlib.suppress(BlockingIOError):
                os.read(reading, 65_536)
        os.dup2(saved, 2)
        for descriptor in (saved, writing, reading):
            os.close(descriptor)
