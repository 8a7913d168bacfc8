"""What the server sends and a client receives, as lines and as values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from .handshake import SHUTTING_DOWN
from .names import SENDER_LIMIT

TOO_SLOW = "too slow: did not read what it was sent in time"

TIMED_OUT = "timed out: nothing heard for"

_ERROR, _NOTICE = "ERROR ", "* "

_TAKEN = re.compile(r"\* \S+ is taken: you are (\S+)")


def notice(text: str) -> str:
    """Return what the server says of itself, as a line."""
    return _NOTICE + text


def error(text: str) -> str:
    """Return what concerns one client alone, as a line."""
    return _ERROR + text


def line_too_long(limit: int) -> str:
    """Return the answer to a line of more than `limit` bytes."""
    return error(f"line too long (at most {limit} bytes)")


def renamed_notice(asked: str, given: str) -> str:
    """Return the notice that tells a client its name was taken and which one it got."""
    return notice(f"{asked} is taken: you are {given}")


def parse_renamed(line: str) -> str | None:
    """Return the name that a line made by `taken` gives, None for any other line."""
    match = _TAKEN.fullmatch(line)
    return match[1] if match else None


@dataclass(frozen=True, slots=True)
class Message:
    """What another client said."""

    sender: str
    text: str

    def __str__(self) -> str:
        return f"{self.sender}: {self.text}"


@dataclass(frozen=True, slots=True)
class Notice:
    """What the server says of itself: who joined, who left, the answer to a command."""

    text: str
    sender: ClassVar[None] = None

    def __str__(self) -> str:
        return notice(self.text)


@dataclass(frozen=True, slots=True)
class ServerError:
    """What the server says went wrong with this one client."""

    text: str
    sender: ClassVar[None] = None

    def __str__(self) -> str:
        return error(self.text)


Incoming = Message | Notice | ServerError


def parse_incoming(line: str) -> Incoming:
    """Tell what a line from the server is. No client can forge a notice or an error: no username begins with `*` or has a `:` or white
    space in it. A line of neither form, which our server never sends, counts as a notice; so does
    one with a sender of more than SENDER_LIMIT characters, who is nobody our server lets in."""
    if line.startswith(_ERROR):
        return ServerError(line.removeprefix(_ERROR))
    sender, colon, text = line.partition(": ")
    if line.startswith(_NOTICE) or not colon or len(sender) > SENDER_LIMIT:
        return Notice(line.removeprefix(_NOTICE))
    return Message(sender, text)


def is_close_reason(incoming: Incoming) -> bool:
    """Whether these are a server's last words: why it ends the connection."""
    if isinstance(incoming, Notice):
        return incoming.text == SHUTTING_DOWN
    return isinstance(incoming, ServerError) and incoming.text.startswith((TOO_SLOW, TIMED_OUT))
