"""Who is connected, and under which name."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator

from ..protocol import encode, name_key, notice

FIRST_SUFFIX = 2
"""The second Attila is Attila-2."""


PAGE_LINES = 500
"""Names in a page of the roster: 64 KB at most, with the longest of names."""


class Roster:
    """The names in use, in the order of their folded forms."""

    def __init__(self) -> None:
        # Kept encoded and sorted: to encode and sort 8,000 names takes 3 ms an answer.
        self._lines: dict[str, bytes] = {}  # folded name -> the name as a notice
        self._sorted: list[str] = []  # the folded names

    def __len__(self) -> int:
        return len(self._lines)

    def __contains__(self, key: str) -> bool:
        return key in self._lines

    def add(self, key: str, name: str) -> None:
        """Add a name by its folded form, which is not in use."""
        self._lines[key] = encode(notice(name))
        insort(self._sorted, key)

    def remove(self, key: str) -> None:
        """Remove the name with this folded form, which is in use."""
        del self._lines[key]
        del self._sorted[bisect_left(self._sorted, key)]

    def pages(self) -> Iterator[bytes]:
        """Yield all names as they are sent, each as a notice on a line of its own.

        Each page has PAGE_LINES at most, and is made when it is asked for: one that has been read
        slowly costs no more than the name that it has come to. Names that come or go meanwhile are
        in it or not, depending on where they are.
        """
        last = ""
        while True:
            start = bisect_right(self._sorted, last)
            if not (keys := self._sorted[start : start + PAGE_LINES]):
                return
            last = keys[-1]
            yield b"".join(map(self._lines.__getitem__, keys))


class Registry:
    """The names in use, unique by what `fold` makes of them."""

    def __init__(self) -> None:
        self._suffixes: dict[
            str, _Suffixes
        ] = {}  # folded name without its number -> which numbers are taken
        self.roster = Roster()
        """For others to read only."""

    def __len__(self) -> int:
        return len(self.roster)

    def claim(self, name: str) -> str:
        """Return `name`, or where it is taken the same with the lowest free number from 2 on; it is in use from now on."""
        key = name_key(name)
        if key in self.roster:
            suffixes = self._suffixes.setdefault(key, _Suffixes())
            while (numbered := f"{key}-{suffixes.take()}") in self.roster:
                pass  # somebody came with that very name
            name, key = f"{name}-{numbered.rpartition('-')[2]}", numbered
        self.roster.add(key, name)
        return name

    def release(self, name: str) -> None:
        """Let others have the name, which `claim` returned; without effect on one that is free."""
        key = name_key(name)
        if key not in self.roster:
            return
        self.roster.remove(key)
        base, _, number = key.rpartition("-")
        suffixes = self._suffixes.get(base)
        if suffixes and number.isascii() and number.isdigit() and str(int(number)) == number:
            suffixes.unread(int(number))
            if suffixes.all_free:
                del self._suffixes[base]


class _Suffixes:
    """The numbers behind one name, so that the ten-thousandth of the same name does not have to search from the first."""

    def __init__(self) -> None:
        self._next = FIRST_SUFFIX  # the lowest number never taken
        self._free: list[int] = []  # the lower ones that came back, ascending

    @property
    def all_free(self) -> bool:
        return len(self._free) == self._next - FIRST_SUFFIX

    def take(self) -> int:
        """Return the lowest free number, as far as is known here."""
        if self._free:
            return self._free.pop(0)
        self._next += 1
        return self._next - 1

    def unread(self, number: int) -> None:
        """The number is free; without effect on one that was never taken here, or is free already."""
        at = bisect_left(self._free, number)
        if FIRST_SUFFIX <= number < self._next and self._free[at : at + 1] != [number]:
            self._free.insert(at, number)
