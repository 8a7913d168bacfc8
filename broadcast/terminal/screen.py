"""How the line being typed and what arrives share a terminal: widths, rows, colours. It returns what to write and writes nothing.

The input area (the prompt and the line typed) is the last thing on the screen. Whatever arrives takes it away, comes to stand where
it was, and the area is drawn again below: all in one string for one write, so that no half of it is ever seen.

No width is relied upon but that of the input area, which the terminal wraps by itself, so that it can also wrap it anew when its
window changes. For the same reason the cursor always stands on a cell that has been written, a blank behind the line's last
character: a cursor that waits behind a full row is taken along differently by each terminal.
"""

from __future__ import annotations

import functools
import re
import unicodedata
import zlib
from bisect import bisect_left
from collections.abc import Sequence

from ..protocol import Incoming, Message, ServerError, name_key

TAB = " " * 4
"""What a TAB is shown as: its width must not depend on where it stands."""

_NAME_COLOURS = [*range(31, 37), *range(91, 97)]
"""All that have a name but black and white: they can be read on a dark and on a light ground alike, mostly."""

_DIM, _RED, _STANDING_OUT, _PLAIN = "2", "31", "1;7", "\x1b[0m"

_PIECE = re.compile(r".{1,64}(?=\s|\Z)|.{1,64}(?=\w)|.{1,64}", re.DOTALL)
"""A piece of a message that is folded at once: normalization takes time quadratic in the length of
a run of combining marks. It ends before white space where there is some, so that a word of 64
characters stays whole, or else before a letter or digit, where a cut hardly ever matters."""


def width(text: str) -> int:
    """Return how many columns a text takes up, as `unicodedata` says; it must not have control characters in it."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def _cells(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _layout(text: str, columns: int) -> list[tuple[int, int]]:
    """Return the row and the column of each character, as a terminal wraps them: a wide one that does not fit moves on whole."""
    places = []
    row = column = 0
    for character in text:
        cells = _cells(character)
        if column + cells > columns:
            row, column = row + 1, 0
        places.append((row, column))
        column += cells
    return places


class Screen:
    r"""The input area of a terminal, and what is put above it.

    Everything returned is to be written whole and in order, by nobody else in between, and with `\r\n` for a new row it is right
    whether or not the terminal's driver makes one of each LF. The terminal is one that wraps lines anew when it is resized.
    """

    def __init__(self, columns: int, rows: int, coloured: bool, bell: bool) -> None:
        self._coloured = coloured
        self._bell = bell
        self._columns, self._rows = (
            max(columns, 2),
            max(rows, 2),
        )  # less than that holds no wide character, and no message
        self._drawn = (
            ""  # the input area as it is on the screen: all of it, or the rows around the cursor
        )
        self._at = 0  # which of its characters the cursor stands on
        self._up = 0  # rows of it above the cursor

    def input(self, prompt: str, line: str, cursor: int) -> str:
        """Show the input area anew, in place, `cursor` being an index into the line."""
        return self._erase() + self._draw(prompt, line, cursor)

    def above(self, lines: Sequence[str], prompt: str, line: str, cursor: int) -> str:
        """Put lines, already styled, above the input area."""
        return (
            self._erase()
            + "".join(f"{_without_tabs(shown)}\r\n" for shown in lines)
            + self._draw(prompt, line, cursor)
        )

    def clear(self, prompt: str, line: str, cursor: int) -> str:
        """Clear the screen; the input area is at its top."""
        return "\x1b[H\x1b[J" + self._draw(prompt, line, cursor)

    def leave(self) -> str:
        """Take the input area away, for leaving or being suspended; the cursor is at the beginning of an empty row, no colour is on.

        `input` and `above` draw the area again, in the row where the cursor is by then.
        """
        taken_away = self._erase()
        self._drawn, self._at, self._up = "", 0, 0
        return taken_away + (_PLAIN if self._coloured else "")

    def resize(self, columns: int, rows: int) -> None:
        """The terminal has another size by now and has wrapped what is on it anew; `input` makes the best of the new one."""
        self._columns, self._rows = max(columns, 2), max(rows, 2)
        if self._drawn:
            self._up = _layout(self._drawn, self._columns)[self._at][0]

    def style(self, incoming: Incoming, clock: str, own_name: str) -> str:
        """Return what arrived as it is to be shown, as `12:34 name: text`; with the bell, if wanted, where it names us.

        A name has one colour of a dozen, the same everywhere and always. What we said ourselves does not count as naming us.
        """
        if isinstance(incoming, Message):
            names_us = incoming.sender != own_name and _names(incoming.text, own_name)
            colour = _NAME_COLOURS[zlib.crc32(incoming.sender.encode()) % len(_NAME_COLOURS)]
            sender = self._in(str(colour), incoming.sender)
            text = _without_tabs(incoming.text)
            bell = "\a" if names_us and self._bell else ""
            return f"{clock} {sender}: {self._in(_STANDING_OUT, text) if names_us else text}{bell}"
        return f"{clock} {self._in(_RED if isinstance(incoming, ServerError) else _DIM, _without_tabs(str(incoming)))}"

    def _in(self, style: str, text: str) -> str:
        return f"\x1b[{style}m{text}{_PLAIN}" if self._coloured else text

    def _erase(self) -> str:
        # Not from the very first cell: what is cleared from the top left on, tmux takes for a screenful and keeps in its history.
        return _go(self._up, "A") + "\r\x1b[K \x1b[J\r"

    def _draw(self, prompt: str, line: str, cursor: int) -> str:
        """Return what shows the input area from the beginning of an empty row on, and remember what that is.

        One that leaves no row for what arrives is cut down to the rows around the cursor.
        """
        at = len(_without_tabs(prompt + line[:cursor]))
        screenful = self._columns * self._rows
        start = (
            max(0, at // screenful - 1) * screenful
        )  # nothing further away can be shown: no need to lay it out at each key
        text = (_without_tabs(prompt + line) + " ")[start : at + screenful]
        places = _layout(text, self._columns)
        height = self._rows - 1
        row, column = places[at - start]
        first = max(0, min(row - height // 2, places[-1][0] - height + 1))
        begin, end = bisect_left(places, (first, 0)), bisect_left(places, (first + height, 0))
        self._drawn, self._at, self._up = text[begin:end], at - start - begin, row - first
        # After a full row the terminal waits to wrap; a carriage return ends that without leaving the row.
        return f"{self._drawn}\r{_go(places[end - 1][0] - row, 'A')}{_go(column, 'C')}"


def _go(steps: int, direction: str) -> str:
    return f"\x1b[{steps}{direction}" if steps else ""


def _without_tabs(text: str) -> str:
    return text.replace("\t", TAB)


def _names(text: str, name: str) -> bool:
    """Tell whether the name stands in the text as a word, in any case; `Al` is neither in `also` nor in `Al-2`, who is another."""
    text, (name, pattern) = _fold(text), _mention(name)
    return bool(name) and name in text and bool(pattern.search(text))


def _fold(text: str) -> str:
    """Return the text in the form in which names are compared, in time linear in its length."""
    return text.lower() if text.isascii() else "".join(map(name_key, _PIECE.findall(text)))


@functools.lru_cache(maxsize=1)
def _mention(name: str) -> tuple[str, re.Pattern[str]]:
    """Return the folded name, and the pattern that finds it in a folded text."""
    name = name_key(name)
    return name, re.compile(rf"(?<!\w)(?<!\w-){re.escape(name)}(?!\w|-\w)")
