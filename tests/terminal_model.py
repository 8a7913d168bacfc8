"""A model of a terminal, which knows only the escape sequences that the client uses."""

from __future__ import annotations

import re
import unicodedata

_PIECE = re.compile(r"\x1b\[(?P<count>[0-9;]*)(?P<command>[A-Za-z])|(?P<character>.)", re.DOTALL)


def cells_of(character: str) -> int:
    """Return how many columns a character takes; independent of the code under test."""
    if unicodedata.category(character) in {"Mn", "Me", "Cf"}:
        return 0
    return {"W": 2, "F": 2}.get(unicodedata.east_asian_width(character), 1)


class Terminal:
    """A screen of cells, with the cursor at the top left.

    A cell holds a character with its marks, "" as the second half of a wide character, and " "
    if it is empty. After a character in the last column, the cursor stays there, and the next
    character wraps first. LF moves the cursor down and not to the left.
    """

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.screen = [[" "] * columns for _ in range(rows)]
        self.row = self.column = 0
        self.waits_to_wrap = False
        self.bells = 0
        self.scrolled = 0  # rows that have scrolled away

    @property
    def picture(self) -> list[str]:
        """The rows as text, without trailing blanks."""
        return ["".join(row).rstrip() for row in self.screen]

    @property
    def cursor(self) -> tuple[int, int]:
        """The row and column of the cursor."""
        return self.row, self.column

    def write(self, text: str) -> None:
        """Show a text, and execute its escape sequences."""
        for piece in _PIECE.finditer(text):
            if piece["command"]:
                self._command(piece["command"], piece["count"])
            elif piece[0] >= " ":
                self._put(piece[0])
            else:
                self._control(piece[0])

    def _control(self, character: str) -> None:
        match character:
            case "\r":
                self.column, self.waits_to_wrap = 0, False
            case "\n":
                self._down()
            case "\a":
                self.bells += 1
            case _:
                raise AssertionError(f"sent {character!r}")

    def _command(self, command: str, count: str) -> None:
        if command == "m":
            return
        assert not self.waits_to_wrap, "terminals differ in what happens now"
        match command, count:
            case "A", _:
                self.row = max(0, self.row - int(count))
            case "C", _:
                self.column = min(self.columns - 1, self.column + int(count))
            case "H", "":
                self.row = self.column = 0
            case "K", "":
                self._clear(self.row, self.column)
            case "J", "":
                self._clear(self.row, self.column)
                for row in range(self.row + 1, self.rows):
                    self._clear(row, 0)
            case _:
                raise AssertionError(f"sent ESC[{count}{command}")

    def _clear(self, row: int, column: int) -> None:
        self.screen[row][column:] = [" "] * (self.columns - column)

    def _down(self) -> None:
        if self.row < self.rows - 1:
            self.row += 1
        else:
            self.scrolled += 1
            self.screen = [*self.screen[1:], [" "] * self.columns]

    def _put(self, character: str) -> None:
        cells = cells_of(character)
        if not cells:
            at = self.column - (not self.waits_to_wrap)
            if at >= 0:
                at -= self.screen[self.row][at] == ""
                self.screen[self.row][at] += character
            return
        if self.waits_to_wrap or self.column + cells > self.columns:
            self.column, self.waits_to_wrap = 0, False
            self._down()
        self.screen[self.row][self.column : self.column + cells] = [character, ""][:cells]
        self.column += cells
        if self.column == self.columns:
            self.column, self.waits_to_wrap = self.columns - 1, True
