"""One connection between a client and a view: sends what is entered, displays what arrives."""

import asyncio
import contextlib
import enum
import math
from collections.abc import Awaitable, Sequence
from typing import Protocol, TypeVar

from ..errors import BroadcastError, ConnectionLostError
from ..protocol.blocks import sanitize
from ..protocol.commands import Command, is_command
from ..protocol.messages import Incoming, is_close_reason
from ..states import follow
from ..system.tasks import background_tasks
from .client import EXIT, LEAVE_TIME, REASON_LIMIT, BroadcastClient

LEAVE_LIMIT = 32 * 1024 * 1024
r"""Bytes received after `\exit` that may take any time to display.

The server has LEAVE_TIME to send what was said before. The reader of our output, such as a pager,
may pause meanwhile, so time spent displaying does not count; but displaying a flood would take for
ever. What an honest server has left to send is bounded by its backlog, and this is four times the
default one. Time spent displaying anything beyond it counts.
"""

T = TypeVar("T")


class View(Protocol):
    """What the user sees and enters: a `Pipeline` or a `Terminal`."""

    quit_requested: asyncio.Event

    async def read(self) -> bytes | None:
        """Return the next whole lines to send, None once the user has left.

        The same lines are returned until `on_sent` is called.
        """

    async def display(self, received: Sequence[Incoming], name: str) -> None:
        """Show what was received; `name` is the user's current name."""

    def on_sent(self) -> None:
        """Note that what `read` returned is on its way, or was given up while being sent."""

    async def on_connected(self, address: str, name: str) -> None:
        """Note that the client is connected, perhaps again; the server gave it this name."""

    async def on_disconnected(self, problem: BroadcastError, delay: float) -> None:
        """Note that there is no connection, and that the next attempt is in `delay` seconds."""


class Stage(enum.Enum):
    """How far a conversation is."""

    TALKING = enum.auto()
    LEAVING = enum.auto()
    r"""`\exit` is sent, or the input has ended: the server sends what is pending, and closes."""


NEXT_STAGES = {Stage.TALKING: {Stage.LEAVING}, Stage.LEAVING: set[Stage]()}
"""The stages that may follow each stage."""


class Conversation:
    """Exchanges lines between a connected client and a view until the connection ends.

    `run` it once.
    """

    def __init__(self, client: BroadcastClient, view: View) -> None:
        self.stage = Stage.TALKING  # changed in `_leave`
        self._client = client
        self._view = view
        self._close_reason: Incoming | None = None  # the last line received, if it is one
        self._time_left: float | None = None  # of LEAVE_TIME; None while TALKING
        self._timeout: asyncio.Timeout | None = None  # while that time passes
        self._uncounted_limit = math.inf  # `bytes_received` at which LEAVE_LIMIT is used up

    async def run(self) -> None:
        r"""Send and receive until the server closes the connection after `\exit`.

        Raises ConnectionLostError if the connection ends otherwise or does not end, and
        OutputClosedError if the reader of our output has gone.
        """
        async with background_tasks() as start:
            start(self._send())
            await self._receive()
        if self.stage is Stage.TALKING:
            reason = f": {self._close_reason.text[:REASON_LIMIT]}" if self._close_reason else ""
            raise ConnectionLostError(f"{self._client.address} closed the connection{reason}")

    async def _receive(self) -> None:
        while received := await self._limit_time(self._client.receive()):
            self._close_reason = received[-1] if is_close_reason(received[-1]) else None
            display = self._view.display(received, self._client.user)
            is_counted = self._client.bytes_received > self._uncounted_limit
            await (self._limit_time(display) if is_counted else display)

    async def _limit_time(self, work: Awaitable[T]) -> T:
        """Wait for work that, while LEAVING, may take what is left of LEAVE_TIME."""
        try:
            async with asyncio.timeout(self._time_left) as self._timeout:
                result = await work
        except TimeoutError:
            why = f"has not ended the connection within {LEAVE_TIME:g} s of \\exit"
            raise ConnectionLostError(f"{self._client.address} {why}") from None
        if (deadline := self._timeout.when()) is not None:
            self._time_left = deadline - asyncio.get_running_loop().time()
        self._timeout = None
        return result

    async def _send(self) -> None:
        """Send what the view has, in whole lines so that no heartbeat splits one, and leave."""
        # Receiving reports a lost connection, after everything that had arrived before.
        with contextlib.suppress(ConnectionLostError):
            while (lines := await self._view.read()) is not None:
                if not self._client.is_connected:
                    return
                try:
                    if end := _end_of_exit(lines):
                        await self._leave(lines[:end])
                        return
                    await self._client.send_lines(lines)
                finally:
                    self._view.on_sent()
            await self._leave(EXIT)

    async def _leave(self, last_lines: bytes) -> None:
        self.stage = follow(NEXT_STAGES, self.stage, Stage.LEAVING)
        self._time_left = LEAVE_TIME
        self._uncounted_limit = self._client.bytes_received + LEAVE_LIMIT
        if self._timeout:
            self._timeout.reschedule(asyncio.get_running_loop().time() + LEAVE_TIME)
        await self._client.leave(last_lines)


def _end_of_exit(lines: bytes) -> int:
    r"""Return where the first `\exit` in a chunk of lines ends, 0 if there is none."""
    if b"\\" in lines:
        end = 0
        for line in lines.split(b"\n"):
            end += len(line) + 1
            if is_command(sanitize(line.removesuffix(b"\r")), Command.EXIT):
                return end
    return 0
