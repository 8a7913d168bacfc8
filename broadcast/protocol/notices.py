"""Build the texts of the server's notices, and parse them into events."""

import datetime
import enum
import re

from .handshake import SHUTTING_DOWN


class Event(enum.StrEnum):
    """What a line from the server is about."""

    MESSAGE = "message"
    JOINED = "joined"
    LEFT = "left"
    RENAMED = "renamed"
    """The name that this client asked for was in use, so it was given another one."""
    HISTORY = "history"
    """A message that was said before this client joined."""
    CLIENTS = "clients"
    """A line of the answer to `\\clients`: the count, or one name."""
    HELP = "help"
    """A line of the answer to `\\help`."""
    SHUTDOWN = "shutdown"
    ERROR = "error"
    PONG = "pong"
    NOTICE = "notice"
    """None of these."""


PRESENCE = (Event.JOINED, Event.LEFT)
"""What a client hides when it is told to show no notices of who joins and leaves."""

ANSWERS = (Event.CLIENTS, Event.HELP, Event.PONG)
"""What only answers a command of the client's own."""


_TIME = r"(?:\d{4}-\d\d-\d\d )?\d\d:\d\d"

_SHAPES = [
    # A name contains no white space and no colon, and only the server makes notices, so each text
    # has one meaning.
    (Event.JOINED, re.compile(r"(?P<name>\S+) joined")),
    (Event.LEFT, re.compile(r"(?P<name>\S+) left(?: \((?P<reason>.+)\))?")),
    (Event.RENAMED, re.compile(r"\S+ is taken: you are (?P<name>\S+)")),
    (Event.HISTORY, re.compile(rf"\[(?P<time>{_TIME})\] (?P<name>[^\s:]+): (?P<said>.*)")),
    (Event.SHUTDOWN, re.compile(re.escape(SHUTTING_DOWN))),
    (Event.HELP, re.compile(r"\\\w+: .*")),
    (Event.CLIENTS, re.compile(r"\d+ clients?|(?P<name>[^\s\\]\S*)(?: \(you\))?")),
]


AWAY = "lost touch with the other servers: messages wait until they are back"

BACK = "back in touch with the other servers"


def joined(name: str) -> str:
    """Return the notice that a client has joined."""
    return f"{name} joined"


def left(name: str, reason: str) -> str:
    """Return the notice that a client has left; the reason is empty if it wanted to."""
    return f"{name} left ({reason})" if reason else f"{name} left"


def renamed(asked: str, given: str) -> str:
    """Return the notice that tells a client its name was in use and which one it got."""
    return f"{asked} is taken: you are {given}"


def history(said_at: datetime.datetime, today: datetime.date, line: str) -> str:
    """Return the notice that repeats a message, `name: text`, for a client that came later."""
    shape = "%H:%M" if said_at.date() == today else "%Y-%m-%d %H:%M"
    return f"[{said_at.strftime(shape)}] {line}"


def client_count(count: int) -> str:
    """Return a number of clients in words: the first line of the answer to `\\clients`."""
    return "1 client" if count == 1 else f"{count} clients"


def parse_notice(text: str) -> dict[str, str | None]:
    """Return what the text of a notice says, as attributes; none if it has no known shape."""
    for event, shape in _SHAPES:
        if match := shape.fullmatch(text):
            return {"event": event, **match.groupdict()}
    return {}
