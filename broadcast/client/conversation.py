"""One connection between a client and a view: sends what is entered, displays what arrives."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Protocol

from ..errors import BroadcastError, ConnectionLostError
from ..protocol.blocks import sanitize
from ..protocol.commands import is_command
from ..protocol.messages import Incoming, is_close_reason
from .client import EXIT, LEAVE_TIME, REASON_LIMIT, BroadcastClient

LEAVE_LIMIT = 32 * 1024 * 1024
r"""Bytes received after `\exit` that may take any time to display.

The server has LEAVE_TIME to send what was said before. The reader of our output, such as a pager,
may pause meanwhile, so time spent displaying does not count; but displaying a flood would take for
ever. What an honest server has left to send is bounded by its backlog, and this is four times the
default one. Time spent displaying anything beyond it counts.
"""


class View(Protocol):
    """What the user sees and enters: a `Pipeline` or a `Terminal`."""

    quit_requested: asyncio.Event

    async def read(self) -> bytes | None:
        """Return the next whole lines to send, None once the user has left."""

    async def display(self, received: Sequence[Incoming], name: str) -> None:
        """Show what was received; `name` is the user's current name."""

    def on_sent(self) -> None:
        """Note that what `read` returned last is on its way; called once for each `read`."""

    async def on_connected(self, address: str, name: str) -> None:
        """Note that the client is connected, perhaps again; the server gave it this name."""

    async def on_disconnected(self, problem: BroadcastError, delay: float) -> None:
        """Note that there is no connection, and that the next attempt is in `delay` seconds."""


class Conversation:
    r"""Exchanges lines between a connected client and a view until the connection ends.

    `run` it once. It is leaving once it sends `\exit`, also at the end of the input; the server
    then sends what is pending and closes. `unsent`: lines to send before those of the view;
    afterwards, those that were read when the connection no longer accepted any.
    """

    def __init__(self, client: BroadcastClient, view: View, unsent: bytes = b"") -> None:
        self.is_leaving = False
        self.unsent = unsent
        self._client = client
        self._view = view
        self._leave_timeout = asyncio.timeout(None)  # LEAVE_TIME from when leaving begins
        self._timeout_paused = False
        self._uncounted_limit = math.inf  # value of `bytes_received` at which it is used up
        self._close_reason: Incoming | None = None  # the last line received, if it is one

    async def run(self) -> None:
        r"""Send and receive until the server closes the connection after `\exit`.

        Raises ConnectionLostError if the connection ends otherwise or does not end, and
        OutputClosedError if the reader of our output has gone.
        """
        try:
            async with self._leave_timeout, asyncio.TaskGroup() as group:
                sending = group.create_task(self._send())
                await self._receive()
                sending.cancel()
        except TimeoutError:
            why = f"has not ended the connection within {LEAVE_TIME:g} s of \\exit"
            raise ConnectionLostError(f"{self._client.address} {why}") from None
        except ExceptionGroup as problems:
            raise problems.exceptions[0] from None
        if not self.is_leaving:
            reason = f": {self._close_reason.text[:REASON_LIMIT]}" if self._close_reason else ""
            raise ConnectionLostError(f"{self._client.address} closed the connection{reason}")

    async def _receive(self) -> None:
        while received := await self._client.receive():
            self._close_reason = received[-1] if is_close_reason(received[-1]) else None
            is_counted = self._client.bytes_received > self._uncounted_limit
            with contextlib.nullcontext() if is_counted else self._pause_timeout():
                await self._view.display(received, self._client.user)

    async def _send(self) -> None:
        """Send what the view has, in whole lines so that no heartbeat splits one, and leave."""
        # Receiving reports a lost connection, after everything that had arrived before.
        with contextlib.suppress(ConnectionLostError):
            while (lines := self.unsent or await self._view.read()) is not None:
                self.unsent = lines
                if not self._client.is_connected:
                    return
                self.unsent = b""
                try:
                    if end := _end_of_exit(lines):
                        await self._leave(lines[:end])
                        return
                    await self._client.send_lines(lines)
                finally:
                    self._view.on_sent()
            await self._leave(EXIT)

    async def _leave(self, last_lines: bytes) -> None:
        self.is_leaving = True
        self._uncounted_limit = self._client.bytes_received + LEAVE_LIMIT
        if not self._timeout_paused:
            self._leave_timeout.reschedule(asyncio.get_running_loop().time() + LEAVE_TIME)
        await self._client.leave(last_lines)

    @contextlib.contextmanager
    def _pause_timeout(self) -> Iterator[None]:
        """Pause the leave timeout. If leaving begins meanwhile, it starts in full afterwards."""
        loop, deadline = asyncio.get_running_loop(), self._leave_timeout.when()
        remaining = LEAVE_TIME if deadline is None else deadline - loop.time()
        self._leave_timeout.reschedule(None)
        self._timeout_paused = True
        yield
        self._timeout_paused = False
        if self.is_leaving:
            self._leave_timeout.reschedule(loop.time() + remaining)


def _end_of_exit(lines: bytes) -> int:
    r"""Return where the first `\exit` in a chunk of lines ends, 0 if there is none."""
    if b"\\" in lines:
        end = 0
        for line in lines.split(b"\n"):
            end += len(line) + 1
            if is_command(sanitize(line.removesuffix(b"\r")), "exit"):
                return end
    return 0
