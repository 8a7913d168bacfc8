"""Keep the names in use unique, and list them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator

from ..protocol.framing import encode
from ..protocol.messages import notice
from ..protocol.names import name_key

FIRST_SUFFIX = 2
"""The number added to a name for the second client that asks for it."""

PAGE_LINES = 500
"""Names in a page of the roster: 64 KB at most, with the longest names."""


CACHED_PAGES = 64
"""Pages kept until the roster changes: 4 MB at most, and a room of 10,240 names has 21."""


class Roster:
    """The names in use, in the order of their keys (`name_key`)."""

    def __init__(self) -> None:
        # Kept encoded and sorted, because doing that for each answer takes too long.
        self._lines: dict[str, bytes] = {}  # key -> the name as a notice
        self._sorted: list[str] = []  # the keys
        # Pages and their last names, by the name before them; emptied when the roster changes.
        self._pages: dict[str, tuple[bytes, str]] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def __contains__(self, key: str) -> bool:
        return key in self._lines

    def add(self, key: str, name: str) -> None:
        """Add a name with its key, which must not be in use."""
        self._lines[key] = encode(notice(name))
        insort(self._sorted, key)
        self._pages.clear()

    def remove(self, key: str) -> None:
        """Remove the name with a key, which must be in use."""
        del self._lines[key]
        del self._sorted[bisect_left(self._sorted, key)]
        self._pages.clear()

    def pages(self) -> Iterator[bytes]:
        """Yield all names as they are sent, each as a notice on a line of its own.

        Each page has at most PAGE_LINES lines, and is made when the iterator is advanced, so that
        an answer that is read slowly takes up no memory. A name that is added or removed meanwhile
        may or may not be included.
        """
        last = ""
        while True:
            page = self._pages.get(last) or self._make_page(last)
            if len(self._pages) < CACHED_PAGES:
                self._pages[last] = page
            data, last = page
            if not data:
                return
            yield data

    def _make_page(self, last: str) -> tuple[bytes, str]:
        """Return the page of names after `last`, and the last name in it."""
        start = bisect_right(self._sorted, last)
        keys = self._sorted[start : start + PAGE_LINES]
        return b"".join(map(self._lines.__getitem__, keys)), keys[-1] if keys else last


class Registry:
    """The names in use, unique by their keys."""

    def __init__(self) -> None:
        self._suffixes: dict[str, _Suffixes] = {}  # key without the number -> its numbers in use
        self.roster = Roster()
        """A live view, which only the registry changes."""

    def __len__(self) -> int:
        return len(self.roster)

    def claim(self, name: str) -> str:
        """Reserve and return `name`, or if it is taken, `name` with the lowest free number."""
        key = name_key(name)
        if key in self.roster:
            suffixes = self._suffixes.setdefault(key, _Suffixes())
            while (numbered := f"{key}-{suffixes.allocate()}") in self.roster:
                pass  # another client asked for exactly that name
            name, key = f"{name}-{numbered.rpartition('-')[2]}", numbered
        self.roster.add(key, name)
        return name

    def release(self, name: str) -> None:
        """Free a name that `claim` returned; no effect if it is free already."""
        key = name_key(name)
        if key not in self.roster:
            return
        self.roster.remove(key)
        base, _, number = key.rpartition("-")
        suffixes = self._suffixes.get(base)
        if suffixes and number.isascii() and number.isdigit() and str(int(number)) == number:
            suffixes.free(int(number))
            if suffixes.all_free:
                del self._suffixes[base]


class _Suffixes:
    """The numbers in use for one name, kept so that the lowest free one is found quickly."""

    def __init__(self) -> None:
        self._next = FIRST_SUFFIX  # the lowest number never used
        self._free: list[int] = []  # the lower numbers that are free again, ascending

    @property
    def all_free(self) -> bool:
        """Whether no number is in use."""
        return len(self._free) == self._next - FIRST_SUFFIX

    def allocate(self) -> int:
        """Return the lowest number that is not in use."""
        if self._free:
            return self._free.pop(0)
        self._next += 1
        return self._next - 1

    def free(self, number: int) -> None:
        """Free a number; no effect if it was never allocated or is free already."""
        index = bisect_left(self._free, number)
        if FIRST_SUFFIX <= number < self._next and self._free[index : index + 1] != [number]:
            self._free.insert(index, number)
