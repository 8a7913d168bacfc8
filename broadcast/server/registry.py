"""Keep the names in use unique, and list them."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator

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
    """Names, unique by key (`name_key`) and listed in the order of the keys."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        # Kept encoded and sorted, because doing that for each answer takes too long.
        self._lines = {name_key(name): encode(notice(name)) for name in names}
        self._sorted = sorted(self._lines)  # the keys
        # Pages and their last names, by the name before them; cleared when the names change.
        self._pages: dict[str, tuple[bytes, str]] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def add(self, name: str) -> None:
        """Add a name; no effect if it is there."""
        key = name_key(name)
        if key not in self._lines:
            self._lines[key] = encode(notice(name))
            insort(self._sorted, key)
            self._pages.clear()

    def discard(self, name: str) -> bool:
        """Remove a name; return whether it was there."""
        key = name_key(name)
        if key not in self._lines:
            return False
        del self._lines[key]
        del self._sorted[bisect_left(self._sorted, key)]
        self._pages.clear()
        return True

    def pages(self) -> Iterator[bytes]:
        """Yield all names as they are sent, each as a notice on a line of its own.

        Each page has at most PAGE_LINES lines, and is made when the iterator is advanced, so that
        an answer that is read slowly takes up no memory. A name that is added or removed meanwhile
        may or may not be included.
        """
        last = ""
        while self._sorted and last < self._sorted[-1]:
            page = self._pages.get(last) or self._make_page(last)
            if len(self._pages) < CACHED_PAGES:
                self._pages[last] = page
            data, last = page
            yield data

    def _make_page(self, last: str) -> tuple[bytes, str]:
        """Return the page of names after `last`, and the last name in it."""
        start = bisect_right(self._sorted, last)
        keys = self._sorted[start : start + PAGE_LINES]
        return b"".join(map(self._lines.__getitem__, keys)), keys[-1]


class Registry(Roster):
    """The names in use, each given to one client."""

    def __init__(self) -> None:
        super().__init__()
        # By key, its free numbers, ascending; the numbers above the last one are free, too. Kept
        # while a number is in use, so that the lowest free one is found without a search.
        self._suffixes: dict[str, list[int]] = {}

    def claim(self, name: str) -> str:
        """Reserve and return `name`, or if it is taken, `name` with the lowest free number."""
        base = key = name_key(name)
        if base in self._lines:
            free = self._suffixes.setdefault(base, [FIRST_SUFFIX])
            while key in self._lines:  # another client may have asked for exactly that name
                number = free.pop(0)
                key = f"{base}-{number}"
                if not free:
                    free.append(number + 1)
            name = f"{name}-{number}"
        self.add(name)
        return name

    def release(self, name: str) -> None:
        """Free a name that `claim` returned; no effect if it is free already."""
        if not self.discard(name):
            return
        base, _, suffix = name_key(name).rpartition("-")
        free = self._suffixes.get(base)
        if free and suffix.isascii() and suffix.isdigit() and str(int(suffix)) == suffix:
            number = int(suffix)
            if FIRST_SUFFIX <= number < free[-1] and free[bisect_left(free, number)] != number:
                insort(free, number)
            if len(free) > free[-1] - FIRST_SUFFIX:  # all are free
                del self._suffixes[base]
