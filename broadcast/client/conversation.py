"""A client and a view of it put together: what is typed or piped in goes out, what arrives is shown, and a lost connection is taken up."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Sequence
from typing import Protocol

from .. import protocol
from ..errors import BroadcastError, ConnectionLostError
from ..protocol import Incoming
from .client import LEAVE_TIME, REASON_LIMIT, BroadcastClient

LEAVE_LIMIT = 32 * 1024 * 1024
r"""Bytes received after `\exit` that our output may take any time to show.

The server has LEAVE_TIME to send what was said before. Whoever reads our output, a pager for one,
may pause meanwhile, so the time that showing takes does not count; but a flood takes for ever to
show. What an honest server has left to send is bounded by its backlog, and this is four times the
default one. The time that anything beyond it takes to be shown counts.
"""


class View(Protocol):
    """Where lines to be sent come from and where what arrives goes: `Pipeline` or `Terminal`."""

    quit_requested: asyncio.Event

    async def read(self) -> bytes | None: ...

    def unread(self, run: bytes) -> None: ...

    async def show(self, arrived: Sequence[Incoming], name: str) -> None: ...

    async def tell(self, trouble: str | None) -> None: ...


class Conversation:
    """One connection's worth of talk; `run` it once, with a connected client. `heartbeat`: seconds between signs of life."""

    def __init__(self, client: BroadcastClient, view: View, heartbeat: float) -> None:
        self.left = False  # from `\exit` on: now the server may end the connection, and has LEAVE_TIME to do it
        self._client = client
        self._view = view
        self._heartbeat = heartbeat
        self._patience = asyncio.timeout(None)
        self._beating: asyncio.Task[None] | None = (
            None  # sends signs of life, from `run` until we leave
        )
        self._showing = False  # while what arrived waits for our output to take it
        # The bytes received at which LEAVE_LIMIT is reached; from `\exit` on.
        self._limit = math.inf
        self._close_reason: Incoming | None = None  # the server's last words, where it had some

    async def run(self) -> None:
        """Return when the server has ended the connection because we left; its three tasks, which send, receive and keep alive, end together.

        Raises ConnectionLostError where it ended for another reason, or did not; OutputClosedError where nobody reads what arrives.
        """
        problem: Exception | None = None
        try:
            async with self._patience, asyncio.TaskGroup() as group:
                sending = group.create_task(self._send())
                self._beating = group.create_task(self._client.keep_alive(self._heartbeat))
                await self._receive()
                sending.cancel()
                self._beating.cancel()
        except* TimeoutError:
            problem = ConnectionLostError(
                f"{self._client.address} has not ended the connection within {LEAVE_TIME:g} s of \\exit"
            )
        except* BroadcastError as problems:
            problem = problems.exceptions[0]  # raised in here it would become another group
        if problem:
            raise problem
        if not self.left:
            why = f": {self._close_reason.text[:REASON_LIMIT]}" if self._close_reason else ""
            raise ConnectionLostError(f"{self._client.address} closed the connection{why}")

    async def _receive(self) -> None:
        loop = asyncio.get_running_loop()
        while arrived := await self._client.receive():
            self._close_reason = arrived[-1] if protocol.is_close_reason(arrived[-1]) else None
            if self._client.bytes_received > self._limit:
                await self._view.show(arrived, self._client.user)
                continue
            began, deadline = loop.time(), self._patience.when()
            self._showing = True
            self._patience.reschedule(None)
            await self._view.show(arrived, self._client.user)
            self._showing = False
            if self.left:  # it is the server that has LEAVE_TIME, not whoever reads our output
                self._patience.reschedule((deadline or began + LEAVE_TIME) + loop.time() - began)

    async def _send(self) -> None:
        """Send what the view has, whole lines only, so that no heartbeat comes to stand within one, and leave at its end."""
        with contextlib.suppress(
            ConnectionLostError
        ):  # receiving tells why, once it has given what had arrived before
            while not self.left:
                run = await self._view.read()
                if run is None:
                    self._leave()
                    await self._client.leave()
                    return
                if not self._client.is_connected:
                    self._view.unread(run)
                    return
                if (end := _end_of_exit(run)) is not None:
                    run = run[:end]
                    self._leave()
                await self._client.send_lines(run)

    def _leave(self) -> None:
        self.left = True
        self._limit = self._client.bytes_received + LEAVE_LIMIT
        if self._beating:  # what is sent to a server that may have closed draws a reset, which destroys what it still owes
            self._beating.cancel()
        if not self._showing:
            self._patience.reschedule(asyncio.get_running_loop().time() + LEAVE_TIME)


def _end_of_exit(run: bytes) -> int | None:
    r"""Return where the first `\exit` in a run of lines ends, None where there is none."""
    if b"\\" in run:
        end = 0
        for line in run.split(b"\n"):
            end += len(line) + 1
            if protocol.is_exit(protocol.sanitize(line.removesuffix(b"\r"))):
                return end
    return None
