"""The line being typed, as a pure state machine: keys go in, the line and the cursor come out.

It expects the input of a terminal in raw mode, where Ctrl-C and Ctrl-Z arrive as characters in
order with the others, preferably one that marks pasted text (`ESC[?2004h`).
"""

import enum
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from ..protocol.framing import LINE_LIMIT
from .input_history import InputHistory
from .screen import cells

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

_PASTE_ENDS = "\x1b[201~"

_CURSOR_POSITION = re.compile(r"\x1b\[([0-9]{1,5});[0-9]{1,5}R")


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


EditorEvent = str | Key | LeftOut | CursorRow
"""A line that was entered, or something for the program to do."""


@dataclass(slots=True)
class _Search:
    """A search with Ctrl-R."""

    before: tuple[str, int, int]
    """The line, the cursor and the history's offset when it began."""
    text: str = ""
    is_found: bool = True


@dataclass(frozen=True, slots=True)
class _Completion:
    """What further Tabs cycle through, in place of the word that begins at `start`."""

    start: int
    candidates: list[str]


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
        self._deleting_key = ""  # the one pressed last
        self._history = InputHistory()
        self._search: _Search | None = None
        self._completion: _Completion | None = None  # until any other key than Tab

    @property
    def search(self) -> str:
        """What Ctrl-R searches for, as shown before the prompt; empty if it does not search."""
        if not self._search:
            return ""
        return f"({'search' if self._search.is_found else 'not found'}: {self._search.text}) "

    def feed(self, text: str) -> list[EditorEvent]:
        """Process input; return the lines entered and what the program is to do, in order.

        The input may be split anywhere, even within an escape sequence. Unknown sequences are
        dropped whole; after a lone Escape, only what would complete a sequence is dropped.
        """
        text, self._unfinished = self._unfinished + text, ""
        events: list[EditorEvent] = []
        for token in _TOKEN.finditer(text):
            if token.lastgroup is None and token.end() == len(text):
                self._unfinished = token[0]
                continue
            left_out = self._left_out
            events += self._process(token[0], token.lastgroup == "text")
            if self._left_out > left_out and self._paste is Paste.NONE:
                events.append(Key.BELL)
        return events

    def _process(self, token: str, is_text: bool) -> list[EditorEvent]:
        if token != "\t":
            self._completion = None
        last_token, self._last_token = self._last_token, token
        if token == "\n" and last_token == "\r":
            return []  # both are one line ending
        if self._search and self._continue_search(self._search, token, is_text):
            return []
        if self._paste is not Paste.NONE:
            return self._process_pasted(token, is_text)
        if token in ("\r", "\n"):
            return self._enter()
        if is_text:
            self._insert(token)
            return []
        return self._press(token, last_token)

    def _process_pasted(self, token: str, is_text: bool) -> list[EditorEvent]:
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
        events: list[EditorEvent] = []
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

    def _press(self, key: str, last_key: str) -> list[EditorEvent]:  # noqa: C901 (a table of keys)
        if key in ("\x1a", "\x0c") or (key in ("\x03", "\x04") and not self.line):
            return [Key(key)]
        if position := _CURSOR_POSITION.fullmatch(key):
            return [CursorRow(int(position[1]) - 1)]
        if self._delete(key, last_key):
            return []
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
                self._show_history(self._history.offset + 1)
            case "\x1b[B" | "\x0e":  # Down, Ctrl-N
                self._show_history(self._history.offset - 1)
            case "\x12":  # Ctrl-R
                self._search = _Search((self.line, self.cursor, self._history.offset))
            case "\x7f" | "\x08":  # Backspace
                self._replace(self._previous(self.cursor), self.cursor)
            case "\x1b[3~" | "\x04":  # Delete
                self._replace(self.cursor, self._next(self.cursor))
            case "\x19":  # Ctrl-Y
                self._insert(self._deleted)
            case "\t":
                self._complete_word()
            case "\x1b[200~":  # a paste begins
                self._paste = Paste.FIRST_LINE
        return []

    def _delete(self, key: str, last_key: str) -> bool:
        """Delete text for Ctrl-Y, together with what the keys just before this one deleted.

        Returns False if this is not such a key.
        """
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
                start, end, self._history.offset = 0, len(self.line), 0
            case _:
                return False
        before, after = self.line[start : self.cursor], self.line[self.cursor : end]
        if before or after:
            kept = self._deleted if last_key == self._deleting_key else ""
            self._deleted = before + kept + after
            self._replace(start, end)
        if not self.line:
            self._left_out = 0
        self._deleting_key = key
        return True

    def _continue_search(self, search: _Search, token: str, is_text: bool) -> bool:
        """Process a key while Ctrl-R searches; return False if it ends that and acts as usual.

        Ctrl-R finds the next older line; Ctrl-G and Ctrl-C restore what was there before.
        """
        first = 1
        if is_text:
            search.text += token
            first = max(1, self._history.offset)
        elif token == "\x12":
            first = self._history.offset + 1
        elif token in ("\x7f", "\x08"):
            search.text = search.text[:-1]
        else:
            self._search = None
            if token not in ("\x03", "\x07"):
                return False
            self.line, self.cursor, self._history.offset = search.before
            return True
        found = self._history.find(search.text, first)
        search.is_found = found is not None
        self._show_history(found)
        return True

    def _enter(self) -> list[EditorEvent]:
        line = self.line
        self._history.add(line)
        self.line, self.cursor = "", 0
        return [line, *self._take_left_out()]

    def _enter_text(self) -> list[EditorEvent]:
        self._make_text()
        return self._enter()

    def _make_text(self) -> None:
        """Put a space in front of what would be a command: that is the protocol's escape."""
        if self.line.startswith("\\"):
            self.line, self.cursor = " " + self.line, self.cursor + 1

    def _take_left_out(self) -> list[EditorEvent]:
        left_out, self._left_out = self._left_out, 0
        return [LeftOut(left_out)] if left_out else []

    def _show_history(self, offset: int | None) -> None:
        if offset is not None and (line := self._history.show(offset, self.line)) is not None:
            self.line, self.cursor, self._left_out = line, len(line), 0

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
        completion = self._completion or self._find_candidates()
        start, candidates = completion.start, completion.candidates
        word = self.line[start : self.cursor]
        match candidates:
            case []:
                return
            case [only]:
                is_command = only.startswith("\\")
                needs_space = is_command and self.line[self.cursor : self.cursor + 1] != " "
                replacement = only + " " * needs_space
            case _:
                replacement = _common_prefix(candidates)
                if self._completion or len(replacement) <= len(word):
                    following = candidates.index(word) + 1 if word in candidates else 0
                    replacement = candidates[following % len(candidates)]
                self._completion = completion
        self._replace(start, self.cursor, replacement)

    def _find_candidates(self) -> _Completion:
        start = self._find_word_start(self.cursor)
        names = dict.fromkeys(self._complete(self.line[start : self.cursor]))
        return _Completion(start, [name + self._after_name(name, start) for name in names])

    def _after_name(self, name: str, start: int) -> str:
        """Return what follows a name that is completed at the beginning of the line."""
        rest = self.line[self.cursor :]
        if start or name.startswith("\\") or rest.startswith((":", ",")):
            return ""
        return ":" if rest.startswith(" ") else ": "


def _common_prefix(words: Sequence[str]) -> str:
    """Return the prefix that all words share, ignoring case, as the first one spells it."""
    columns = ({letter.casefold() for letter in letters} for letters in zip(*words, strict=False))
    return words[0][: len(list(takewhile(lambda column: len(column) == 1, columns)))]
