"""What a server's clients do: encoded for Redis, and parsed when it comes back as an entry."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import NamedTuple

from ..net.connection import Connection
from ..protocol.names import name_key
from ..server.room import Member, SessionEvents
from .resp import RedisError, Reply

SAY, JOIN, LEAVE = b"say", b"join", b"leave"


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
    who: Member | Newcomer | None  # is not sent, but kept


@dataclass(slots=True, eq=False)
class Write:
    """What happened in one iteration of the event loop, which becomes one entry."""

    number: int  # of this server's writes, from 1
    events: list[Event] = field(default_factory=list)
    size: int = 0  # bytes
    command: bytes = b""  # once no event is added any more

    def words(self) -> list[bytes | str]:
        """Return kind, text and key of each event."""
        words: list[bytes | str] = []
        for kind, text, _ in self.events:
            key = name_key(text.partition(" ")[0]) if isinstance(text, str) else ""
            words += (kind, text, key)
        return words


class Entry(NamedTuple):
    """An entry of the log."""

    position: int
    before: int  # the position of the entry before it
    server: str  # empty if no server has written it, but a script
    number: int
    seconds: int  # the wall clock of that server
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
