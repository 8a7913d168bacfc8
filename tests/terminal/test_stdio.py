"""The console: stdin, stdout and stderr without blocking the event loop."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest
from helpers import linux_only, until

from broadcast.terminal.stdio import Console, Worker


async def test_worker_passes_on_every_exception_and_goes_on() -> None:
    worker = Worker()
    failing, working = worker.submit(int, "x"), worker.submit(int, "1")
    with pytest.raises(ValueError, match="invalid literal"):
        await failing
    assert await working == 1


async def test_output_is_written_although_its_caller_was_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading, writing = os.pipe()
    received = bytearray()
    with open(writing, "wb") as stdout, open(reading, "rb", buffering=0) as reader:
        monkeypatch.setattr(sys, "stdout", stdout)
        monkeypatch.setattr(sys, "stdin", None)
        with Console() as console:
            os.set_blocking(reading, False)
            long = asyncio.create_task(console.write(b"a" * 200_000))  # more than a pipe takes
            short = asyncio.create_task(console.write(b"b"))
            await asyncio.sleep(0.01)
            short.cancel()

            def ends_with_the_short_one() -> bool:
                received.extend(reader.read(65_536) or b"")
                return received.endswith(b"b")

            await until(ends_with_the_short_one)
            await long
    assert received == b"a" * 200_000 + b"b"


@linux_only("counts descriptors in /proc")
def test_console_that_cannot_start_its_threads_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("broadcast.terminal.stdio.Worker", fail)
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(RuntimeError, match="new thread"), Console():
        pass
    assert len(os.listdir("/proc/self/fd")) == before
