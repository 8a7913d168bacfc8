"""The log's entries: what a server's clients did, encoded for Redis and parsed when it comes back.

What happens in one iteration of the event loop is one *write*, and becomes one entry. The server
keeps the write until its entry comes back through the log: then it delivers from what it has kept,
which says who the authors are, and takes from the entry only the names that were given.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from ..net.connection import Connection
from ..protocol.blocks import Block
from ..protocol.names import name_key
from ..server.room import Member, SessionEvents
from .resp import RedisError, Reply, encode_words

EVENT_COST = 300
"""Bytes that a join, a leave or a block counts for, in addition to its text."""

SAY, JOIN, LEAVE, HELLO = b"say", b"join", b"leave", b"hello"


@dataclass(slots=True, eq=False)
class Say:
    """A member's messages."""

    member: Member
    block: Block


@dataclass(slots=True, eq=False)
class Join:
    """A client that wants a name."""

    username: str
    connection: Connection
    events: SessionEvents
    joined: asyncio.Future[Member]  # cancelled if the client does not wait any more


@dataclass(slots=True, eq=False)
class Leave:
    """A name that is given back, by a member or for a client that did not wait for it."""

    name: str
    why: str
    member: Member | None


Event = Say | Join | Leave


@dataclass(slots=True, eq=False)
class Write:
    """What this server's clients did in one iteration of the event loop."""

    events: list[Event] = field(default_factory=list)
    size: int = 0
    number: int = 0  # of this server's writes, from 1; 0 until it is sealed
    words: bytes = b""  # encoded, once it is sealed
    count: int = 0  # of the words

    def add(self, event: Event, size: int) -> None:
        """Add an event; its text has `size` bytes."""
        self.events.append(event)
        self.size += size + EVENT_COST

    def seal(self, server: str, number: int) -> None:
        """Encode it; no event may be added after this."""
        words: list[str | bytes | int] = [server, number, int(time.time())]
        said: list[bytes] = []  # adjacent blocks are joined
        for event in self.events:
            if isinstance(event, Say):
                said.append(event.block.data)
                continue
            if said:
                words += [SAY, b"".join(said), b""]
                said.clear()
            if isinstance(event, Join):
                words += [JOIN, event.username, name_key(event.username)]
            else:
                words += [LEAVE, f"{event.name} {event.why}", name_key(event.name)]
        if said:
            words += [SAY, b"".join(said), b""]
        self.number, self.words, self.count = number, encode_words(*words), len(words)


@dataclass(slots=True, eq=False)
class Entry:
    """An entry of the log."""

    position: int
    before: int  # the position of the entry before it
    server: str  # empty if the scripts have added it
    number: int
    seconds: int  # the wall clock of the server that wrote it
    events: list[tuple[bytes, bytes]]  # kind and text

    @property
    def size(self) -> int:
        """Bytes of the log."""
        return self.position - self.before


def parse_entry(reply: Reply) -> Entry:
    """Return an entry as XREAD returned it. Raises RedisError if it is none of ours."""
    try:
        position, (_, before, _, origin, *fields) = reply
        server, number, seconds = origin.decode().split(" ") if origin else ("", 0, 0)
        events = list(zip(fields[::2], fields[1::2], strict=True))
        before = int(before)
        return Entry(int(position[:-2]), before, server, int(number), int(seconds), events)
    except (ValueError, TypeError, AttributeError):
        raise RedisError("its log has an entry that is none of ours") from None
