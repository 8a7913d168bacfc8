"""The line being typed, as a pure state machine: keys go in, the line and the cursor come out.

It expects the input of a terminal in raw mode, where Ctrl-C and Ctrl-Z arrive as characters in
order with the others, preferably one that marks pasted text (`ESC[?2004h`).
"""

from __future__ import annotations

import enum
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..protocol.framing import LINE_LIMIT
from .screen import cells

HISTORY_LIMIT = 1_000
"""Lines that Up goes back through: more than a person types in a day."""

_TOKEN = re.compile(
    r"""
    (?P<text> [^\x00-\x1f\x7f-\x9f\ud800-\udfff]+ )
    | \x1b (?: (?: \[ \[? [0-?]{0,256} [ -/]{0,8} | O [0-9;]{0,8} ) (?P<final> [@-~] )?
             | (?P<other> [^\x00-\x1f\x80-\x9f\[O] ) )?
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

_CURSOR_POSITION = re.compile(r"\x1b\[([0-9]{1,5});[0-9]{1,5}R")

_DELETING_KEYS = frozenset(("\x15", "\x0b", "\x17", "\x1bd", "\x1b\x7f", "\x03"))
"""The keys whose deleted text Ctrl-Y inserts again."""


class Paste(enum.Enum):
    """Progress of a paste."""

    NONE = enum.auto()
    FIRST_LINE = enum.auto()
    LINE_ENDING = enum.auto()
    """The first line has ended. It is entered as soon as it is known whether others follow."""
    SEVERAL_LINES = enum.auto()


class Key(enum.Enum):
    """A key that is handled by the program, not by the editor."""

    INTERRUPT = "\x03"  # Ctrl-C on an empty line
    END = "\x04"  # Ctrl-D on an empty line
    SUSPEND = "\x1a"  # Ctrl-Z
    REDRAW = "\x0c"  # Ctrl-L
    BELL = "\a"  # the line accepts no more text


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Characters that did not fit into the line that was entered or pasted just before."""

    characters: int


@dataclass(frozen=True, slots=True)
class CursorRow:
    """The terminal's answer to the question where its cursor is: the row, counted from 0."""

    row: int


Event = str | Key | LeftOut | CursorRow
"""A line that was entered, or something for the program to do."""


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
        self._paste = Paste.NONE
        self._left_out = 0  # characters that the line did not accept
        self._last_token = ""
        self._deleted = ""  # what Ctrl-Y inserts
        self._history: deque[str] = deque(maxlen=HISTORY_LIMIT)
        self._history_offset = 0  # counted back from the line being typed, which is 0
        self._draft = ""  # the line being typed, while one of the history is shown
        self._searched: str | None = None  # what Ctrl-R looks for, while it does
        self._is_found = True  # whether the line shown contains it
        self._before_search = ("", 0, 0)  # the line, the cursor and the history offset
        # What further Tabs cycle through; any other key empties it.
        self._candidates: list[str] = []
        self._word_start = 0  # of the word that the candidates replace

    @property
    def search(self) -> str:
        """What Ctrl-R searches for, as shown before the prompt; empty if it does not search."""
        if self._searched is None:
            return ""
        return f"({'search' if self._is_found else 'not found'}: {self._searched}) "

    def feed(self, text: str) -> list[Event]:
        """Process input; return the lines entered and what the program is to do, in order.

        The input may be split anywhere, even within an escape sequence. Unknown sequences are
        dropped whole; after a lone Escape, only what would complete a sequence is dropped.
        """
        text, self._unfinished = self._unfinished + text, ""
        events: list[Event] = []
        for token in _TOKEN.finditer(text):
            if token.lastgroup is None and token.end() == len(text):
                self._unfinished = token[0]
                continue
            left_out = self._left_out
            events += self._process(token[0], token.lastgroup == "text")
            if self._left_out > left_out and self._paste is Paste.NONE:
                events.append(Key.BELL)
        return events

    def _process(self, token: str, is_text: bool) -> list[Event]:
        if token != "\t":
            self._candidates = []
        last_token, self._last_token = self._last_token, token
        if token == "\n" and last_token == "\r":
            return []  # both are one line ending
        if self._searched is not None and self._search_on(token, is_text):
            return []
        if self._paste is not Paste.NONE:
            return self._process_pasted(token, is_text)
        if token in ("\r", "\n"):
            return self._enter()
        if is_text:
            self._insert(token)
            return []
        return self._press(token, last_token)

    def _process_pasted(self, token: str, is_text: bool) -> list[Event]:
        r"""Process a token of a paste, in which no key has an effect.

        If several lines are pasted at once, they are quoted: none of them is meant as a command.
        """
        if token == _PASTE_ENDS:
            paste, self._paste = self._paste, Paste.NONE
            if paste is Paste.LINE_ENDING:
                return self._enter()
            if paste is Paste.SEVERAL_LINES:
                self._make_text()
            return self._take_left_out()
        events: list[Event] = []
        if self._paste is Paste.LINE_ENDING:
            self._paste = Paste.SEVERAL_LINES
            events += self._enter_text()
        if token not in ("\r", "\n"):
            # A paste keeps tabs, but no other control characters.
            self._insert(token if is_text or token == "\t" else token[1:].removesuffix("\x7f"))
        elif self._paste is Paste.FIRST_LINE:
            self._paste = Paste.LINE_ENDING
        else:
            events += self._enter_text()
        return events

    def _press(self, key: str, last_key: str) -> list[Event]:  # noqa: C901 (a table of keys)
        if key in ("\x1a", "\x0c") or (key in ("\x03", "\x04") and not self.line):
            return [Key(key)]
        if position := _CURSOR_POSITION.fullmatch(key):
            return [CursorRow(int(position[1]) - 1)]
        if key in _DELETING_KEYS:
            self._delete(key, last_key)
        match key.replace("\x1bO", "\x1b["):
            case "\x1b[D" | "\x02":  # Left, Ctrl-B
                self.cursor = self._previous(self.cursor)
            case "\x1b[C" | "\x06":  # Right, Ctrl-F
                self.cursor = self._next(self.cursor)
            case "\x1bb" | "\x1b[1;5D" | "\x1b[5D" | "\x1b[d":  # Alt-B, Ctrl-Left
                self.cursor = self._previous_word()
            case "\x1bf" | "\x1b[1;5C" | "\x1b[5C" | "\x1b[c":  # Alt-F, Ctrl-Right
                self.cursor = self._next_word()
            case "\x1b[H" | "\x1b[1~" | "\x1b[7~" | "\x01":  # Home, Ctrl-A
                self.cursor = 0
            case "\x1b[F" | "\x1b[4~" | "\x1b[8~" | "\x05":  # End, Ctrl-E
                self.cursor = len(self.line)
            case "\x1b[A" | "\x10":  # Up, Ctrl-P
                self._show_history(self._history_offset + 1)
            case "\x1b[B" | "\x0e":  # Down, Ctrl-N
                self._show_history(self._history_offset - 1)
            case "\x12":  # Ctrl-R
                self._searched, self._is_found = "", True
                self._before_search = (self.line, self.cursor, self._history_offset)
            case "\x7f" | "\x08":  # Backspace
                self._replace(self._previous(self.cursor), self.cursor)
            case "\x1b[3~" | "\x04":  # Delete
                self._replace(self.cursor, self._next(self.cursor))
            case "\x19":  # Ctrl-Y
                self._insert(self._deleted)
            case "\t":
                self._complete_word()
            case "\x1b[200~":
                self._paste = Paste.FIRST_LINE
        return []

    def _delete(self, key: str, last_key: str) -> None:
        """Delete text for Ctrl-Y, together with what the keys just before this one deleted."""
        start, end = self.cursor, self.cursor
        match key:
            case "\x15":  # Ctrl-U
                start = 0
            case "\x0b":  # Ctrl-K
                end = len(self.line)
            case "\x17":  # Ctrl-W
                start = self._find_word_start(len(self.line[: self.cursor].rstrip()))
            case "\x1b\x7f":  # Alt-Backspace
                start = self._previous_word()
            case "\x1bd":  # Alt-D
                end = self._next_word()
            case "\x03":  # Ctrl-C
                start, end, self._history_offset = 0, len(self.line), 0
        before, after = self.line[start : self.cursor], self.line[self.cursor : end]
        if before or after:
            kept = self._deleted if last_key in _DELETING_KEYS else ""
            self._deleted = before + kept + after
            self._replace(start, end)
        if not self.line:
            self._left_out = 0

    def _search_on(self, token: str, is_text: bool) -> bool:
        """Process a key while Ctrl-R searches; return False if it ends that and acts as usual.

        Ctrl-R finds the next older line; Ctrl-G and Ctrl-C restore what was there before.
        """
        assert self._searched is not None
        if is_text:
            self._searched += token
            self._find(max(1, self._history_offset))
        elif token == "\x12":
            self._find(self._history_offset + 1)
        elif token in ("\x7f", "\x08"):
            self._searched = self._searched[:-1]
            self._find(1)
        else:
            self._searched = None
            if token not in ("\x03", "\x07"):
                return False
            self.line, self.cursor, self._history_offset = self._before_search
        return True

    def _find(self, first: int) -> None:
        """Show the latest line, from this offset back, that contains what Ctrl-R searches for."""
        key = (self._searched or "").casefold()
        for offset, line in enumerate(reversed(self._history), 1):
            if offset >= first and key in line.casefold():
                self._show_history(offset)
                self._is_found = True
                return
        self._is_found = False

    def _enter(self) -> list[Event]:
        line = self.line
        if line and [line] != list(self._history)[-1:]:
            self._history.append(line)
        self.line, self.cursor, self._history_offset = "", 0, 0
        return [line, *self._take_left_out()]

    def _enter_text(self) -> list[Event]:
        self._make_text()
        return self._enter()

    def _make_text(self) -> None:
        """Put a space in front of what would be a command: that is the protocol's escape."""
        if self.line.startswith("\\"):
            self.line, self.cursor = " " + self.line, self.cursor + 1

    def _take_left_out(self) -> list[Event]:
        left_out, self._left_out = self._left_out, 0
        return [LeftOut(left_out)] if left_out else []

    def _show_history(self, offset: int) -> None:
        if 0 <= offset <= len(self._history):
            if not self._history_offset:
                self._draft = self.line
            self._history_offset, self._left_out = offset, 0
            self.line = self._history[-offset] if offset else self._draft
            self.cursor = len(self.line)

    def _insert(self, text: str) -> None:
        self._replace(self.cursor, self.cursor, text)

    def _replace(self, start: int, end: int, text: str = "") -> None:
        """Replace a part of the line by as much text as LINE_LIMIT allows, and move the cursor.

        A command has one byte less, which is left for a space that makes it text.
        """
        before, after = self.line[:start], self.line[end:]
        is_command = (before + text + after).startswith("\\")
        space_left = max(0, LINE_LIMIT - is_command - len((before + after).encode()))
        accepted = text.encode()[:space_left].decode(errors="ignore")
        self.line, self.cursor = before + accepted + after, start + len(accepted)
        self._left_out += len(text) - len(accepted)

    def _previous(self, index: int) -> int:
        """Return the index of the character before this one, skipping the marks on it."""
        index = max(index - 1, 0)
        while index and not cells(self.line[index]):
            index -= 1
        return index

    def _next(self, index: int) -> int:
        """Return the index of the character after this one and its marks."""
        index = min(index + 1, len(self.line))
        while index < len(self.line) and not cells(self.line[index]):
            index += 1
        return index

    def _previous_word(self) -> int:
        """Return the index at which the letters and digits before the cursor begin."""
        index = self.cursor
        for is_in_word in (False, True):
            while index and self.line[self._previous(index)].isalnum() is is_in_word:
                index = self._previous(index)
        return index

    def _next_word(self) -> int:
        """Return the index at which the letters and digits after the cursor end."""
        index = self.cursor
        for is_in_word in (False, True):
            while index < len(self.line) and self.line[index].isalnum() is is_in_word:
                index = self._next(index)
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
            names = dict.fromkeys(self._complete(word))
            self._candidates = [name + self._after_name(name) for name in names]
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

    def _after_name(self, name: str) -> str:
        """Return what follows a name that is completed at the beginning of the line."""
        rest = self.line[self.cursor :]
        if self._word_start or name.startswith("\\") or rest.startswith((":", ",")):
            return ""
        return ":" if rest.startswith(" ") else ": "


def _common_prefix(words: Sequence[str]) -> str:
    """Return the prefix that all words share, ignoring case, as the first one spells it."""
    length = 0
    for letters in zip(*words, strict=False):
        if len({letter.casefold() for letter in letters}) > 1:
            break
        length += 1
    return words[0][:length]
