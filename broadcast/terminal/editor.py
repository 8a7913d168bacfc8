"""A line being typed, as a pure state machine: what a terminal sends goes in; the line, the cursor and what was entered come out.

It expects a terminal in raw mode, where Ctrl-C and Ctrl-Z arrive as characters, in their place among the others, and does best with
one that marks what is pasted (`ESC[?2004h`).
"""

from __future__ import annotations

import enum
import re
import unicodedata
from collections import deque
from collections.abc import Callable, Sequence

from ..protocol import LINE_LIMIT

HISTORY_LIMIT = 1_000
"""Lines that Up goes back through: more than a person types in a day."""

_TOKEN = re.compile(
    r"""
    (?P<text> [^\x00-\x1f\x7f-\x9f\ud800-\udfff]+ )
    | \x1b (?: (?: \[ \[? [0-?]{0,256} [ -/]{0,8} | O [0-9;]{0,8} ) (?P<final> [@-~] )?  # a lone `[` more: F1 to F5 on Linux' console
             | (?P<other> [^\x00-\x1f\x7f-\x9f\[O] ) )?
    | (?P<control> [\x00-\x1f\x7f] )
    """,
    re.VERBOSE,
)
"""What the input is made of; characters that fit nowhere (C1 controls, lone surrogates) are passed over. An escape sequence without an
end is either not all here yet or interrupted by something that can't be part of it; the bounds keep noise from growing for ever."""

_PASTE_BEGINS, _PASTE_ENDS = "\x1b[200~", "\x1b[201~"


class Key(enum.Enum):
    """A key that is not the line's affair but the program's."""

    INTERRUPT = enum.auto()  # Ctrl-C on an empty line
    END = enum.auto()  # Ctrl-D on an empty line
    SUSPEND = enum.auto()  # Ctrl-Z
    REDRAW = enum.auto()  # Ctrl-L


class Editor:
    """The line being typed, and those entered before it.

    `complete`: given the word before the cursor, which may be empty, it returns what that may become, as whole words.
    """

    def __init__(self, complete: Callable[[str], Sequence[str]]) -> None:
        self.line = ""
        self.cursor = 0  # an index into the line, never between a character and the marks on it once a key has moved it
        self._complete = complete
        self._unfinished = ""  # an escape sequence that may go on in what is fed next
        self._pasting = False  # from ESC[200~ to ESC[201~
        self._after_return = False  # the last thing seen was CR: an LF now belongs to it
        self._history: deque[str] = deque(maxlen=HISTORY_LIMIT)
        self._back = 0  # how many lines back Up has gone; 0 is the line being typed
        self._draft = ""  # the line being typed, while the line shown is one of the history
        self._candidates: list[
            str
        ] = []  # what further Tabs cycle through; empty after any other key
        self._word = 0  # where the word that they replace begins

    def feed(self, text: str) -> list[str | Key]:
        """Take what was read; return the lines entered and the keys that are the program's affair, in order.

        It may be cut anywhere, also within an escape sequence; unknown ones are dropped whole. A lone Escape swallows no more of what is
        typed after it than would be one.
        """
        text, self._unfinished = self._unfinished + text, ""
        events: list[str | Key] = []
        for token in _TOKEN.finditer(text):
            if token.lastgroup is None and token.end() == len(text):
                self._unfinished = token[0]
            elif (event := self._take(token[0], token.lastgroup == "text")) is not None:
                events.append(event)
        return events

    def _take(self, token: str, is_text: bool) -> str | Key | None:
        after_return, self._after_return = self._after_return, token == "\r"
        if token != "\t":
            self._candidates = []
        if token in ("\r", "\n"):
            return None if token == "\n" and after_return else self._enter()
        if token == _PASTE_ENDS:
            self._pasting = False
        elif is_text or self._pasting:
            self._replace(
                self.cursor, self.cursor, token if is_text or token == "\t" else token[1:]
            )
        else:
            return self._press(token)
        return None

    def _press(self, key: str) -> Key | None:
        match key.replace("\x1bO", "\x1b["):
            case "\x1b[D" | "\x02":  # Left, Ctrl-B
                self.cursor = self._before()
            case "\x1b[C" | "\x06":  # Right, Ctrl-F
                self.cursor = self._after()
            case "\x1b[H" | "\x1b[1~" | "\x1b[7~" | "\x01":  # Home, Ctrl-A
                self.cursor = 0
            case "\x1b[F" | "\x1b[4~" | "\x1b[8~" | "\x05":  # End, Ctrl-E
                self.cursor = len(self.line)
            case "\x1b[A" | "\x10":  # Up, Ctrl-P
                self._walk(self._back + 1)
            case "\x1b[B" | "\x0e":  # Down, Ctrl-N
                self._walk(self._back - 1)
            case "\x7f" | "\x08":  # Backspace
                self._replace(self._before(), self.cursor)
            case "\x04" if not self.line:  # Ctrl-D
                return Key.END
            case "\x1b[3~" | "\x04":  # Delete
                self._replace(self.cursor, self._after())
            case "\x15":  # Ctrl-U
                self._replace(0, self.cursor)
            case "\x0b":  # Ctrl-K
                self._replace(self.cursor, len(self.line))
            case "\x17":  # Ctrl-W
                self._replace(
                    self._word_before(len(self.line[: self.cursor].rstrip())), self.cursor
                )
            case "\t":
                self._tab()
            case "\x03" if not self.line:  # Ctrl-C
                return Key.INTERRUPT
            case "\x03":
                self._start("")
            case "\x1a":  # Ctrl-Z
                return Key.SUSPEND
            case "\x0c":  # Ctrl-L
                return Key.REDRAW
            case "\x1b[200~":
                self._pasting = True
        return None

    def _start(self, line: str) -> None:
        """Go on with this line, the newest there is, the cursor at its end."""
        self.line, self.cursor, self._back, self._draft = line, len(line), 0, ""

    def _enter(self) -> str:
        line = self.line
        if line and [line] != list(self._history)[-1:]:
            self._history.append(line)
        self._start("")
        return line

    def _walk(self, back: int) -> None:
        if 0 <= back <= len(self._history):
            draft = self._draft if self._back else self.line
            self._start(self._history[-back] if back else draft)
            self._back, self._draft = back, draft if back else ""

    def _replace(self, start: int, end: int, text: str = "") -> None:
        """Put as much of the text there as the limit allows; the cursor comes to stand behind it."""
        rest = self.line[:start], self.line[end:]
        room = LINE_LIMIT - len("".join(rest).encode())
        text = text.encode()[:room].decode(errors="ignore")
        self.line, self.cursor = text.join(rest), start + len(text)

    def _before(self) -> int:
        """Return where the character before the cursor begins; what takes no room of its own belongs to the one before it."""
        at = max(self.cursor - 1, 0)
        while at and _is_mark(self.line[at]):
            at -= 1
        return at

    def _after(self) -> int:
        at = min(self.cursor + 1, len(self.line))
        while at < len(self.line) and _is_mark(self.line[at]):
            at += 1
        return at

    def _word_before(self, end: int) -> int:
        """Return where the run of other than white space begins that ends there."""
        while end and not self.line[end - 1].isspace():
            end -= 1
        return end

    def _tab(self) -> None:
        """Complete the word before the cursor as far as is certain; where nothing is, and on each further Tab, try the next candidate."""
        if self._candidates:
            word = self.line[self._word : self.cursor]
        else:
            self._word = self._word_before(self.cursor)
            word = self.line[self._word : self.cursor]
            self._candidates = list(dict.fromkeys(self._complete(word)))
            if (
                len(common := _common_beginning(self._candidates)) > len(word)
                and len(self._candidates) > 1
            ):
                self._replace(self._word, self.cursor, common)
                return
        match self._candidates:
            case []:
                pass
            case [only]:
                self._candidates = []
                space = (
                    " "
                    if only.startswith("\\") and self.line[self.cursor : self.cursor + 1] != " "
                    else ""
                )
                self._replace(self._word, self.cursor, only + space)
            case several:
                following = several.index(word) + 1 if word in several else 0
                self._replace(self._word, self.cursor, several[following % len(several)])


def _is_mark(character: str) -> bool:
    """Tell whether it is shown on, or within, the character before it: combining marks, variation selectors, joiners."""
    return unicodedata.category(character) in ("Mn", "Me", "Cf")


def _common_beginning(words: Sequence[str]) -> str:
    """Return how they all begin, in any case, spelled as in the first one."""
    length = 0
    for letters in zip(*words):
        if len({letter.casefold() for letter in letters}) > 1:
            break
        length += 1
    return words[0][:length] if words else ""
