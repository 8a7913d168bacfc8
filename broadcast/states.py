"""States: one attribute each, changed by one method along a table of what may follow."""

from collections.abc import Container, Mapping
from typing import TypeVar

State = TypeVar("State")


def follow(table: Mapping[State, Container[State]], state: State, following: State) -> State:
    """Return the following state if the table allows it after `state`; else raise RuntimeError."""
    if following not in table[state]:
        raise RuntimeError(f"{following} may not follow {state}")
    return following
