"""A person at a terminal: keys in through the editor, the screen out, whatever arrives above what is being typed."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence

from .. import protocol
from ..protocol import Incoming, Message, Notice
from .editor import Editor, Key
from .screen import Screen
from .stdio import Console

REMEMBERED_NAMES_LIMIT = 10_000
"""Names that Tab remembers: more than a room has, so that a year in one does not fill the memory."""

KEYS = (
    "Enter sends, Up and Down go through what was entered, Tab completes commands and names",
    "Ctrl-A Ctrl-E beginning and end, Ctrl-U Ctrl-K Ctrl-W delete to there or the word before, Ctrl-L clears the screen",
    "Ctrl-C clears the line or leaves, Ctrl-D on an empty line leaves, Ctrl-Z suspends",
)
"""What `\\help` adds to the server's commands."""

_PASTE_ON, _PASTE_OFF = "\x1b[?2004h", "\x1b[?2004l"


class Terminal:
    """The terminal that is stdin and stdout; `run` goes on for as long as it is used, within `async with`.

    `coloured`: whether colours may be used; `bell`: whether it rings when somebody names us; `interrupt`: called for Ctrl-C on an empty line.
    """

    def __init__(
        self,
        console: Console,
        name: str,
        *,
        coloured: bool,
        bell: bool,
        interrupt: Callable[[], None],
    ) -> None:
        self.quit_requested = asyncio.Event()  # set by Ctrl-D: no more lines come
        self._console = console
        self._name = name
        self._interrupt = interrupt
        self._entered: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._given_back: list[bytes] = []  # could not be sent
        self._people: dict[str, None] = {}  # names seen, oldest first
        self._editor = Editor(self._completions)
        columns, rows = console.size()
        self._screen = Screen(columns, rows, coloured, bell)
        self._trouble = ""  # why there is no connection: stands before the prompt
        self._turn = (
            asyncio.Lock()
        )  # held by who writes: what is drawn has to come in the order it was made

    @contextlib.asynccontextmanager
    async def _terminal_session(self) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        with self._console.raw() as enter:

            def again() -> None:
                enter()
                self._redraw(_PASTE_ON)

            handlers = {"SIGWINCH": self._redraw, "SIGCONT": again}
            for name, handler in handlers.items():
                with contextlib.suppress(NotImplementedError, AttributeError):
                    loop.add_signal_handler(getattr(signal, name), handler)
            try:
                await self._write(_PASTE_ON + self._screen.input(*self._input()))
                yield
            finally:
                for name in handlers:
                    with contextlib.suppress(NotImplementedError, AttributeError):
                        loop.remove_signal_handler(getattr(signal, name))
                self._console.write_at_once((self._screen.leave() + _PASTE_OFF).encode())

    async def run(self) -> None:
        """Take the terminal, read its keys, and give it back as it was, however this ends."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        async with self._terminal_session():
            while chunk := await self._console.read():
                lines: list[str] = []
                for event in self._editor.feed(decoder.decode(chunk)):
                    if isinstance(event, str):
                        lines += self._enter(event)
                    elif event is Key.INTERRUPT:
                        self._interrupt()
                    elif event is Key.END:
                        self._end()
                    elif event is Key.SUSPEND:
                        await self._write(self._screen.leave() + _PASTE_OFF)
                        self._console.stop()
                        await self._write(_PASTE_ON)
                    elif event is Key.REDRAW:
                        await self._write(self._screen.clear(*self._input()))
                await self._write(
                    self._screen.above(lines, *self._input())
                    if lines
                    else self._screen.input(*self._input())
                )
            self._end()
            await asyncio.Event().wait()  # the terminal is given back when the conversation is over

    async def read(self) -> bytes | None:
        """Return the next line entered, None once there are no more."""
        return self._given_back.pop(0) if self._given_back else await self._entered.get()

    def unread(self, run: bytes) -> None:
        """Take back what could not be sent: it is the next to be read."""
        self._given_back.insert(0, run)

    async def show(self, arrived: Sequence[Incoming], name: str) -> None:
        """Put what arrived above what is being typed; `name` is ours by now."""
        self._name = name
        for incoming in arrived:
            if isinstance(incoming, Message):
                self._saw(incoming.sender)
            elif isinstance(incoming, Notice) and incoming.text.endswith(" joined"):
                self._saw(incoming.text.removesuffix(" joined"))
        clock = time.strftime("%H:%M")
        lines = [self._screen.style(incoming, clock, name) for incoming in arrived]
        await self._write(self._screen.above(lines, *self._input()))

    async def tell(self, trouble: str | None) -> None:
        """Say before the prompt why there is no connection; None when there is one again."""
        self._trouble = f"({trouble}) " if trouble else ""
        self._redraw()

    def _end(self) -> None:
        self.quit_requested.set()
        self._entered.put_nowait(None)

    def _enter(self, line: str) -> list[str]:
        """Send a line that was entered; return how it stays on the screen."""
        text = protocol.sanitize(line.encode())
        if not text:
            return []
        self._entered.put_nowait(protocol.encode(text))
        clock = time.strftime("%H:%M")
        helps = map(Notice, KEYS) if protocol.is_help(text) else ()
        return [
            self._screen.style(shown, clock, self._name)
            for shown in (Message(self._name, text), *helps)
        ]

    def _input(self) -> tuple[str, str, int]:
        return f"{self._trouble}{self._name}> ", self._editor.line, self._editor.cursor

    def _redraw(self, before: str = "") -> None:
        self._screen.resize(*self._console.size())
        drawing = asyncio.ensure_future(self._write(before + self._screen.input(*self._input())))
        drawing.add_done_callback(
            lambda done: done.cancelled() or done.exception()
        )  # reading the keys meets the same trouble

    async def _write(self, text: str) -> None:
        async with self._turn:
            await self._console.write(text.encode(errors="replace"))

    def _saw(self, person: str) -> None:
        if person in self._people:
            del self._people[person]
        elif not _fits_a_name(person):
            return
        self._people[person] = None
        if len(self._people) > REMEMBERED_NAMES_LIMIT:
            del self._people[next(iter(self._people))]

    def _completions(self, word: str) -> list[str]:
        if word.startswith("\\"):
            return [
                f"\\{command}"
                for command in protocol.COMMANDS
                if command.startswith(word[1:].lower())
            ]
        if not 0 < len(word) <= protocol.SENDER_LIMIT:
            return []  # no name begins with it, and to fold it would take quadratic time
        folded = protocol.name_key(word)
        return sorted(person for person in self._people if protocol.name_key(person).startswith(folded))


def _fits_a_name(person: str) -> bool:
    """Tell whether a server of ours may have given that name; it bounds what 10,000 of them cost.

    A single character may become eighteen when it is folded; those of a name at most three.
    """
    limit = protocol.SENDER_LIMIT
    return len(person) <= limit and (person.isascii() or len(protocol.name_key(person)) <= 3 * limit)
