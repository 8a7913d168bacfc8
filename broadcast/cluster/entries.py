"""The entries of the log: what happened on one server and was sent together."""

from typing import NamedTuple

from .resp import RedisError, Reply

SAY, JOIN, LEAVE = b"say", b"join", b"leave"  # SAY is followed by the number of lines


class Entry(NamedTuple):
    """An entry; one that a script has added has no server, and the number 0."""

    id: bytes
    before: bytes  # the ID of the entry before it
    server: str
    number: int  # of this server's entries, from 1
    seconds: int  # the wall clock when it was sent
    events: list[tuple[bytes, bytes]]  # kind and text


def position_of(entry_id: bytes) -> int:
    """Return how many bytes the log has had up to and with an entry: its ID begins with that."""
    return int(entry_id.partition(b"-")[0])


def parse_entry(reply: Reply) -> Entry:
    """Return an entry that Redis has returned. Raises RedisError if it is none of ours."""
    try:
        entry_id, (_, before, _, origin, *fields) = reply
        server, number, seconds = origin.decode().split(" ")
        events = list(zip(fields[::2], fields[1::2], strict=True))
        return Entry(entry_id, before, server, int(number), int(seconds), events)
    except (ValueError, TypeError, AttributeError):
        raise RedisError("its log contains an entry that is not ours") from None
