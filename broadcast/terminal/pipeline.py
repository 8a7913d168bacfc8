"""stdin and stdout as streams of lines: a pipe, a file, or a terminal that is not capable of more."""

from __future__ import annotations

import asyncio
import datetime
import json
from collections.abc import Sequence

from .. import protocol
from ..protocol import Incoming, LineSplitter, Message, Notice, TooLong
from .stdio import Console

_BACKSLASH = b"\\"


class Pipeline:
    """Lines in, lines out.

    `as_json`: print an object for whatever arrives. Otherwise messages go to stdout, and all else to stderr unless both are one terminal's.
    `as_text`: no line of the input is a command. `listen`: leave the input alone.
    """

    def __init__(
        self,
        console: Console,
        *,
        as_json: bool = False,
        as_text: bool = False,
        listen: bool = False,
    ) -> None:
        self.quit_requested = asyncio.Event()  # never set: nobody is there who could
        self._console = console
        self._as_json = as_json
        self._as_text = as_text
        self._listen = listen
        self._limit = protocol.LINE_LIMIT - as_text  # a space may come in front
        self._cutter = LineSplitter(self._limit)
        self._runs: list[bytes | TooLong] = []  # read and not taken yet
        self._ended = False  # once the last line is in _runs

    async def run(self) -> None:
        """Nothing has to be done meanwhile."""

    async def read(self) -> bytes | None:
        """Return the next run of whole lines to be sent, None at the end of input. Cancelled, it loses nothing."""
        if self._listen:
            await self._console.until_output_closed()
        while True:
            while not self._runs:
                if self._ended:
                    return None
                chunk = await self._console.read()
                self._ended = not chunk
                self._runs.extend(self._cutter.feed(chunk) if chunk else self._cutter.finish())
            run = self._runs.pop(0)
            if not isinstance(run, TooLong):
                return self._text(run) if self._as_text and _BACKSLASH in run else run
            await self._console.report(f"a line of more than {self._limit} bytes was not sent")

    def unread(self, run: bytes) -> None:
        """Take back what could not be sent: it is the next to be read."""
        self._runs.insert(0, run)

    async def show(self, arrived: Sequence[Incoming], name: str) -> None:
        """Print what arrived, each as soon as it is there."""
        errors: list[str] = []
        if self._as_json:
            now = datetime.datetime.now().astimezone().isoformat(timespec="milliseconds")
            lines = [_object(incoming, now) for incoming in arrived]
        else:
            lines = []
            for incoming in arrived:
                if isinstance(incoming, Message) or self._console.writes_to_a_terminal:
                    lines.append(str(incoming))
                elif not protocol.is_close_reason(incoming):  # that one will be the reason we give
                    errors.append(str(incoming))
        await self._console.write_errors(*errors)
        await self._console.write("".join(f"{line}\n" for line in lines).encode())

    async def tell(self, trouble: str | None) -> None:
        """Say why there is no connection, once; None when there is one again."""
        text = f"{trouble}; trying until it is there again" if trouble else "connected again"
        await self._console.report(text)

    def _text(self, run: bytes) -> bytes:
        """Return the run with no command in it: the protocol's way to say so is a space in front."""
        lines = (
            b" " + line if protocol.sanitize(line).startswith("\\") else line
            for line in run.split(b"\n")
        )
        return b"\n".join(lines)


def _object(incoming: Incoming, now: str) -> str:
    kind = (
        "message"
        if isinstance(incoming, Message)
        else "notice"
        if isinstance(incoming, Notice)
        else "error"
    )
    return json.dumps(
        {"time": now, "type": kind, "sender": incoming.sender, "text": incoming.text},
        ensure_ascii=False,
    )
