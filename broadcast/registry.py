"""Who is connected, and under which name."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from types import MappingProxyType

from .protocol import fold

FIRST_SUFFIX = 2
"""The second Attila is Attila-2."""


class Registry:
    """The names in use, unique by what `fold` makes of them."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}  # folded name -> name, while its client is connected
        self._suffixes: dict[str, _Suffixes] = {}  # folded name without its number -> which numbers are taken
        self.roster: Mapping[str, str] = MappingProxyType(self._names)
        """A live view: folded name -> name."""

    def __len__(self) -> int:
        return len(self._names)

    def claim(self, name: str) -> str:
        """Return `name`, or where it is taken the same with the lowest free number from 2 on; it is in use from now on."""
        key = fold(name)
        if key in self._names:
            suffixes = self._suffixes.setdefault(key, _Suffixes())
            while (numbered := f"{key}-{suffixes.take()}") in self._names:
                pass  # somebody came with that very name
            name, key = f"{name}-{numbered.rpartition('-')[2]}", numbered
        self._names[key] = name
        return name

    def release(self, name: str) -> None:
        """Let others have the name, which `claim` returned; without effect on one that is free."""
        key = fold(name)
        if self._names.pop(key, None) is None:
            return
        base, _, number = key.rpartition("-")
        suffixes = self._suffixes.get(base)
        if suffixes and number.isascii() and number.isdigit() and str(int(number)) == number:
            suffixes.give_back(int(number))
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

    def give_back(self, number: int) -> None:
        """The number is free; without effect on one that was never taken here, or is free already."""
        at = bisect_left(self._free, number)
        if FIRST_SUFFIX <= number < self._next and self._free[at : at + 1] != [number]:
            self._free.insert(at, number)
