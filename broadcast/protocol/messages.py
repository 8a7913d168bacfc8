"""Build and parse what the server sends: messages, notices and errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .handshake import SHUTTING_DOWN
from .names import SENDER_LIMIT
from .notices import Details, Event, parse_notice

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


class _Described:
    """Gives programs what a line is about, without its English."""

    __slots__ = ()

    @property
    def details(self) -> Details:
        """All that the line says."""
        raise NotImplementedError

    @property
    def event(self) -> Event:
        """What the line is about."""
        return self.details.event

    @property
    def name(self) -> str | None:
        """The client that the line is about."""
        return self.details.name

    @property
    def reason(self) -> str | None:
        """Why that client left."""
        return self.details.reason

    @property
    def time(self) -> str | None:
        """When a message of the history was said: `13:05`, or `2026-11-22 13:05`."""
        return self.details.time

    @property
    def said(self) -> str | None:
        """The text of a message of the history."""
        return self.details.said


@dataclass(frozen=True, slots=True)
class Message(_Described):
    """A message from another client."""

    sender: str
    text: str

    @property
    def details(self) -> Details:
        """All that the line says."""
        return Details(Event.MESSAGE, self.sender)

    def __str__(self) -> str:
        return f"{self.sender}: {self.text}"


@dataclass(frozen=True, slots=True)
class Notice(_Described):
    """A notice from the server: a join, a leave, or the answer to a command."""

    text: str
    sender: ClassVar[None] = None

    @property
    def details(self) -> Details:
        """All that the line says."""
        return parse_notice(self.text)

    def __str__(self) -> str:
        return notice(self.text)


@dataclass(frozen=True, slots=True)
class ServerError(_Described):
    """An error from the server that concerns this client alone."""

    text: str
    sender: ClassVar[None] = None

    @property
    def details(self) -> Details:
        """All that the line says."""
        return Details(Event.ERROR)

    def __str__(self) -> str:
        return error(self.text)


@dataclass(frozen=True, slots=True)
class Pong(_Described):
    r"""The server's answer to `\ping <word>`; the text is the word."""

    text: str
    sender: ClassVar[None] = None

    @property
    def details(self) -> Details:
        """All that the line says."""
        return Details(Event.PONG)

    def __str__(self) -> str:
        return pong(self.text)


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
    if isinstance(incoming, Notice):
        return incoming.text == SHUTTING_DOWN
    reasons = (TOO_SLOW, TIMED_OUT, OUT_OF_SYNC)
    return isinstance(incoming, ServerError) and incoming.text.startswith(reasons)
