"""The wire format as pure functions and values: no socket, no event loop, no clock.

A line protocol that a person can speak with `nc`; the README describes it for those who write a client. The server and the
client of this package both speak it through this module alone.

What travels here is bytes as long as it can: a chunk of several hundred plain lines is checked, trimmed and prefixed with a
handful of whole-chunk calls, 0.15 us a line, where a loop over its lines takes three times as long. Only a chunk that has
something special in it (a backslash, a control character, anything but ASCII) is taken line by line.
"""

from __future__ import annotations

import enum
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

ENDING = b"\r\n"
"""What the server ends each line with; telnet and the textbooks expect it."""

LINE_LIMIT = 65_536
"""Bytes in a line as received, its ending not counted: far above what a person types, small enough that ten thousand clients in
the middle of a line are no danger."""

NAME_LIMIT = 32
"""Characters in a username as asked for; a number that tells it from another's comes on top."""

NAME_BYTES = 4 * NAME_LIMIT + len("-1000000000: ")
"""The most bytes that a name, its number and the colon take up in front of a text."""

REPLACEMENT_GROWTH = 3
"""A byte that is no UTF-8 leaves as U+FFFD, which is three: a line can leave that many times longer than it came."""

BLOCK_LIMIT = 64_000
"""Bytes in a block of messages as sent, but for a single longer message: a little under what TCP hands on in one piece (65,483 over loopback,
65,160 over Ethernet). A little over it cost the server 20 % more a delivery."""

HANDSHAKE_LIMIT = 1_024
"""Bytes that a client may send until the end of its CONNECT, blank lines included; a name has 128
at most, which leaves a token plenty."""

SHOWN_COMMAND_LIMIT = 64
"""Characters of an unknown command that are repeated to who typed it."""

REPLACEMENT = "\ufffd"
_TAB, _LF, _BACKSLASH, _DELETE = 0x09, 0x0A, 0x5C, 0x7F
_CONTROLS = [*(code for code in range(0x20) if code != _TAB), *range(_DELETE, 0xA0)]
_BIDIRECTIONAL = [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_CLEANED = {code: REPLACEMENT for code in _CONTROLS + _BIDIRECTIONAL}
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # printable, says Unicode, and nothing is to be seen
_UNSEEN = dict.fromkeys([0x34F, 0x17B4, 0x17B5, *range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)])
_SPECIAL_ASCII = bytes([*(code for code in _CONTROLS if code < 0x80 and code != _LF), _BACKSLASH])

HEARTBEATS = frozenset((b"\\ping\n", b"\\ping\r\n", b"\\\\ping\n", b"\\\\ping\r\n"))
"""The lines that ten thousand quiet clients send: they ask for nothing and are answered with nothing."""

SUCCESS = "SUCCESS"
EXPECTED_CONNECT = "expected CONNECT <username>"
HANDSHAKE_TIMED_OUT = "handshake timed out"
TOO_SLOW = "too slow: did not read what it was sent in time"
TIMED_OUT = "timed out: nothing heard for"
SHUTTING_DOWN = "server is shutting down"
FULL = "server is full"
NOT_AUTHORISED = "not authorised"
NO_TLS_HERE = "this server does not use TLS: connect without it"
TLS_FIRST_BYTE = b"\x16"
"""What a TLS client begins with, and then waits for an answer: no line of this protocol does."""

PASSING_REFUSALS = (SHUTTING_DOWN, HANDSHAKE_TIMED_OUT, FULL)
"""Refusals that say nothing against who is refused: another try may well succeed."""

_ERROR, _NOTICE = "ERROR ", "* "
_TAKEN = re.compile(r"\* \S+ is taken: you are (\S+)")


class BroadcastError(Exception):
    """The base of everything this package raises on purpose; its text is one line, meant for people."""


class HandshakeError(BroadcastError):
    """A first line that lets nobody in; the text is what follows `ERROR ` in the answer."""


class UsernameError(HandshakeError, ValueError):
    """A username that cannot be used; the text says what is wrong with it."""

    def __init__(self, why: str) -> None:
        super().__init__(f"bad username: {why}")


class TooLong(enum.Enum):
    """Stands in the input for one line that was too long and has been skipped."""

    LINE = enum.auto()


# --- lines in ---


class LineCutter:
    """Cuts a stream of bytes into runs of whole lines, in bounded memory.

    `limit` is the most bytes a line may have, without its ending. What is held back is never more than that and one read.
    """

    __slots__ = ("_limit", "_partial", "_skipping")

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._partial = bytearray()  # the line that has begun; at most limit + 1 bytes between two calls
        self._skipping = False  # from when a line is certain to be too long until its LF

    def feed(self, data: bytes) -> list[bytes | TooLong]:
        """Take what was read; return what is whole by now: runs of lines, each ended by LF, and the places of lines too long."""
        if self._skipping:
            _, ending, data = data.partition(b"\n")
            if not ending:
                return []
            self._skipping = False
        end = data.rfind(b"\n") + 1
        items: list[bytes | TooLong] = []
        if end:
            run = bytes(self._partial) + data[:end] if self._partial else data[:end]
            self._partial.clear()
            items = self._whole(run)
        self._partial += data[end:]
        if self._is_too_long(self._partial):
            self._partial.clear()
            self._skipping = True
            items.append(TooLong.LINE)
        return items

    @property
    def is_between_lines(self) -> bool:
        """Whether what comes next begins a line."""
        return not self._partial and not self._skipping

    @property
    def partial_size(self) -> int:
        """Bytes of the line that has begun."""
        return len(self._partial)

    def finish(self) -> list[bytes | TooLong]:
        """Return the last line, had it no ending when the stream ended."""
        run = bytes(self._partial) + b"\n"
        self._partial.clear()
        return [run] if len(run) > 1 else []

    def _is_too_long(self, line: bytes | bytearray) -> bool:
        # One byte more may be the CR of an ending.
        return len(line) - line.endswith(b"\r") > self._limit

    def _whole(self, run: bytes) -> list[bytes | TooLong]:
        first = run.find(b"\n")
        if first <= self._limit and len(run) - first - 2 <= self._limit:
            return [run]  # neither the first line nor all others together are over the limit
        items: list[bytes | TooLong] = []
        fitting: list[bytes] = []
        for line in run.split(b"\n")[:-1]:
            if self._is_too_long(line):
                if fitting:
                    items.append(b"\n".join(fitting) + b"\n")
                    fitting = []
                items.append(TooLong.LINE)
            else:
                fitting.append(line)
        if fitting:
            items.append(b"\n".join(fitting) + b"\n")
        return items


def clean(line: bytes) -> str:
    """Return a line as text that cannot drive a terminal, without trailing white space.

    Bytes that are not UTF-8 (by maximal subparts, as Unicode recommends and `bytes.decode` does), control characters other than TAB and
    the bidirectional controls each become U+FFFD.
    """
    return line.decode("utf-8", "replace").translate(_CLEANED).rstrip()


class Block(NamedTuple):
    """Messages ready to be sent, each behind its sender's name and with its ending, and how many there are."""

    data: bytes
    lines: int


def parse(run: bytes, prefix: bytes) -> tuple[int, Iterator[Block | str]]:
    """Take a run of whole lines from one client; return how many there are, and what they ask for, in order.

    A `Block` is of messages, each behind `prefix`; a `str` is a command line. Blocks keep
    to BLOCK_LIMIT and are made as they are asked for, so that whoever takes them can stop in between.
    """
    if b"\r" in run:  # a search for two bytes costs fifty times as much as for one
        run = run.replace(ENDING, b"\n")
    lines = run.split(b"\n")
    lines.pop()  # what follows the last LF: nothing
    if run.isascii() and len(run.translate(None, _SPECIAL_ASCII)) == len(run):
        return len(lines), _plain_blocks(list(filter(None, map(bytes.rstrip, lines))), prefix, len(run))
    return len(lines), _blocks_and_commands(lines, prefix)


def _plain_blocks(lines: list[bytes], prefix: bytes, size: int) -> Iterator[Block]:
    blocks = -(-(size + len(lines) * len(prefix + ENDING)) // BLOCK_LIMIT)
    step = max(1, -(-len(lines) // blocks))
    for start in range(0, len(lines), step):
        yield _block(lines[start : start + step], prefix)


def _blocks_and_commands(lines: Iterable[bytes], prefix: bytes) -> Iterator[Block | str]:
    texts: list[bytes] = []
    size = 0
    for line in filter(None, lines):
        text = clean(line)
        if text.startswith("\\"):
            if texts:
                yield _block(texts, prefix)
                texts, size = [], 0
            yield text
        elif text:
            texts.append(text.encode())
            size += len(prefix) + len(texts[-1]) + len(ENDING)
            if size >= BLOCK_LIMIT:
                yield _block(texts, prefix)
                texts, size = [], 0
    if texts:
        yield _block(texts, prefix)


def _block(texts: list[bytes], prefix: bytes) -> Block:
    texts[0] = prefix + texts[0]  # before and after the join it would copy the whole block twice more
    texts[-1] += ENDING
    return Block((ENDING + prefix).join(texts), len(texts))


# --- the handshake ---


@dataclass(frozen=True, slots=True)
class Connect:
    """What the first line of a client asks for."""

    username: str
    token: str | None = None

    def encode(self) -> bytes:
        """Return it as the line that a client sends."""
        words = ["CONNECT", self.username] + ([self.token] if self.token is not None else [])
        return encode(" ".join(words))


def parse_connect(text: str) -> Connect:
    """Read a client's first line, cleaned; raise HandshakeError where it is anything but `CONNECT [username [token]]`."""
    keyword, _, rest = text.partition(" ")
    words = list(filter(None, rest.split(" ")))
    if keyword != "CONNECT" or len(words) > 2:
        raise HandshakeError(EXPECTED_CONNECT)
    username, token = (*words, None, None)[:2]
    return Connect(check_username("anonymous" if username is None else username), token)


def check_username(name: str) -> str:
    """Return `name` if it can be a username; raise UsernameError if it, or its NFKC form, cannot.

    The rules keep a line of the server's own, which begins with `*` or `ERROR `, and another's message from being forged.
    """
    if name.isascii() and name.isalnum() and len(name) <= NAME_LIMIT:
        return name  # no rule applies
    _check_form(name)
    # NFKC takes quadratic time for combining marks: at this point the name is known to be short.
    _check_form(unicodedata.normalize("NFKC", name))
    return name


def _check_form(form: str) -> None:
    if not form:
        raise UsernameError("it is empty")
    if len(form) > NAME_LIMIT:
        raise UsernameError(f"longer than {NAME_LIMIT} characters")
    if any(map(str.isspace, form)):
        raise UsernameError("it has white space in it")
    if not form.isprintable() or REPLACEMENT in form or not _BLANK.isdisjoint(form):
        raise UsernameError("it has characters in it that can't be shown")
    visible = form.translate(_UNSEEN)
    if all(unicodedata.category(character).startswith("M") for character in visible):
        raise UsernameError("it has nothing in it but combining marks")
    if ":" in form:
        raise UsernameError("it has a colon in it")
    if form[0] in "*\\":
        raise UsernameError(f"it begins with {form[0]}")


def fold(name: str) -> str:
    """Return what all spellings of one name have in common: names are unique by this.

    Characters that are never seen, such as variation selectors, make no difference. Only for text
    as short as a name: NFKC takes quadratic time for combining marks.
    """
    if name.isascii():
        return name.lower()
    visible = unicodedata.normalize("NFKC", name.translate(_UNSEEN))
    return unicodedata.normalize("NFKC", visible.casefold())


# --- lines out ---


def encode(*lines: str) -> bytes:
    """Return lines of the server's own, or of a client's, as they are sent."""
    return b"".join(line.encode() + ENDING for line in lines)


def notice(text: str) -> str:
    """Return what the server says of itself, as a line."""
    return _NOTICE + text


def error(text: str) -> str:
    """Return what concerns one client alone, as a line."""
    return _ERROR + text


def line_too_long(limit: int) -> str:
    """Return the answer to a line of more than `limit` bytes."""
    return error(f"line too long (at most {limit} bytes)")


def taken(asked: str, given: str) -> str:
    """Return the notice that tells a client its name was taken and which one it got."""
    return notice(f"{asked} is taken: you are {given}")


def name_given(line: str) -> str | None:
    """Return the name that a line made by `taken` gives, None for any other line."""
    match = _TAKEN.fullmatch(line)
    return match[1] if match else None


# --- what a client receives ---


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
    space in it. A line of neither form, which our server never sends, counts as a notice."""
    if line.startswith(_ERROR):
        return ServerError(line.removeprefix(_ERROR))
    sender, colon, text = line.partition(": ")
    if line.startswith(_NOTICE) or not colon:
        return Notice(line.removeprefix(_NOTICE))
    return Message(sender, text)


def is_farewell(incoming: Incoming) -> bool:
    """Whether these are a server's last words: why it ends the connection."""
    if isinstance(incoming, Notice):
        return incoming.text == SHUTTING_DOWN
    return isinstance(incoming, ServerError) and incoming.text.startswith((TOO_SLOW, TIMED_OUT))
