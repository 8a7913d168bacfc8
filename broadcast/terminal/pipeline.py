"""stdin and stdout as streams of lines: pipes, files, or a terminal without raw mode."""

import asyncio
import datetime
import json
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from ..errors import BroadcastError
from ..protocol.blocks import sanitize
from ..protocol.framing import LINE_LIMIT, LineSplitter, TooLong
from ..protocol.messages import Incoming, Message, ServerError, is_close_reason
from ..protocol.notices import ANSWERS, PRESENCE, Event
from .stdio import Console


@dataclass(eq=False)
class Pipeline:
    """A view on stdin and stdout as streams of lines.

    Messages and the answers to commands go to stdout and everything else to stderr, or all to
    stdout if that is a terminal. `as_json`: print an object for everything received, to stdout.
    `as_text`: send every line as text, even if it looks like a command. `listen`: do not read
    stdin. `notices`: print who joins and leaves. `timestamps`: print the local time before each
    plain line on stdout (JSON objects contain it).
    """

    console: Console
    _: KW_ONLY
    as_json: bool
    as_text: bool
    listen: bool
    notices: bool
    timestamps: bool

    def __post_init__(self) -> None:
        self.quit_requested = asyncio.Event()  # never set: a pipeline has no key for it
        self.skipped_line = False  # set when a line of the input was too long to be sent
        self._line_limit = LINE_LIMIT - self.as_text  # which may put a space in front
        self._splitter = LineSplitter(self._line_limit)
        # Whole lines that have not been sent yet, and None at the end of the input.
        self._chunks: list[bytes | TooLong | None] = []
        self._is_disconnected = False

    async def run(self) -> None:
        """Notice that the reader of stdout has gone, where nothing else would."""
        if self.listen:
            await self.console.wait_output_closed()

    async def read(self) -> bytes | None:
        """Return the next chunk of whole lines to send, None at the end of the input.

        The same chunk is returned until `on_sent` is called, so no input is lost.
        """
        if self.listen:
            await asyncio.Event().wait()
        while True:
            while not self._chunks:
                if data := await self.console.read():
                    self._chunks += self._splitter.feed(data)
                else:
                    self._chunks += [*self._splitter.finish(), None]
            lines = self._chunks[0]
            if not isinstance(lines, TooLong):
                return _escape_commands(lines) if self.as_text and lines else lines
            del self._chunks[0]
            self.skipped_line = True
            await self.console.report(f"a line of more than {self._line_limit} bytes was not sent")

    async def display(self, received: Sequence[Incoming], _name: str) -> None:
        """Print what was received; only a view with a prompt shows the user's name."""
        lines: list[str] = []
        errors: list[str] = []
        now = datetime.datetime.now().astimezone().isoformat(timespec="milliseconds")
        prefix = f"{now} " if self.timestamps else ""
        for incoming in received:
            event = incoming.event
            if event in PRESENCE and not self.notices:
                continue
            if self.as_json:
                lines.append(_to_json(incoming, now))
            elif event is Event.MESSAGE or event in ANSWERS or self.console.stdout_is_terminal:
                lines.append(f"{prefix}{incoming}")
            elif not is_close_reason(incoming):  # the error at the end will contain it
                errors.append(str(incoming))
        await self.console.write_errors(*errors)
        await self.console.write("".join(f"{line}\n" for line in lines).encode())

    def on_sent(self) -> None:
        """Forget what `read` returned."""
        del self._chunks[0]

    async def on_connected(self, _address: str, _name: str) -> None:
        """Report a connection after an outage."""
        if self._is_disconnected:
            self._is_disconnected = False
            await self.console.report("connected again")

    async def on_disconnected(self, problem: BroadcastError, _delay: float) -> None:
        """Report the beginning of an outage."""
        if not self._is_disconnected:
            self._is_disconnected = True
            await self.console.report(f"{problem}; trying until it is there again")


def _escape_commands(lines: bytes) -> bytes:
    """Put a space in front of every command in a chunk of lines, which makes it text."""
    if b"\\" not in lines:
        return lines
    return b"\n".join(
        b" " + line if sanitize(line).startswith("\\") else line for line in lines.split(b"\n")
    )


def _to_json(incoming: Incoming, now: str) -> str:
    kinds = {Message: "message", ServerError: "error"}
    fields = {
        "time": now,
        "type": kinds.get(type(incoming), "notice"),
        "sender": incoming.sender,
        "text": incoming.text,
        "event": incoming.event,
        "name": incoming.name,
    }
    if incoming.event is Event.LEFT:
        fields["reason"] = incoming.reason
    elif incoming.event is Event.HISTORY and incoming.time:
        date, _, time = incoming.time.rpartition(" ")
        fields |= {"time": f"{date or now.partition('T')[0]}T{time}", "text": incoming.said}
    return json.dumps(fields, ensure_ascii=False)
