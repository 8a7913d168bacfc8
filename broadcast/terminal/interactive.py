"""A person at a terminal: incoming messages appear above the line that is being typed."""

import asyncio
import codecs
import contextlib
import enum
import math
import secrets
import signal
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import KW_ONLY, dataclass

from ..errors import BroadcastError
from ..protocol.blocks import sanitize
from ..protocol.commands import COMMANDS, Command, is_command
from ..protocol.framing import LINE_LIMIT, encode
from ..protocol.messages import Incoming, Message, Notice, Pong
from ..protocol.names import SENDER_LIMIT, name_key
from ..protocol.notices import PRESENCE, Event
from ..states import follow
from ..system.signals import handling_signal
from ..system.tasks import background_task
from .client_list import ClientList
from .editor import CursorRow, Editor, Key, LeftOut
from .screen import InputArea, Screen, fit_prompt
from .stdio import Console
from .tty import RawMode

REMEMBERED_NAMES_LIMIT = 10_000
"""Names that Tab completes: more than a room has, but bounded, however long one stays."""

ROSTER_LIMIT = 200
"""Clients in the largest room whose names are asked for: in a larger one, Tab completes only those
who have joined or spoken since."""

BELL_INTERVAL = 1.0
"""Seconds from one bell to the next: a burst of messages rings once."""

KEYS = (
    "Enter sends, Up and Down go through what was entered, Ctrl-R searches it",
    "Tab completes commands and names",
    "Ctrl-A Ctrl-E beginning and end, Alt-B Alt-F or Ctrl-Left Ctrl-Right a word back and forward",
    "Ctrl-U Ctrl-K delete to there, Ctrl-W Alt-Backspace Alt-D the word before or after, "
    + "Ctrl-Y inserts what was deleted last",
    "Ctrl-L clears the screen, Ctrl-C clears the line or leaves, "
    + "Ctrl-D on an empty line leaves, Ctrl-Z suspends",
)
r"""What `\help` adds to the server's commands."""

COUNTDOWN_INTERVAL = 1.0
"""Seconds between two updates of the time until the next try to connect."""

LAST_WRITE_TIMEOUT = 0.2
"""Seconds that a terminal has to take the last output: a stopped one must not delay the exit."""

_NAMING = (Event.MESSAGE, Event.JOINED, Event.HISTORY, Event.CLIENTS)
"""The events that tell who is in the room, or was."""

_PASTE_ON, _PASTE_OFF = "\x1b[?2004h", "\x1b[?2004l"


class Connectivity(enum.Enum):
    """What the user knows of the connection; changed only in `Terminal._change`."""

    CONNECTING = enum.auto()
    """The first attempt has not ended."""
    UNREACHABLE = enum.auto()
    """It has failed, and so has every other one."""
    UP = enum.auto()
    LOST = enum.auto()

    @property
    def is_outage(self) -> bool:
        """Whether the user has been told that there is no connection."""
        return self in (Connectivity.UNREACHABLE, Connectivity.LOST)


NEXT_CONNECTIVITY = {
    Connectivity.CONNECTING: {Connectivity.UP, Connectivity.UNREACHABLE},
    Connectivity.UNREACHABLE: {Connectivity.UP},
    Connectivity.UP: {Connectivity.LOST},
    Connectivity.LOST: {Connectivity.UP},
}
"""What may follow each of them."""


@dataclass(frozen=True, slots=True, eq=False)
class Outgoing:
    """A line for the server, until it is on its way."""

    data: bytes | None
    """What is sent; None at the end."""
    text: str = ""
    """What the user has entered, empty if the user does not see it."""
    ping_word: str = ""
    """The word that is sent in its place with a ping, so that its answer is known."""


QUESTION = Outgoing(encode(Command.CLIENTS.line(ROSTER_LIMIT)))

END = Outgoing(None)


@dataclass(eq=False)
class Terminal:
    """A view on the terminal that is stdin and stdout; `run` reads its keys until it is cancelled.

    `coloured`: whether colours may be used; `bell`: whether it rings when a message names the user;
    `as_text`: send every line as text, even if it looks like a command; `notices`: whether it shows
    who joins and leaves.
    """

    console: Console
    name: str
    _: KW_ONLY
    coloured: bool
    bell: bool
    as_text: bool
    notices: bool

    def __post_init__(self) -> None:
        self.quit_requested = asyncio.Event()  # set by Ctrl-D and by a hang-up
        # What is not on its way yet, in order: `read` returns it, and `on_sent` removes it.
        self._waiting: deque[Outgoing] = deque()
        self._entered = asyncio.Event()  # something has been added to it
        self._pings: dict[str, float] = {}  # words, and when they were sent
        self._clients = ClientList()
        self._next_bell = 0.0  # on the monotonic clock
        self._names: dict[str, None] = {}  # seen in the room, least recently seen first
        self._editor = Editor(self._complete)
        self._size = self.console.size()
        self._screen = Screen(*self._size, self.coloured, self.bell)
        self._new: list[str] = []  # styled lines that are not on the screen yet
        self._stale = asyncio.Event()  # the screen has to be drawn again
        self._drawing = asyncio.Lock()  # held while suspended, too
        self._connectivity = Connectivity.CONNECTING
        self._next_try = 0.0  # monotonic time, while UNREACHABLE or LOST

    async def run(self) -> None:
        """Read keys in raw mode until cancelled; the terminal is always restored."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        async with self._terminal_session() as raw_mode:
            while chunk := await self.console.read():
                left_out: list[LeftOut] = []
                for event in self._editor.feed(decoder.decode(chunk)):
                    if isinstance(event, str):
                        self._enter(event)
                    elif isinstance(event, LeftOut):
                        left_out.append(event)
                    elif isinstance(event, CursorRow):
                        self._screen.locate(event.row)
                    else:
                        await self._on_key(event, raw_mode)
                await asyncio.sleep(0)  # what can be sent at once is printed before what follows
                for cut in left_out:
                    self._print_own(_left_out_text(cut.characters))
                await self._draw("\a" if left_out else "")
            self._quit()
            await asyncio.Event().wait()  # the conversation is still to end

    async def read(self) -> bytes | None:
        """Return the next line to send, None when the user has left."""
        if self._clients.ask():
            self._waiting.appendleft(QUESTION)
        while not self._waiting:
            self._entered.clear()
            await self._entered.wait()
        return self._waiting[0].data

    async def display(self, received: Sequence[Incoming], name: str) -> None:
        """Draw what was received above the input area; `name` is the user's current name."""
        self.name = name
        shown: list[Incoming] = []
        for incoming in received:
            if incoming.name and incoming.event in _NAMING:
                self._remember(incoming.name)
            is_shown = self.notices or incoming.event not in PRESENCE
            if is_shown and not self._answers_ping(incoming):
                shown.append(incoming)
        self._print(*self._clients.gather(shown))
        await self._draw()

    def on_sent(self) -> None:
        """Print the line that `read` returned, if the user has entered it."""
        sent = self._waiting.popleft()
        if not sent.text:
            return
        keys = map(Notice, KEYS) if is_command(sent.text, Command.HELP) else ()
        self._print(Message(self.name, sent.text), *keys)
        if sent.ping_word:
            self._pings[sent.ping_word] = time.monotonic()

    async def on_connected(self, address: str, name: str) -> None:
        """Print that the client is connected, perhaps again; `name` is the user's name there."""
        if self._connectivity is Connectivity.LOST:
            self._print_own(f"{_time_of_day()} connected again")
        else:
            self._print_own(f"connected to {address} as {name}; \\help lists commands and keys")
        self._change(Connectivity.UP)
        self.name = name

    async def on_disconnected(self, problem: BroadcastError, delay: float) -> None:
        """Print once why there is no connection, and count down to the next try in the prompt."""
        if not self._connectivity.is_outage:
            is_first = self._connectivity is Connectivity.CONNECTING
            self._change(Connectivity.UNREACHABLE if is_first else Connectivity.LOST)
            what = "no connection" if is_first else "connection lost"
            self._print_own(f"{_time_of_day()} {what}: {problem.details}")
            self._pings.clear()
        if QUESTION not in self._waiting:
            self._clients.on_answer_lost()
        self._next_try = time.monotonic() + delay
        self._stale.set()

    def _change(self, connectivity: Connectivity) -> None:
        self._connectivity = follow(NEXT_CONNECTIVITY, self._connectivity, connectivity)

    @contextlib.asynccontextmanager
    async def _terminal_session(self) -> AsyncIterator[RawMode]:
        """Enter raw mode and keep the screen up to date; restore the terminal at the end."""
        with self.console.raw_mode() as raw_mode:

            def on_resize() -> None:
                self._size = (0, 0)  # it has changed, even if it is the same again
                self._stale.set()

            def on_continue() -> None:
                raw_mode.enter()
                self._stale.set()

            with (
                handling_signal(signal.SIGWINCH, on_resize),
                handling_signal(signal.SIGCONT, on_continue),
            ):
                try:
                    async with background_task(self._keep_drawn()):
                        await self._draw(_PASTE_ON)
                        yield raw_mode
                finally:
                    await self._write_last()

    async def _on_key(self, key: Key, raw_mode: RawMode) -> None:
        match key:
            case Key.INTERRUPT:
                signal.raise_signal(signal.SIGINT)
                await asyncio.Event().wait()  # the program cancels this: what follows has no effect
            case Key.END:
                self._quit()
            case Key.SUSPEND:
                async with self._drawing:
                    await self._write(self._screen.leave() + _PASTE_OFF)
                    raw_mode.suspend()
                    await self._write(_PASTE_ON)
            case Key.BELL:
                await self._write("\a")
            case Key.REDRAW:
                await self._write(self._screen.clear(self._input_area()))

    def _quit(self) -> None:
        self.quit_requested.set()
        self._queue(END)

    def _enter(self, line: str) -> None:
        """Queue an entered line; a ping is sent with a word by which its answer is known."""
        if text := sanitize(line.encode()):
            if self.as_text and text.startswith("\\"):
                text = f" {text}"
            ping_word = secrets.token_hex(3) if is_command(text, Command.PING) else ""
            data = encode(Command.PING.line(ping_word) if ping_word else text)
            self._queue(Outgoing(data, text, ping_word))

    def _queue(self, outgoing: Outgoing) -> None:
        self._waiting.append(outgoing)
        self._entered.set()

    def _answers_ping(self, incoming: Incoming) -> bool:
        """Return whether this answers a ping of the user's, and print the round trip."""
        if not isinstance(incoming, Pong) or incoming.text not in self._pings:
            return False
        seconds = time.monotonic() - self._pings.pop(incoming.text)
        self._print_own(f"{1000 * seconds:.1f} ms")
        return True

    def _print(self, *received: Incoming) -> None:
        """Print what was received above the input area when that is drawn next."""
        now = _time_of_day()
        self._new += [self._screen.style(incoming, now, self.name) for incoming in received]
        self._stale.set()

    def _print_own(self, text: str) -> None:
        """Print a notice of the client's own in the same way."""
        self._new.append(self._screen.dim(f"* {text}"))
        self._stale.set()

    def _input_area(self) -> InputArea:
        waiting = [f"{self.name}: {text}" for text in self._unsent()]
        return InputArea(self._prompt(), self._editor.line, self._editor.cursor, waiting)

    def _unsent(self) -> list[str]:
        """Return what the user has entered and is not on its way yet."""
        return [line.text for line in self._waiting if line.text]

    def _prompt(self) -> str:
        if not self._connectivity.is_outage or self._editor.search:
            return f"{self._editor.search}{self.name}> "
        seconds = math.ceil(self._next_try - time.monotonic())
        states = [f"no connection, next try in {seconds} s", f"no connection: {seconds} s"]
        states.append(f"off: {seconds} s")
        if seconds <= 0:
            states = ["no connection, trying", "no connection", "off"]
        columns, _ = self.console.size()
        return fit_prompt(states, self.name, columns)

    async def _draw(self, prefix: str = "") -> None:
        """Print what is new, and draw the input area below, for the terminal's present size."""
        async with self._drawing:
            await asyncio.sleep(0)  # what can be sent at once never looks as if it waited
            self._stale.clear()
            new, self._new = self._new, []
            question = ""
            if (size := self.console.size()) != self._size:
                self._size, question = size, self._screen.resize(*size)
            await self._write(prefix + question + self._screen.above(new, self._input_area()))

    async def _keep_drawn(self) -> None:
        """Draw when the screen is stale, and every second while the prompt counts down."""
        with contextlib.suppress(BroadcastError):  # reading the keys fails, too
            while True:
                try:
                    is_counting = self._connectivity.is_outage
                    async with asyncio.timeout(COUNTDOWN_INTERVAL if is_counting else None):
                        await self._stale.wait()
                except TimeoutError:
                    self._stale.set()
                if self._stale.is_set():  # it has not been drawn meanwhile
                    # After a stop, the shell may have switched it off.
                    await self._draw(_PASTE_ON)

    async def _write_last(self) -> None:
        """Erase the input area, but leave what was typed and not sent on the screen."""
        unsent = [*self._unsent(), self._editor.line]
        # Not wrapped by us, so that each can be copied as one line.
        kept = [self._screen.dim("* not sent: ") + text for text in filter(None, unsent)]
        erased = self._screen.leave() + _PASTE_OFF
        last = erased + "".join(f"{line}\r\n" for line in [*self._new, *kept])
        try:
            with contextlib.suppress(BroadcastError):
                async with asyncio.timeout(LAST_WRITE_TIMEOUT):
                    await self._write(last)
        except TimeoutError:
            self.console.write_nowait(erased.encode())

    async def _write(self, text: str) -> None:
        silent = text.replace("\a", "")
        if text != silent and (now := time.monotonic()) >= self._next_bell:
            self._next_bell = now + BELL_INTERVAL
            silent += "\a"
        await self.console.write(silent.encode(errors="replace"))

    def _remember(self, name: str) -> None:
        if name in self._names or _fits_a_name(name):
            self._names.pop(name, None)  # the name seen last is the last one
            self._names[name] = None
            if len(self._names) > REMEMBERED_NAMES_LIMIT:
                del self._names[next(iter(self._names))]

    def _complete(self, word: str) -> list[str]:
        if word.startswith("\\"):
            prefix = word[1:].lower()
            return [command.line() for command in COMMANDS if command.startswith(prefix)]
        if not 0 < len(word) <= SENDER_LIMIT + 1:
            return []  # no name begins with it, and normalizing it takes quadratic time
        key, others = name_key(word), self._names.keys() - {self.name}
        matching = [name for name in others if name_key(name).startswith(key)]
        if word.startswith("@"):
            key = key.removeprefix("@")
            matching += [f"@{name}" for name in others if name_key(name).startswith(key)]
        return sorted(matching)


def _left_out_text(characters: int) -> str:
    were = "1 character was" if characters == 1 else f"{characters:,} characters were"
    return f"{were} left out: a line has at most {LINE_LIMIT:,} bytes"


def _time_of_day() -> str:
    return time.strftime("%H:%M")


def _fits_a_name(name: str) -> bool:
    """Return whether our server could have assigned this name, which bounds its memory.

    Normalization turns one character into up to eighteen, but into three at most in a name.
    """
    limit = SENDER_LIMIT
    return len(name) <= limit and (name.isascii() or len(name_key(name)) <= 3 * limit)
