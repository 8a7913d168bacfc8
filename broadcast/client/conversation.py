"""One connection between a client and a view: sends what is entered, displays what arrives."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Sequence
from typing import Protocol

from ..errors import BroadcastError, ConnectionLostError
from ..protocol.blocks import sanitize
from ..protocol.commands import is_exit
from ..protocol.messages import Incoming, is_close_reason
from .client import LEAVE_TIME, REASON_LIMIT, BroadcastClient

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

    def unread(self, lines: bytes) -> None:
        """Put back what could not be sent, so that it is read next."""

    async def display(self, received: Sequence[Incoming], name: str) -> None:
        """Show what was received; `name` is the user's current name."""

    async def set_status(self, problem: str | None) -> None:
        """Show why there is no connection; None when there is one again."""


class LeaveDeadline:
    """The deadline for the server to close the connection, once `start` is called.

    It can be paused, before it starts too: the remaining time does not run while paused.
    """

    def __init__(self, timeout: asyncio.Timeout) -> None:
        self._timeout = timeout
        self._remaining: float | None = None  # seconds, as of the latest pause; None until started
        self._paused = False

    def start(self) -> None:
        """Start with all of LEAVE_TIME remaining."""
        self._remaining = LEAVE_TIME
        self._update()

    def pause(self) -> None:
        """Stop the time."""
        deadline = self._timeout.when()
        if deadline is not None:
            self._remaining = deadline - asyncio.get_running_loop().time()
        self._paused = True
        self._update()

    def resume(self) -> None:
        """Let the time run again."""
        self._paused = False
        self._update()

    def _update(self) -> None:
        deadline: float | None = None
        if self._remaining is not None and not self._paused:
            deadline = asyncio.get_running_loop().time() + self._remaining
        self._timeout.reschedule(deadline)


class Conversation:
    """Exchanges lines between a connected client and a view until the connection ends.

    `run` it once. `heartbeat`: seconds between heartbeats.
    """

    def __init__(self, client: BroadcastClient, view: View, heartbeat: float) -> None:
        self.is_leaving = False  # from `\exit` on, which the server answers by closing
        self._client = client
        self._view = view
        self._heartbeat = heartbeat
        self._timeout = asyncio.timeout(None)
        self._leave_deadline = LeaveDeadline(self._timeout)
        self._uncounted_limit = math.inf  # bytes received by which LEAVE_LIMIT is used up
        self._heartbeat_task: asyncio.Task[None] | None = None
        self._close_reason: Incoming | None = None  # the last line received, if it is one

    async def run(self) -> None:
        r"""Send, receive and keep the connection alive until the server closes it after `\exit`.

        Raises ConnectionLostError if the connection ends otherwise or does not end, and
        OutputClosedError if the reader of our output has gone.
        """
        problem: Exception | None = None
        try:
            async with self._timeout, asyncio.TaskGroup() as group:
                sending = group.create_task(self._send())
                self._heartbeat_task = group.create_task(self._client.keep_alive(self._heartbeat))
                await self._receive()
                sending.cancel()
                self._heartbeat_task.cancel()
        except* TimeoutError:
            problem = ConnectionLostError(
                f"{self._client.address} has not ended the connection"
                f" within {LEAVE_TIME:g} s of \\exit"
            )
        except* BroadcastError as problems:
            problem = problems.exceptions[0]  # raised in here it would become another group
        if problem:
            raise problem
        if not self.is_leaving:
            reason = f": {self._close_reason.text[:REASON_LIMIT]}" if self._close_reason else ""
            raise ConnectionLostError(f"{self._client.address} closed the connection{reason}")

    async def _receive(self) -> None:
        while received := await self._client.receive():
            self._close_reason = received[-1] if is_close_reason(received[-1]) else None
            is_counted = self._client.bytes_received > self._uncounted_limit
            if not is_counted:
                self._leave_deadline.pause()
            await self._view.display(received, self._client.user)
            if not is_counted:
                self._leave_deadline.resume()

    async def _send(self) -> None:
        """Send what the view has, in whole lines so that no heartbeat splits one, and leave."""
        # Receiving reports a lost connection, after everything that had arrived before.
        with contextlib.suppress(ConnectionLostError):
            while not self.is_leaving:
                lines = await self._view.read()
                if lines is None:
                    self._start_leaving()
                    await self._client.leave()
                    return
                if not self._client.is_connected:
                    self._view.unread(lines)
                    return
                if (end := _end_of_exit(lines)) is not None:
                    lines = lines[:end]
                    self._start_leaving()
                await self._client.send_lines(lines)

    def _start_leaving(self) -> None:
        self.is_leaving = True
        self._uncounted_limit = self._client.bytes_received + LEAVE_LIMIT
        # A heartbeat to a server that has closed draws a reset, which destroys what is in transit.
        if self._heartbeat_task:
            self._heartbeat_task.cancel()
        self._leave_deadline.start()


def _end_of_exit(lines: bytes) -> int | None:
    r"""Return where the first `\exit` in a chunk of lines ends, None if there is none."""
    if b"\\" in lines:
        end = 0
        for line in lines.split(b"\n"):
            end += len(line) + 1
            if is_exit(sanitize(line.removesuffix(b"\r"))):
                return end
    return None
