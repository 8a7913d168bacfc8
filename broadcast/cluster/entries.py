"""What a server's clients do: encoded for Redis, and parsed when it comes back as an entry."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from ..net.connection import Connection
from ..server.room import Member, SessionEvents
from .resp import RedisError, Reply

SAY, JOIN, LEAVE = b"say", b"join", b"leave"  # SAY is followed by the number of lines


class Newcomer(NamedTuple):
    """A client that asks for a name; `joined` is done early if it does not wait any more."""

    username: str
    connection: Connection
    events: SessionEvents
    joined: asyncio.Future[Member]


class Event(NamedTuple):
    """What a client did: messages, a name asked for, or one given back, and why."""

    kind: bytes
    text: bytes | str
    key: str  # of the name
    who: Member | Newcomer | None  # is not sent, but kept


class Write(NamedTuple):
    """Events that were sent together, and become one entry."""

    number: int  # of this server's writes, from 1
    events: list[Event]
    size: int  # bytes


class Entry(NamedTuple):
    """An entry of the log; one that a script has added has no server, and the number 0."""

    position: int
    before: int  # the position of the entry before it
    server: str
    number: int
    seconds: int  # the wall clock when it was sent
    events: list[tuple[bytes, bytes]]  # kind and text


def parse_entry(reply: Reply) -> Entry:
    """Return an entry that Redis has returned. Raises RedisError if it is none of ours."""
    try:
        position, (_, before, _, origin, *fields) = reply
        server, number, seconds = origin.decode().split(" ")
        events = list(zip(fields[::2], fields[1::2], strict=True))
        return Entry(int(position[:-2]), int(before), server, int(number), int(seconds), events)
    except (ValueError, TypeError, AttributeError):
        raise RedisError("its log has an entry that is none of ours") from None
