"""A client and a console put together: what is typed or piped in goes out, what arrives is printed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from . import commands, protocol
from .client import LEAVE_TIME, BroadcastClient
from .console import Console
from .protocol import BroadcastError, LineCutter, TooLong
from .streams import ConnectionLostError


class Conversation:
    """One connection's worth of talk; `run` it once, with a connected client.

    `heartbeat`: seconds between signs of life. `listen`: leave stdin alone. `complain`: told, a line each, what could not be sent.
    """

    def __init__(self, client: BroadcastClient, console: Console, heartbeat: float, listen: bool, complain: Callable[[str], None]) -> None:
        self._client = client
        self._console = console
        self._heartbeat = heartbeat
        self._listen = listen
        self._complain = complain
        self._left = False  # from `\exit` on: now the server may end the connection, and has LEAVE_TIME to do it
        self._patience = asyncio.timeout(None)
        self._beating: asyncio.Task[None] | None = None  # sends signs of life, from `run` until we leave
        self._printing = False  # while what arrived waits for our output to take it

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
            problem = ConnectionLostError(f"{self._client.address} has not ended the connection within {LEAVE_TIME:g} s of \\exit")
        except* BroadcastError as problems:
            problem = problems.exceptions[0]  # raised in here it would become another group
        if problem:
            raise problem
        if not self._left:
            raise ConnectionLostError(f"{self._client.address} closed the connection")

    async def _receive(self) -> None:
        loop = asyncio.get_running_loop()
        while arrived := await self._client.receive():
            began, deadline = loop.time(), self._patience.when()
            self._printing = True
            self._patience.reschedule(None)
            await self._console.write("".join(f"{incoming}\n" for incoming in arrived).encode())
            self._printing = False
            if self._left:  # it is the server that has LEAVE_TIME, not whoever reads our output
                self._patience.reschedule((deadline or began + LEAVE_TIME) + loop.time() - began)

    async def _send(self) -> None:
        """Send what stdin has, whole lines only, so that no heartbeat comes to stand within one, and leave at its end."""
        if self._listen:
            await self._console.until_output_closed()
            return
        cutter = LineCutter()
        with contextlib.suppress(ConnectionLostError):  # receiving tells why, once it has given what had arrived before
            while not self._left:
                chunk = await self._console.read()
                for run in cutter.feed(chunk) if chunk else cutter.finish():
                    await self._send_run(run)
                if not chunk and not self._left:
                    self._leave()
                    await self._client.leave()

    async def _send_run(self, run: bytes | TooLong) -> None:
        if isinstance(run, TooLong):
            self._complain(f"a line of more than {protocol.LINE_LIMIT} bytes was not sent")
        elif not self._left:
            if (end := _end_of_exit(run)) is not None:
                run = run[:end]
                self._leave()
            await self._client.send_lines(run)

    def _leave(self) -> None:
        self._left = True
        if self._beating:  # what is sent to a server that may have closed draws a reset, which destroys what it still owes
            self._beating.cancel()
        if not self._printing:
            self._patience.reschedule(asyncio.get_running_loop().time() + LEAVE_TIME)


def _end_of_exit(run: bytes) -> int | None:
    r"""Return where the first `\exit` in a run of lines ends, None where there is none."""
    if b"\\" in run:
        end = 0
        for line in run.split(b"\n"):
            end += len(line) + 1
            if commands.is_exit(protocol.clean(line.removesuffix(b"\r"))):
                return end
    return None
