"""Draw the input line and the messages above it, as strings for the terminal.

The input area, which is the prompt and the line being typed, is the last thing on the screen. To
show a message, one string erases the area, prints the message in its place and draws the area again
below: in one write, so that no intermediate state is ever visible. The area begins with the lines
that wait to be sent, each cut to one row.

Rows end between words where they can. Where a word, or a text without spaces, is longer than a row,
the terminal itself wraps it, so that it can wrap it again when its window is resized. For the same
reason the cursor is always on a cell that has been written, a blank after the line's last
character: terminals differ in where a resize leaves a cursor that waits after a full row.
"""

import functools
import re
import unicodedata
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from ..protocol.messages import Incoming, Message, ServerError
from ..protocol.names import name_key

TAB = " " * 4
"""Replaces a tab, whose width would depend on its column."""

_NAME_COLOURS = [*range(31, 37), *range(91, 97)]
"""The standard colours except black and white: mostly legible on dark and light backgrounds."""

ROOM_TO_TYPE = 5
"""Columns that a prompt leaves in its row."""

_DIM, _RED, _HIGHLIGHT, _RESET = "2", "31", "1;7", "\x1b[0m"

_NORMALIZABLE = re.compile(r".{1,64}(?=\s|\Z)|.{1,64}(?=\w)|.{1,64}", re.DOTALL)
"""A piece of a message to normalize at once: normalization takes time quadratic in the number of
consecutive combining marks. It ends before white space if possible, so that a word of 64 characters
stays whole, or else before a letter or digit, where a cut hardly ever matters."""


_PIECES = {
    hanging: re.compile(rf"[!-~]+{space}|\x1b\[[0-9;]*m|.", re.DOTALL)
    for hanging, space in ((True, ""), (False, " ?"))
}
"""A word of ASCII, with the space after it unless that hangs; one other character; or an escape
sequence of a styled text."""

_STYLES = re.compile(r"\x1b\[[0-9;]*m|\a")


@functools.lru_cache(maxsize=4096)
def cells(character: str) -> int:
    """Return how many columns a character needs: none for a mark, a selector or a joiner."""
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _layout(text: str, columns: int) -> list[tuple[int, int]]:
    """Return the row and column of each character, as a terminal wraps them.

    A wide character that does not fit into a row moves to the next one. An LF ends its row.
    """
    positions = []
    row = column = 0
    for character in text:
        if character == "\n":
            positions.append((row, column))
            row, column = row + 1, 0
            continue
        needed = cells(character)
        if column + needed > columns:
            row, column = row + 1, 0
        positions.append((row, column))
        column += needed
    return positions


def cut(text: str, columns: int) -> str:
    """Return as much of a text as fits into a row; the last character shows that it was cut."""
    text = _expand_tabs(text[: 4 * columns])  # what is further away cannot fit, but for marks
    if sum(map(cells, text)) <= columns:
        return text
    return text[: bisect_left(_layout(text, columns - 1), (1, 0))] + "\u2026"


def fit_prompt(states: Sequence[str], name: str, columns: int) -> str:
    """Return a prompt with the first of the states that leaves room to type in the row."""
    room = columns - ROOM_TO_TYPE
    for prompt in [*(f"({state}) {name}> " for state in states), f"({states[-1]}) > "]:
        if sum(map(cells, prompt)) <= room:
            return prompt
    return cut(prompt, max(columns - 1, 1))


def _words(text: str, *, hanging: bool) -> list[tuple[int, int, str]]:
    """Return the start, the width and the first character of each word and each wide character.

    Marks belong to what they follow, and styles to what follows them. A word includes the space
    after it, unless spaces are `hanging`: then each counts as a word that has no width.
    """
    words = []
    start = end = width = 0
    first, begins = "-", False  # whether the next character begins a word, whatever it is
    for piece in _PIECES[hanging].finditer(text):
        letters = piece[0]
        if letters < " ":
            continue
        needed, hangs = cells(letters[-1]), hanging and letters == " "
        if needed and (begins or needed == 2 or hangs):
            words.append((start, width, first))
            start, width, first = end, 0, letters[0]
        end = piece.end()
        if needed:
            begins = needed == 2 or letters[-1] == " "
        if not hangs or not cells(text[end : end + 1] or "-"):  # a space with a mark does not hang
            width += needed * len(letters)
    return [*words, (start, width, first)]


def _find_breaks(text: str, columns: int, *, hanging: bool) -> list[int]:
    """Return the indices at which a row has to end so that the terminal cuts no word.

    A word has room for the space after it, or that space is `hanging`: it takes up no room at the
    end of a row. A word that is longer than a row stays where it is, and the terminal cuts it. So
    it does between wide characters, which need no spaces.
    """
    breaks: list[int] = []
    column, previous = 0, ""
    for start, width, first in _words(text, hanging=hanging):
        if first == " " and not width:
            column = min(column + 1, columns)
        elif column + width > columns:
            is_full, is_wide = column == columns, cells(first) == 2
            if hanging and previous == " ":
                is_moved = is_full or width <= columns
            else:  # at the end of a row and at wide characters, the terminal wraps by itself
                is_moved = not is_full and not is_wide and width <= columns
            if is_moved and column:
                breaks.append(start)
                column = 0
            column = width if is_wide else (column + width - 1) % columns + 1
        else:
            column += width
        previous = first
    return breaks


def _split(text: str, breaks: Sequence[int]) -> list[str]:
    return [text[start:end] for start, end in pairwise([0, *breaks, len(text)])]


class InputArea(NamedTuple):
    """What the input area shows."""

    prompt: str
    line: str
    cursor: int
    """An index into the line."""
    waiting: Sequence[str] = ()
    """What waits to be sent, above the prompt."""


@dataclass(slots=True)
class _Resize:
    """The input area as the terminal wrapped it at the last resize."""

    text: str
    """The area, after what an earlier resize had pushed out."""
    positions: list[tuple[int, int]]
    """The row and column of each character of the text."""
    rows_above: int
    """Rows above the cursor."""
    pushed_out: str = ""
    """The beginning of the text, which a small window has pushed out of the screen, directly above
    what is drawn now. It comes back when the window grows again, and is erased then."""

    def locate(self, cursor_row: int) -> None:
        """Find out what has been pushed out, from the row of the screen that the cursor is in."""
        end = bisect_left(self.positions, (self.rows_above - cursor_row, 0))
        self.pushed_out = self.text[:end].removesuffix("\n") + "\n" if end else ""


class Screen:
    r"""Draws the input area of a terminal, and messages above it.

    Each string returned must be written whole and in order, with no other output in between. Rows
    end with `\r\n`, so it does not matter whether the terminal translates LF.
    """

    def __init__(self, columns: int, rows: int, coloured: bool, bell: bool) -> None:
        self._coloured = coloured
        self._bell = bell
        # Fewer columns hold no wide character, fewer rows no message.
        self._columns, self._rows = max(columns, 2), max(rows, 2)
        # The input area on the screen: all of it, or the rows around the cursor.
        self._drawn = ""
        self._cursor_index = 0  # of the character in it that the cursor is on
        self._rows_above = 0  # of it, above the cursor
        # None once messages are between what it has pushed out and the area.
        self._resize: _Resize | None = None
        self._replies_due = 0  # answers of the terminal about its cursor

    def above(self, lines: Sequence[str], area: InputArea) -> str:
        """Print styled lines, if there are any, and redraw the input area below."""
        if lines:
            self._resize = None
        printed = "".join(f"{self._wrap(styled)}\r\n" for styled in lines)
        return self._erase() + printed + self._draw(area)

    def clear(self, area: InputArea) -> str:
        """Clear the screen and draw the input area at the top."""
        self._resize = None
        return "\x1b[H\x1b[J" + self._draw(area)

    def leave(self) -> str:
        """Erase the input area, to quit or to suspend, and reset the colours.

        `above` draws the area again, in the row where the cursor is then.
        """
        erased = self._erase()
        self._drawn, self._cursor_index, self._rows_above = "", 0, 0
        self._resize = None
        return erased + _RESET

    def resize(self, columns: int, rows: int) -> str:
        """Adjust to a new size, for which the terminal has already wrapped; then call `above`.

        Returns what is to be written before that: it asks the terminal for the cursor's row, which
        tells how much of the area has been pushed out. Call `locate` with the answer.
        """
        self._columns, self._rows = max(columns, 2), max(rows, 2)
        if not self._drawn:
            return ""
        pushed_out = self._resize.pushed_out if self._resize else ""
        text = pushed_out + self._drawn
        positions = _layout(text, self._columns)
        self._rows_above, _ = positions[len(pushed_out) + self._cursor_index]
        self._resize = _Resize(text, positions, self._rows_above)
        self._resize.locate(self._rows - 1)  # unless there is an answer that says more
        if not self._rows_above:
            return ""  # nothing can have been pushed out
        self._replies_due += 1
        return "\x1b[6n"

    def locate(self, row: int) -> None:
        """Handle the terminal's answer: the row, from 0, of its cursor after the resize."""
        # With another number due, this answers an earlier question, or is a key.
        if self._resize and self._replies_due == 1:
            self._resize.locate(row)
        self._replies_due = max(0, self._replies_due - 1)

    def style(self, incoming: Incoming, time_of_day: str, own_name: str) -> str:
        """Format what was received as `12:34 name: text`, with the bell if it names the user.

        Each name has one colour of a dozen, everywhere and always. The user's own messages never
        ring the bell.
        """
        if isinstance(incoming, Message):
            colour = _NAME_COLOURS[zlib.crc32(incoming.sender.encode()) % len(_NAME_COLOURS)]
            text = _expand_tabs(incoming.text)
            if incoming.sender != own_name and _mentions(incoming.text, own_name):
                text = self._in_style(_HIGHLIGHT, text) + ("\a" if self._bell else "")
            return f"{time_of_day} {self._in_style(str(colour), incoming.sender)}: {text}"
        style = _RED if isinstance(incoming, ServerError) else _DIM
        return f"{time_of_day} {self._in_style(style, _expand_tabs(str(incoming)))}"

    def dim(self, text: str) -> str:
        """Format a text that is neither a message nor from the server."""
        return self._in_style(_DIM, text)

    def _wrap(self, styled: str) -> str:
        """Put line endings where the rows of a message end."""
        text = _expand_tabs(styled)
        plain = _STYLES.sub("", text)
        if len(plain) * (1 if plain.isascii() else 2) <= self._columns:
            return text
        rows = _split(text, _find_breaks(text, self._columns, hanging=True))
        return "\r\n".join(row.rstrip(" ") for row in rows)

    def _in_style(self, style: str, text: str) -> str:
        # Bold and reversed are no colours.
        is_used = self._coloured or style == _HIGHLIGHT
        return f"\x1b[{style}m{text}{_RESET}" if is_used else text

    def _erase(self) -> str:
        # Not from the very first cell: clearing from the top left makes tmux save a screenful in
        # its history.
        return _move(self._rows_above, "A") + "\r\x1b[K \x1b[J\r"

    def _fit_waiting(self, waiting: Sequence[str]) -> list[str]:
        """Return a row for each line that waits, or the last ones, in less than half the screen."""
        rows, count = (self._rows - 1) // 2, len(waiting)
        if count > rows:
            waiting = [f"{count - rows + 1} lines", *waiting[count - rows + 1 :]][:rows]
        return [cut(f"    \u2026 {text}", self._columns - 1) for text in waiting]

    def _draw(self, area: InputArea) -> str:
        """Draw the input area from the beginning of an empty row, and record what is drawn.

        An area that would leave no row for messages is cut down to the rows around the cursor.
        """
        prompt, line, cursor, waiting = area
        waiting = self._fit_waiting(waiting)
        index = len(_expand_tabs(prompt + line[:cursor]))  # of the character that the cursor is on
        # Text further away than a screenful cannot be visible, so it is not laid out at each key.
        screenful = self._columns * self._rows
        start = max(0, index // screenful - 1) * screenful
        text = (_expand_tabs(prompt + line) + " ")[start : index + screenful]
        breaks = _find_breaks(text, self._columns, hanging=False)
        text = "\n".join(_split(text, breaks))
        index += bisect_right(breaks, index - start) - start
        positions = _layout(text, self._columns)
        height = self._rows - 1 - len(waiting)
        row, column = positions[index]
        top = max(0, min(row - height // 2, positions[-1][0] - height + 1))
        begin, end = bisect_left(positions, (top, 0)), bisect_left(positions, (top + height, 0))
        typed = text[begin:end].removesuffix("\n")
        above = "".join(f"{shown}\n" for shown in waiting)
        dimmed = "".join(f"{self.dim(shown)}\r\n" for shown in waiting)
        self._drawn = above + typed
        self._cursor_index = len(above) + index - begin
        self._rows_above = len(waiting) + row - top
        # After a full row the terminal delays wrapping; a carriage return stays in that row.
        to_cursor = f"{_move(positions[end - 1][0] - row, 'A')}{_move(column, 'C')}"
        return dimmed + typed.replace("\n", "\r\n") + "\r" + to_cursor


def _move(steps: int, direction: str) -> str:
    return f"\x1b[{steps}{direction}" if steps else ""


def _expand_tabs(text: str) -> str:
    return text.replace("\t", TAB)


def _mentions(text: str, name: str) -> bool:
    """Return whether a text contains a name as a word, ignoring case.

    `Al` is neither in `also` nor in `Al-2`, which is another name.
    """
    text, (key, pattern) = _normalize(text), _compile_mention(name)
    return bool(key) and key in text and bool(pattern.search(text))


def _normalize(text: str) -> str:
    """Return a text in the form in which names are compared, in linear time."""
    return text.lower() if text.isascii() else "".join(map(name_key, _NORMALIZABLE.findall(text)))


@functools.lru_cache(maxsize=1)
def _compile_mention(name: str) -> tuple[str, re.Pattern[str]]:
    """Return the normalized name, and the pattern that finds it in a normalized text."""
    key = name_key(name)
    return key, re.compile(rf"(?<!\w)(?<!\w-){re.escape(key)}(?!\w|-\w)")
