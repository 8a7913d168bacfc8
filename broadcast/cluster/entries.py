"""What a server's clients do: encoded for Redis, and parsed when it comes back as an entry."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from ..net.connection import Connection
from ..protocol.blocks import Block
from ..protocol.names import name_key
from ..server.room import Member, SessionEvents
from .resp import RedisError, Reply

SAY, JOIN, LEAVE = b"say", b"join", b"leave"


@dataclass(slots=True, eq=False)
class Newcomer:
    """A client that asks for a name."""

    username: str
    connection: Connection
    events: SessionEvents
    joined: asyncio.Future[Member]  # done before it has joined if it does not wait any more


@dataclass(slots=True, eq=False)
class Event:
    """What one client did, or several have said; its kind and text are sent."""

    kind: bytes
    text: str = ""  # the name that is asked for, or the one that is given back, and why
    said: list[tuple[Member | None, Block]] = field(default_factory=list)
    newcomer: Newcomer | None = None
    member: Member | None = None  # that leaves


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
        for event in self.events:
            if event.kind == SAY:
                words += [SAY, b"".join([block.data for _, block in event.said]), ""]
            else:
                words += [event.kind, event.text, name_key(event.text.partition(" ")[0])]
        return words


@dataclass(slots=True, eq=False)
class Entry:
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
