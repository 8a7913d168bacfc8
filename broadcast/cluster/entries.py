"""The entries of the log: what happened on one server and was sent together."""

from typing import NamedTuple

from ..errors import RedisError
from ..protocol.blocks import Block
from .resp import Reply

SAY, JOIN, LEAVE, END = b"say", b"join", b"leave", b"end"  # kinds of events; see `block_of`


class Entry(NamedTuple):
    """An entry; one that a script has added has no server, and the number 0."""

    id: bytes
    before: bytes  # the ID of the entry before it
    server: str
    number: int  # of this server's entries, from 1
    seconds: int  # the wall clock when it was sent
    events: list[tuple[bytes, bytes]]  # kind and text


def block_of(kind: bytes, text: bytes) -> Block | None:
    """Return the messages of an event, if it is a block of them: its kind also has their number."""
    return Block(text, int(kind[len(SAY) :])) if kind.startswith(SAY) else None


def position_of(entry_id: bytes) -> int:
    """Return roughly how many bytes were ever logged, up to this entry; its ID begins with that."""
    return int(entry_id.partition(b"-")[0])


def parse_entry(reply: Reply) -> Entry:
    """Return an entry that Redis has returned. Raises RedisError if it is none of ours."""
    try:
        entry_id, (before, origin, *fields) = reply
        server, number, seconds = origin.decode().split(" ")
        events = list(zip(fields[::2], fields[1::2], strict=True))
        return Entry(entry_id, before, server, int(number), int(seconds), events)
    except (ValueError, TypeError, AttributeError):
        raise RedisError("its log contains an entry that is not ours") from None
