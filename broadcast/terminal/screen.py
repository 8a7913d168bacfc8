"""Draws the input line and the messages above it, as strings for the terminal.

The input area, which is the prompt and the line being typed, is the last thing on the screen. To
show a message, one string erases the area, prints the message in its place and draws the area again
below: in one write, so that no intermediate state is ever visible. The area begins with the lines
that wait to be sent, each cut to one row.

Only the width of the input area matters. The terminal itself wraps it, so that it can wrap it again
when its window is resized. For the same reason the cursor is always on a cell that has been
written, a blank after the line's last character: terminals differ in where a resize leaves a cursor
that waits after a full row.
"""

from __future__ import annotations

import functools
import re
import unicodedata
import zlib
from bisect import bisect_left
from collections.abc import Sequence

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


def cells(character: str) -> int:
    """Return how many columns a character needs: none for a mark, a selector or a joiner."""
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _layout(text: str, columns: int) -> list[tuple[int, int]]:
    """Return the row and column of each character, as a terminal wraps them.

    A wide character that does not fit into a row moves to the next one.
    """
    positions = []
    row = column = 0
    for character in text:
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
    """Return a prompt with the first state, and the name, that leave room to type in the row."""
    room = columns - ROOM_TO_TYPE
    for prompt in [*(f"({state}) {name}> " for state in states), f"({states[-1]}) > "]:
        if sum(map(cells, prompt)) <= room:
            return prompt
    return cut(prompt, max(columns - 1, 1))


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
        self._waiting: list[str] = []  # the rows above it, of lines that wait to be sent
        self._waiting_rows = 0  # more than these if the terminal has wrapped them

    def input(self, prompt: str, line: str, cursor: int, waiting: Sequence[str] = ()) -> str:
        """Redraw the input area in place; `cursor` is an index into the line."""
        return self._erase() + self._draw(prompt, line, cursor, waiting)

    def above(
        self,
        lines: Sequence[str],
        prompt: str,
        line: str,
        cursor: int,
        waiting: Sequence[str] = (),
    ) -> str:
        """Print styled lines above the input area."""
        printed = "".join(f"{_expand_tabs(styled)}\r\n" for styled in lines)
        return self._erase() + printed + self._draw(prompt, line, cursor, waiting)

    def clear(self, prompt: str, line: str, cursor: int, waiting: Sequence[str] = ()) -> str:
        """Clear the screen and draw the input area at the top."""
        return "\x1b[H\x1b[J" + self._draw(prompt, line, cursor, waiting)

    def leave(self) -> str:
        """Erase the input area, to quit or to suspend, and reset the colours.

        `input` and `above` draw the area again, in the row where the cursor is then.
        """
        erased = self._erase()
        self._drawn, self._cursor_index, self._rows_above = "", 0, 0
        self._waiting, self._waiting_rows = [], 0
        return erased + (_RESET if self._coloured else "")

    def resize(self, columns: int, rows: int) -> None:
        """Adjust to a new size, for which the terminal has already wrapped; then call `input`."""
        self._columns, self._rows = max(columns, 2), max(rows, 2)
        if self._drawn:
            self._rows_above, _ = _layout(self._drawn, self._columns)[self._cursor_index]
        rows_of_each = (_layout(text, self._columns)[-1][0] + 1 for text in self._waiting)
        self._waiting_rows = sum(rows_of_each)

    def style(self, incoming: Incoming, clock: str, own_name: str) -> str:
        """Format what was received as `12:34 name: text`, with the bell if it names the user.

        Each name has one colour of a dozen, everywhere and always. The user's own messages never
        ring the bell.
        """
        if isinstance(incoming, Message):
            colour = _NAME_COLOURS[zlib.crc32(incoming.sender.encode()) % len(_NAME_COLOURS)]
            text = _expand_tabs(incoming.text)
            if incoming.sender != own_name and _mentions(incoming.text, own_name):
                text = self._in_style(_HIGHLIGHT, text) + ("\a" if self._bell else "")
            return f"{clock} {self._in_style(str(colour), incoming.sender)}: {text}"
        style = _RED if isinstance(incoming, ServerError) else _DIM
        return f"{clock} {self._in_style(style, _expand_tabs(str(incoming)))}"

    def dim(self, text: str) -> str:
        """Format a text that is neither a message nor from the server."""
        return self._in_style(_DIM, text)

    def _in_style(self, style: str, text: str) -> str:
        return f"\x1b[{style}m{text}{_RESET}" if self._coloured else text

    def _erase(self) -> str:
        # Not from the very first cell: clearing from the top left makes tmux save a screenful in
        # its history.
        return _move(self._waiting_rows + self._rows_above, "A") + "\r\x1b[K \x1b[J\r"

    def _draw_waiting(self, waiting: Sequence[str]) -> str:
        """Draw lines that wait to be sent, or the last of them, in less than half the screen."""
        rows, count = (self._rows - 1) // 2, len(waiting)
        if count > rows:
            waiting = [f"{count - rows + 1} lines", *waiting[count - rows + 1 :]][:rows]
        self._waiting = [cut(f"    \u2026 {text}", self._columns - 1) for text in waiting]
        self._waiting_rows = len(self._waiting)
        return "".join(f"{self.dim(text)}\r\n" for text in self._waiting)

    def _draw(self, prompt: str, line: str, cursor: int, waiting: Sequence[str]) -> str:
        """Draw the input area from the beginning of an empty row, and record what is drawn.

        An area that would leave no row for messages is cut down to the rows around the cursor.
        """
        drawn_waiting = self._draw_waiting(waiting)
        index = len(_expand_tabs(prompt + line[:cursor]))
        # Text further away than a screenful cannot be visible, so it is not laid out at each key.
        screenful = self._columns * self._rows
        start = max(0, index // screenful - 1) * screenful
        text = (_expand_tabs(prompt + line) + " ")[start : index + screenful]
        positions = _layout(text, self._columns)
        height = self._rows - 1 - self._waiting_rows
        row, column = positions[index - start]
        top = max(0, min(row - height // 2, positions[-1][0] - height + 1))
        begin, end = bisect_left(positions, (top, 0)), bisect_left(positions, (top + height, 0))
        self._drawn = text[begin:end]
        self._cursor_index, self._rows_above = index - start - begin, row - top
        # After a full row the terminal delays wrapping; a carriage return stays in that row.
        up = _move(positions[end - 1][0] - row, "A")
        return f"{drawn_waiting}{self._drawn}\r{up}{_move(column, 'C')}"


def _move(steps: int, direction: str) -> str:
    return f"\x1b[{steps}{direction}" if steps else ""


def _expand_tabs(text: str) -> str:
    return text.replace("\t", TAB)


def _mentions(text: str, name: str) -> bool:
    """Return whether a text contains a name as a word, in any case.

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
