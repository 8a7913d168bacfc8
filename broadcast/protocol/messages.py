"""Build and parse what the server sends: messages, notices and errors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from .handshake import SHUTTING_DOWN
from .names import SENDER_LIMIT

TOO_SLOW = "too slow: did not read what it was sent in time"

TIMED_OUT = "timed out: nothing heard for"

_ERROR, _NOTICE = "ERROR ", "* "

_RENAMED = re.compile(r"\* \S+ is taken: you are (\S+)")


def notice(text: str) -> str:
    """Return a notice from the server as a line."""
    return _NOTICE + text


def error(text: str) -> str:
    """Return an error that concerns one client as a line."""
    return _ERROR + text


def line_too_long(limit: int) -> str:
    """Return the error that answers a line of more than `limit` bytes."""
    return error(f"line too long (at most {limit} bytes)")


def renamed_notice(asked: str, given: str) -> str:
    """Return the notice that tells a client its name was taken and which one it got."""
    return notice(f"{asked} is taken: you are {given}")


def parse_renamed(line: str) -> str | None:
    """Return the name given in a line made by `renamed_notice`, or None for any other line."""
    match = _RENAMED.fullmatch(line)
    return match[1] if match else None


@dataclass(frozen=True, slots=True)
class Message:
    """A message from another client."""

    sender: str
    text: str

    def __str__(self) -> str:
        return f"{self.sender}: {self.text}"


@dataclass(frozen=True, slots=True)
class Notice:
    """A notice from the server: a join, a leave, or the answer to a command."""

    text: str
    sender: ClassVar[None] = None

    def __str__(self) -> str:
        return notice(self.text)


@dataclass(frozen=True, slots=True)
class ServerError:
    """An error from the server that concerns this client alone."""

    text: str
    sender: ClassVar[None] = None

    def __str__(self) -> str:
        return error(self.text)


Incoming = Message | Notice | ServerError


def parse_incoming(line: str) -> Incoming:
    """Parse a line from the server.

    No client can forge a notice or an error: no username begins with `*`, and none contains a `:`
    or white space. A line of any other form, which our server never sends, counts as a notice; so
    does one whose sender has more than SENDER_LIMIT characters.
    """
    if line.startswith(_ERROR):
        return ServerError(line.removeprefix(_ERROR))
    sender, colon, text = line.partition(": ")
    if line.startswith(_NOTICE) or not colon or len(sender) > SENDER_LIMIT:
        return Notice(line.removeprefix(_NOTICE))
    return Message(sender, text)


def is_close_reason(incoming: Incoming) -> bool:
    """Return whether this is the server's last line, which says why it closes the connection."""
    if isinstance(incoming, Notice):
        return incoming.text == SHUTTING_DOWN
    return isinstance(incoming, ServerError) and incoming.text.startswith((TOO_SLOW, TIMED_OUT))
