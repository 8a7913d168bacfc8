"""A person at a terminal: incoming messages appear above the line that is being typed."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Sequence

from ..protocol.blocks import sanitize
from ..protocol.commands import COMMANDS, is_help
from ..protocol.framing import encode
from ..protocol.messages import Incoming, Message, Notice
from ..protocol.names import SENDER_LIMIT, name_key
from ..protocol.notices import PRESENCE, Event
from .editor import Editor, Key
from .screen import Screen
from .stdio import Console
from .tty import RawMode

REMEMBERED_NAMES_LIMIT = 10_000
"""Names that Tab completes: more than a room has, but not all that a year in one brings."""

KEYS = (
    "Enter sends, Up and Down go through what was entered, Tab completes commands and names",
    "Ctrl-A Ctrl-E beginning and end, Ctrl-U Ctrl-K Ctrl-W delete to there or the word before, "
    + "Ctrl-L clears the screen",
    "Ctrl-C clears the line or leaves, Ctrl-D on an empty line leaves, Ctrl-Z suspends",
)
r"""What `\help` adds to the server's commands."""

_PASTE_ON, _PASTE_OFF = "\x1b[?2004h", "\x1b[?2004l"


class Terminal:
    """A view on the terminal that is stdin and stdout; `run` reads its keys until it is cancelled.

    `coloured`: whether colours may be used; `bell`: whether it rings when a message names the user;
    `notices`: whether it shows who joins and leaves.
    """

    def __init__(
        self, console: Console, name: str, *, coloured: bool, bell: bool, notices: bool
    ) -> None:
        self.quit_requested = asyncio.Event()  # set by Ctrl-D and by a hang-up
        self._console = console
        self._name = name
        self._entered: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._names: dict[str, None] = {}  # seen in the room, least recently seen first
        self._editor = Editor(self._complete)
        self._screen = Screen(*console.size(), coloured, bell)
        self._status = ""  # shown before the prompt
        self._notices = notices

    async def run(self) -> None:
        """Read keys in raw mode until cancelled; the terminal is always restored."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        async with self._terminal_session() as raw_mode:
            while chunk := await self._console.read():
                shown: list[Incoming] = []
                for event in self._editor.feed(decoder.decode(chunk)):
                    if isinstance(event, str):
                        shown += self._enter(event)
                    else:
                        await self._on_key(event, raw_mode)
                await self._show(shown)
            self._quit()
            await asyncio.Event().wait()  # the conversation is still to end

    async def read(self) -> bytes | None:
        """Return the next line to send, None when the user has left."""
        return await self._entered.get()

    async def display(self, received: Sequence[Incoming], name: str) -> None:
        """Draw what was received above the input area; `name` is the user's current name."""
        self._name = name
        for incoming in received:
            if isinstance(incoming, Message):
                self._remember(incoming.sender)
            elif incoming.event is Event.JOINED and incoming.name:
                self._remember(incoming.name)
        if not self._notices:
            received = [incoming for incoming in received if incoming.event not in PRESENCE]
        await self._show(received)

    async def set_status(self, problem: str | None) -> None:
        """Show before the prompt why there is no connection; None when there is one again."""
        self._status = f"({problem}) " if problem else ""
        self._redraw()

    @contextlib.asynccontextmanager
    async def _terminal_session(self) -> AsyncIterator[RawMode]:
        """Enter raw mode, draw the input area, follow SIGWINCH and SIGCONT; undo it at the end."""
        loop = asyncio.get_running_loop()
        with self._console.raw_mode() as raw_mode:

            def on_continue() -> None:
                raw_mode.enter()
                self._redraw(_PASTE_ON)

            with contextlib.suppress(NotImplementedError):
                loop.add_signal_handler(signal.SIGWINCH, self._redraw)
                loop.add_signal_handler(signal.SIGCONT, on_continue)
            try:
                await self._draw(_PASTE_ON)
                yield raw_mode
            finally:
                loop.remove_signal_handler(signal.SIGWINCH)
                loop.remove_signal_handler(signal.SIGCONT)
                self._console.write_nowait((self._screen.leave() + _PASTE_OFF).encode())

    async def _on_key(self, key: Key, raw_mode: RawMode) -> None:
        match key:
            case Key.INTERRUPT:
                signal.raise_signal(signal.SIGINT)
                await asyncio.Event().wait()  # the program cancels this: what follows has no effect
            case Key.END:
                self._quit()
            case Key.SUSPEND:
                await self._write(self._screen.leave() + _PASTE_OFF)
                raw_mode.suspend()
                await self._write(_PASTE_ON)
            case Key.REDRAW:
                await self._write(self._screen.clear(*self._input()))

    def _quit(self) -> None:
        self.quit_requested.set()
        self._entered.put_nowait(None)

    def _enter(self, line: str) -> list[Incoming]:
        """Queue an entered line for sending; return what stays on the screen for it."""
        text = sanitize(line.encode())
        if not text:
            return []
        self._entered.put_nowait(encode(text))
        keys = map(Notice, KEYS) if is_help(text) else ()
        return [Message(self._name, text), *keys]

    def _input(self) -> tuple[str, str, int]:
        return f"{self._status}{self._name}> ", self._editor.line, self._editor.cursor

    async def _show(self, shown: Sequence[Incoming]) -> None:
        """Print above the input area, and draw that again."""
        clock = time.strftime("%H:%M")
        lines = [self._screen.style(incoming, clock, self._name) for incoming in shown]
        await self._write(self._screen.above(lines, *self._input()))

    async def _draw(self, prefix: str = "") -> None:
        """Draw the input area for the terminal's present size."""
        self._screen.resize(*self._console.size())
        await self._write(prefix + self._screen.input(*self._input()))

    def _redraw(self, prefix: str = "") -> None:
        drawing = asyncio.ensure_future(self._draw(prefix))
        # An error here is ignored: reading the keys fails likewise.
        drawing.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _write(self, text: str) -> None:
        await self._console.write(text.encode(errors="replace"))

    def _remember(self, name: str) -> None:
        if name in self._names or _fits_a_name(name):
            self._names.pop(name, None)  # the name seen last is the last one
            self._names[name] = None
            if len(self._names) > REMEMBERED_NAMES_LIMIT:
                del self._names[next(iter(self._names))]

    def _complete(self, word: str) -> list[str]:
        if word.startswith("\\"):
            prefix = word[1:].lower()
            return [f"\\{command}" for command in COMMANDS if command.startswith(prefix)]
        if not 0 < len(word) <= SENDER_LIMIT:
            return []  # no name begins with it, and normalizing it takes quadratic time
        key = name_key(word)
        return sorted(name for name in self._names if name_key(name).startswith(key))


def _fits_a_name(name: str) -> bool:
    """Return whether our server could have assigned this name, which bounds its memory.

    Normalization turns one character into up to eighteen, but into three at most in a name.
    """
    limit = SENDER_LIMIT
    return len(name) <= limit and (name.isascii() or len(name_key(name)) <= 3 * limit)
