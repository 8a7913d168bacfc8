"""The line being typed, as a pure state machine: keys go in, the line and the cursor come out.

It expects the input of a terminal in raw mode, where Ctrl-C and Ctrl-Z arrive as characters in
order with the others, preferably one that marks pasted text (`ESC[?2004h`).
"""

from __future__ import annotations

import enum
import re
from collections import deque
from collections.abc import Callable, Sequence

from ..protocol.framing import LINE_LIMIT
from .screen import cells

HISTORY_LIMIT = 1_000
"""Lines that Up goes back through: more than a person types in a day."""

_TOKEN = re.compile(
    r"""
    (?P<text> [^\x00-\x1f\x7f-\x9f\ud800-\udfff]+ )
    | \x1b (?: (?: \[ \[? [0-?]{0,256} [ -/]{0,8} | O [0-9;]{0,8} ) (?P<final> [@-~] )?
             | (?P<other> [^\x00-\x1f\x7f-\x9f\[O] ) )?
    | (?P<control> [\x00-\x1f\x7f] )
    """,
    re.VERBOSE,
)
"""Tokens of the input; other characters (C1 controls, lone surrogates) are skipped.

On the Linux console, F1 to F5 begin with `ESC[[`. An escape sequence without an end is either
incomplete or interrupted by a character that cannot be part of it. Its length is bounded, so that
noise does not accumulate for ever.
"""

_PASTE_BEGINS, _PASTE_ENDS = "\x1b[200~", "\x1b[201~"


class Key(enum.Enum):
    """A key that the program handles, not the editor."""

    INTERRUPT = "\x03"  # Ctrl-C on an empty line
    END = "\x04"  # Ctrl-D on an empty line
    SUSPEND = "\x1a"  # Ctrl-Z
    REDRAW = "\x0c"  # Ctrl-L


class Editor:
    """The line being typed and the history of those entered before.

    `complete`: returns the whole words that the given word before the cursor, which may be empty,
    can be completed to.
    """

    def __init__(self, complete: Callable[[str], Sequence[str]]) -> None:
        self.line = ""
        self.cursor = 0  # an index into the line; no key moves it between a character and its marks
        self._complete = complete
        self._unfinished = ""  # an escape sequence that the next input may continue
        self._pasting = False  # from ESC[200~ to ESC[201~
        self._after_return = False  # the last token was CR, so an LF now belongs to it
        self._history: deque[str] = deque(maxlen=HISTORY_LIMIT)
        self._history_offset = 0  # counted back from the line being typed, which is 0
        self._draft = ""  # the line being typed, while one of the history is shown
        # What further Tabs cycle through; any other key empties it.
        self._candidates: list[str] = []
        self._word_start = 0  # of the word that the candidates replace

    def feed(self, text: str) -> list[str | Key]:
        """Process input; return the lines entered and the keys for the program, in order.

        The input may be split anywhere, even within an escape sequence. Unknown sequences are
        dropped whole; after a lone Escape, only what would complete a sequence is dropped.
        """
        text, self._unfinished = self._unfinished + text, ""
        events: list[str | Key] = []
        for token in _TOKEN.finditer(text):
            if token.lastgroup is None and token.end() == len(text):
                self._unfinished = token[0]
            elif (event := self._process(token[0], token.lastgroup == "text")) is not None:
                events.append(event)
        return events

    def _process(self, token: str, is_text: bool) -> str | Key | None:
        after_return, self._after_return = self._after_return, token == "\r"
        if token != "\t":
            self._candidates = []
        if token in ("\r", "\n"):
            return None if token == "\n" and after_return else self._enter()
        if token == _PASTE_ENDS:
            self._pasting = False
        elif is_text or self._pasting:
            # A paste keeps tabs, but no other control characters.
            text = token if is_text or token == "\t" else token[1:]
            self._replace(self.cursor, self.cursor, text)
        else:
            return self._press(token)
        return None

    def _press(self, key: str) -> Key | None:
        if key in ("\x1a", "\x0c") or (key in ("\x03", "\x04") and not self.line):
            return Key(key)
        match key.replace("\x1bO", "\x1b["):
            case "\x1b[D" | "\x02":  # Left, Ctrl-B
                self.cursor = self._previous()
            case "\x1b[C" | "\x06":  # Right, Ctrl-F
                self.cursor = self._next()
            case "\x1b[H" | "\x1b[1~" | "\x1b[7~" | "\x01":  # Home, Ctrl-A
                self.cursor = 0
            case "\x1b[F" | "\x1b[4~" | "\x1b[8~" | "\x05":  # End, Ctrl-E
                self.cursor = len(self.line)
            case "\x1b[A" | "\x10":  # Up, Ctrl-P
                self._show_history(self._history_offset + 1)
            case "\x1b[B" | "\x0e":  # Down, Ctrl-N
                self._show_history(self._history_offset - 1)
            case "\x7f" | "\x08":  # Backspace
                self._replace(self._previous(), self.cursor)
            case "\x1b[3~" | "\x04":  # Delete
                self._replace(self.cursor, self._next())
            case "\x15":  # Ctrl-U
                self._replace(0, self.cursor)
            case "\x0b":  # Ctrl-K
                self._replace(self.cursor, len(self.line))
            case "\x17":  # Ctrl-W
                word_end = len(self.line[: self.cursor].rstrip())
                self._replace(self._find_word_start(word_end), self.cursor)
            case "\t":
                self._complete_word()
            case "\x03":  # Ctrl-C
                self._clear()
            case "\x1b[200~":
                self._pasting = True
        return None

    def _clear(self) -> None:
        self.line, self.cursor, self._history_offset = "", 0, 0

    def _enter(self) -> str:
        line = self.line
        if line and [line] != list(self._history)[-1:]:
            self._history.append(line)
        self._clear()
        return line

    def _show_history(self, offset: int) -> None:
        if 0 <= offset <= len(self._history):
            if not self._history_offset:
                self._draft = self.line
            self._history_offset = offset
            self.line = self._history[-offset] if offset else self._draft
            self.cursor = len(self.line)

    def _replace(self, start: int, end: int, text: str = "") -> None:
        """Put as much of the text there as LINE_LIMIT allows, and the cursor behind it."""
        before, after = self.line[:start], self.line[end:]
        space_left = LINE_LIMIT - len((before + after).encode())
        text = text.encode()[:space_left].decode(errors="ignore")
        self.line, self.cursor = before + text + after, start + len(text)

    def _previous(self) -> int:
        """Return the index of the character before the cursor, skipping the marks on it."""
        index = max(self.cursor - 1, 0)
        while index and not cells(self.line[index]):
            index -= 1
        return index

    def _next(self) -> int:
        """Return the index of the character after the one at the cursor and its marks."""
        index = min(self.cursor + 1, len(self.line))
        while index < len(self.line) and not cells(self.line[index]):
            index += 1
        return index

    def _find_word_start(self, end: int) -> int:
        """Return the index at which the word that ends at `end` begins."""
        while end and not self.line[end - 1].isspace():
            end -= 1
        return end

    def _complete_word(self) -> None:
        """Complete the word before the cursor.

        The first Tab inserts what all candidates have in common. If that is nothing, it inserts a
        candidate, and each further Tab the next one.
        """
        first_tab = not self._candidates
        if first_tab:
            self._word_start = self._find_word_start(self.cursor)
        word = self.line[self._word_start : self.cursor]
        if first_tab:
            self._candidates = list(dict.fromkeys(self._complete(word)))
        match self._candidates:
            case []:
                pass
            case [only]:
                self._candidates = []
                is_command = only.startswith("\\")
                needs_space = is_command and self.line[self.cursor : self.cursor + 1] != " "
                self._replace(self._word_start, self.cursor, only + " " * needs_space)
            case several:
                completion = _common_prefix(several)
                if not first_tab or len(completion) <= len(word):
                    following = several.index(word) + 1 if word in several else 0
                    completion = several[following % len(several)]
                self._replace(self._word_start, self.cursor, completion)


def _common_prefix(words: Sequence[str]) -> str:
    """Return the prefix that all words share in any case, spelled as in the first one."""
    length = 0
    for letters in zip(*words, strict=False):
        if len({letter.casefold() for letter in letters}) > 1:
            break
        length += 1
    return words[0][:length]
