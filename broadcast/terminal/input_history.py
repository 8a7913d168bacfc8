"""The lines entered before: Up and Down walk through them, and Ctrl-R searches them."""

from collections import deque

HISTORY_LIMIT = 1_000
"""Lines that Up goes back through: more than a person types in a day."""


class InputHistory:
    """The lines entered before, and which of them is shown instead of the line being typed."""

    def __init__(self) -> None:
        self.offset = 0  # of the line shown, counted back from the one being typed, which is 0
        self._lines: deque[str] = deque(maxlen=HISTORY_LIMIT)
        self._draft = ""  # the line being typed, while another one is shown

    def add(self, line: str) -> None:
        """Remember a line that is entered, unless it is empty or repeats the last one."""
        if line and [line] != list(self._lines)[-1:]:
            self._lines.append(line)
        self.offset = 0

    def show(self, offset: int, shown: str) -> str | None:
        """Return the line at an offset, to replace the one shown, or None if there is none."""
        if not 0 <= offset <= len(self._lines):
            return None
        if not self.offset:
            self._draft = shown
        self.offset = offset
        return self._lines[-offset] if offset else self._draft

    def find(self, text: str, first: int) -> int | None:
        """Return the offset of the latest line, from `first` back, that contains a text."""
        key = text.casefold()
        offsets = range(first, len(self._lines) + 1)
        return next((back for back in offsets if key in self._lines[-back].casefold()), None)
