"""Build and parse what the server sends: messages, notices and errors."""

from dataclasses import dataclass
from typing import ClassVar

from .names import SENDER_LIMIT
from .notices import Event, parse_notice

TOO_SLOW = "too slow: did not read what it was sent in time"

TIMED_OUT = "timed out: nothing heard for"

OUT_OF_SYNC = "lost touch with the other servers: messages may be missing, connect again"

_ERROR, _NOTICE, _PONG = "ERROR ", "* ", "PONG "


def notice(text: str) -> str:
    """Return a notice from the server as a line."""
    return _NOTICE + text


def error(text: str) -> str:
    """Return an error that concerns one client as a line."""
    return _ERROR + text


def pong(word: str) -> str:
    r"""Return the answer to `\ping <word>` as a line."""
    return _PONG + word


def line_too_long(limit: int) -> str:
    """Return the error that answers a line of more than `limit` bytes."""
    return error(f"line too long (at most {limit} bytes)")


class _Line:
    """A line from the server; its attributes say what happened, without any English to parse."""

    __slots__ = ()

    event = Event.NOTICE
    """What the line is about."""

    reason: str | None = None
    """Why the client that it is about left."""

    time: str | None = None
    """When a message of the history was said: `13:05`, or `2026-11-22 13:05` on another day."""

    said: str | None = None
    """The text of a message of the history."""


@dataclass(frozen=True, slots=True)
class Message(_Line):
    """A message from another client."""

    sender: str
    text: str
    event = Event.MESSAGE

    @property
    def name(self) -> str:
        """The client that the line is about."""
        return self.sender

    def __str__(self) -> str:
        return f"{self.sender}: {self.text}"


@dataclass(frozen=True)
class _ServerLine(_Line):
    """A line written by the server itself."""

    text: str
    sender: ClassVar[None] = None
    _prefix: ClassVar[str]
    name: ClassVar[str | None] = None
    """The client that the line is about."""

    def __str__(self) -> str:
        return self._prefix + self.text


@dataclass(frozen=True)
class Notice(_ServerLine):
    """A notice from the server: a join, a leave, or the answer to a command."""

    _prefix = _NOTICE

    def __post_init__(self) -> None:
        for attribute, value in parse_notice(self.text).items():
            object.__setattr__(self, attribute, value)  # the class is frozen


class ServerError(_ServerLine):
    """An error from the server that concerns this client alone."""

    _prefix, event = _ERROR, Event.ERROR


class Pong(_ServerLine):
    r"""The server's answer to `\ping <word>`; the text is the word."""

    _prefix, event = _PONG, Event.PONG


Incoming = Message | Notice | ServerError | Pong


def parse_incoming(line: str) -> Incoming:
    """Parse a line from the server.

    No client can forge a notice or an error: no username begins with `*`, and none contains a `:`
    or white space. A line of any other form, which our server never sends, counts as a notice; so
    does one whose sender has more than SENDER_LIMIT characters.
    """
    if line.startswith(_ERROR):
        return ServerError(line.removeprefix(_ERROR))
    if line.startswith(_PONG):
        return Pong(line.removeprefix(_PONG))
    sender, colon, text = line.partition(": ")
    if line.startswith(_NOTICE) or not colon or len(sender) > SENDER_LIMIT:
        return Notice(line.removeprefix(_NOTICE))
    return Message(sender, text)


def is_close_reason(incoming: Incoming) -> bool:
    """Return whether this is the server's last line, which says why it closes the connection."""
    reasons = (TOO_SLOW, TIMED_OUT, OUT_OF_SYNC)
    return incoming.event is Event.SHUTDOWN or (
        incoming.event is Event.ERROR and incoming.text.startswith(reasons)
    )
