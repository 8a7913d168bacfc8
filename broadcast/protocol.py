"""The wire format as pure functions and values: no socket, no event loop, no clock.

A line protocol that a person can speak with `nc`; the README describes it for those who write a client. The server and the
client of this package both speak it through this module alone.

What travels here is bytes as long as it can: a chunk of several hundred plain lines is checked, trimmed and prefixed with a
handful of whole-chunk calls, 0.15 us a line, where a loop over its lines takes three times as long.
Only commands are taken one by one.
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

SENDER_LIMIT = NAME_LIMIT + len("-1000000000")
"""The most characters in a username as given: the limit on what is asked for, and a number."""

REPLACEMENT_GROWTH = 3
"""A byte that is no UTF-8 leaves as U+FFFD, which is three: a line can leave that many times longer than it came."""

BLOCK_LIMIT = 64_000
"""Bytes in a block of messages as sent, but for a single longer message: a little under what TCP hands on in one piece (65,483 over loopback,
65,160 over Ethernet). A little over it cost the server 20 % more a delivery."""

HANDSHAKE_LIMIT = 1_024
"""Bytes that a client may send until the end of its CONNECT, blank lines included; a name has 128
at most, which leaves a token plenty."""

BLOCK_TOLERANCE = 1_000
"""Bytes by which a block may exceed BLOCK_LIMIT, so that a chunk can be cut into equal blocks."""

BLOCK_LINES = 8_000
"""Lines parsed at once for a block, blank ones included: 1 ms at most, whatever is in them."""

SHOWN_COMMAND_LIMIT = 64
"""Characters of an unknown command that are repeated to who typed it."""

REPLACEMENT = "\ufffd"
_TAB, _LF, _CR, _DELETE = 0x09, 0x0A, 0x0D, 0x7F
_ASCII_CONTROLS = [*(code for code in range(0x20) if code != _TAB), _DELETE]
_OTHER_CONTROLS = range(0x80, 0xA0)
_LINE_SEPARATORS = [0x2028, 0x2029]  # str.splitlines and many programs end a line there
_BIDIRECTIONAL = [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_UNSAFE: dict[bytes, list[str]] = {}  # by what their UTF-8 forms begin with
for _code in (*_OTHER_CONTROLS, *_LINE_SEPARATORS, *_BIDIRECTIONAL):
    _UNSAFE.setdefault(chr(_code).encode()[:-1], []).append(chr(_code))
# 0xff is never part of a UTF-8 sequence: it is decoded to U+FFFD and leaves its neighbours alone.
_MASK_CONTROLS = bytes.maketrans(bytes(_ASCII_CONTROLS), b"\xff" * len(_ASCII_CONTROLS))
_MASK_CONTROLS_BUT_LF = _MASK_CONTROLS[:_LF] + b"\n" + _MASK_CONTROLS[_LF + 1 :]
_CONTROLS_IN_LINES = bytes(code for code in _ASCII_CONTROLS if code not in (_LF, _CR))
_SHORT_CHUNK = 4096  # bytes; measured, see _is_plain
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # printable, says Unicode, and nothing is to be seen
_UNSEEN = dict.fromkeys([0x34F, 0x17B4, 0x17B5, *range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)])

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
            run = b"".join((self._partial, data[:end])) if self._partial else data[:end]
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
    def held(self) -> int:
        """Bytes of memory that the line that has begun takes up: a bytearray keeps some to spare."""
        return len(self._partial) * 9 // 8

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
        start = end = 0  # the stretch of lines within the limit that has not been appended yet
        while end < len(run):
            fitting = run.rfind(b"\n", end, end + self._limit + 1) + 1
            if fitting:  # a stretch this short has no room for a line that is too long
                end = fitting
                continue
            line_end = run.index(b"\n", end) + 1
            if self._is_too_long(run[end : line_end - 1]):
                if start < end:
                    items.append(run[start:end])
                items.append(TooLong.LINE)
                start = line_end
            end = line_end
        if start < end:
            items.append(run[start:end])
        return items


def clean(line: bytes) -> str:
    """Return a line as text that cannot drive a terminal, without trailing white space.

    Each of these becomes U+FFFD: bytes that are not UTF-8 (by maximal subparts, as Unicode
    recommends and `bytes.decode` does), control characters other than TAB, line and paragraph
    separators, and bidirectional controls.
    """
    return _decode(line.translate(_MASK_CONTROLS)).rstrip()


def _decode(data: bytes) -> str:
    text = data.decode("utf-8", "replace")
    if data.isascii():
        return text
    for first_bytes, characters in _UNSAFE.items():
        if first_bytes in data:
            # str.translate looks every character of the text up, which takes ten times as long.
            for character in characters:
                text = text.replace(character, REPLACEMENT)
    return text


class Block(NamedTuple):
    """Messages ready to be sent, each behind its sender's name and with its ending, and how many there are."""

    data: bytes
    lines: int


def parse(run: bytes, prefix: bytes) -> tuple[int, Iterator[Block | str]]:
    """Take whole lines from one client; return how many there are, and what they ask for, in order.

    A `Block` holds messages, each behind `prefix`; a `str` is a command line. Unless there is only
    one block, each item is made when it is asked for, in bounded time, and nothing but `run` is
    kept in between. A block exceeds BLOCK_LIMIT by BLOCK_TOLERANCE at most, unless it is a single
    longer message.
    """
    lines = run.count(b"\n")
    if b"\\" in run:
        return lines, _blocks_and_commands(run, prefix)
    return lines, iter(_blocks(run, 0, len(run), lines, prefix))


def _blocks_and_commands(run: bytes, prefix: bytes) -> Iterator[Block | str]:
    start = 0
    while start < len(run):
        if run.startswith(b"\\", start):
            end = run.index(b"\n", start) + 1
            yield clean(run[start : end - 1].removesuffix(b"\r"))
        else:
            end = run.find(b"\n\\", start) + 1 or len(run)
            yield from _blocks(run, start, end, run.count(b"\n", start, end), prefix)
        start = end


def _blocks(run: bytes, start: int, end: int, lines: int, prefix: bytes) -> Iterable[Block]:
    """Return the messages from `start` to `end`, which are so many lines, as blocks."""
    sent = end - start + lines * (len(prefix) + len(ENDING))
    if lines > BLOCK_LINES or sent > BLOCK_LIMIT:
        blocks = max(-(-lines // BLOCK_LINES), -(-sent // BLOCK_LIMIT))
        return _several_blocks(run, start, end, -(-(end - start) // blocks), prefix)
    block = _block(run[start:end], lines, prefix)  # the usual case, without the cost of a generator
    if block and _is_too_large(block):
        return _several_blocks(run, start, end, -(-(end - start) // REPLACEMENT_GROWTH), prefix)
    return (block,) if block else ()


def _several_blocks(run: bytes, start: int, end: int, step: int, prefix: bytes) -> Iterator[Block]:
    """Make a block of about each `step` bytes, so that they are few and equal in size."""
    while start < end:
        stop, lines = _find_block_end(run, start, min(start + step, end), len(prefix + ENDING))
        block = _block(run[start:stop], lines, prefix)
        if block and _is_too_large(block):  # replacements made it grow: a third is certain to fit
            third = run.rfind(b"\n", start, start + (stop - start) // REPLACEMENT_GROWTH)
            stop = (third if third >= 0 else run.index(b"\n", start)) + 1
            block = _block(run[start:stop], run.count(b"\n", start, stop), prefix)
            step = -(-step // REPLACEMENT_GROWTH)
        if block:
            yield block
        start = stop


def _is_too_large(block: Block) -> bool:
    return block.lines > 1 and len(block.data) > BLOCK_LIMIT + BLOCK_TOLERANCE


def _find_block_end(run: bytes, start: int, target: int, growth: int) -> tuple[int, int]:
    """Return where a block from `start` to about `target` can end, and its number of lines."""
    stop = run.index(b"\n", target - 1) + 1
    while True:
        lines = run.count(b"\n", start, stop)
        size = stop - start
        sent = size + lines * growth
        if lines == 1 or (lines <= BLOCK_LINES and sent <= BLOCK_LIMIT + BLOCK_TOLERANCE):
            return stop, lines
        # At least a sixteenth less each time, however unevenly the lines are distributed.
        fitting = min(size * BLOCK_LIMIT // sent, size * BLOCK_LINES // lines, size * 15 // 16)
        stop = run.rfind(b"\n", start, start + fitting) + 1 or run.index(b"\n", start) + 1


def _block(chunk: bytes, lines: int, prefix: bytes) -> Block | None:
    """Return the messages of a chunk of whole lines as a block, None if all of them are blank."""
    if _is_plain(chunk):
        if chunk.isspace() and chunk.count(b"\r") == chunk.count(ENDING):
            return None  # known without a look at each line: a flood of blank lines costs little
        if b"\r" not in chunk:
            whole = chunk.split(b"\n")
            whole.pop()  # what follows the last LF: nothing
        else:
            whole = chunk.splitlines()  # replacing CR LF first would take three times as long
        if len(whole) == lines:  # otherwise there is a CR that does not belong to an ending
            texts = list(filter(None, map(bytes.rstrip, whole)))
            texts[0] = prefix + texts[0]  # after the join it would copy the whole block once more
            texts[-1] += ENDING
            return Block((ENDING + prefix).join(texts), len(texts))
    text = _decode(chunk.replace(ENDING, b"\n").translate(_MASK_CONTROLS_BUT_LF))
    if text.isspace():
        return None
    messages = list(filter(None, map(str.rstrip, text.split("\n"))))
    start, ending = prefix.decode(), ENDING.decode()
    messages[0] = start + messages[0]
    messages[-1] += ending
    return Block((ending + start).join(messages).encode(), len(messages))


def _is_plain(chunk: bytes) -> bool:
    """Return whether a chunk is ASCII without controls, except for TAB, LF and CR."""
    if not chunk.isascii():
        return False
    if len(chunk) < _SHORT_CHUNK:
        return len(chunk.translate(None, _CONTROLS_IN_LINES)) == len(chunk)
    # One search for each takes half as long as one pass through a table.
    return not any(map(chunk.__contains__, _CONTROLS_IN_LINES))


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
    space in it. A line of neither form, which our server never sends, counts as a notice; so does
    one with a sender of more than SENDER_LIMIT characters, who is nobody our server lets in."""
    if line.startswith(_ERROR):
        return ServerError(line.removeprefix(_ERROR))
    sender, colon, text = line.partition(": ")
    if line.startswith(_NOTICE) or not colon or len(sender) > SENDER_LIMIT:
        return Notice(line.removeprefix(_NOTICE))
    return Message(sender, text)


def is_farewell(incoming: Incoming) -> bool:
    """Whether these are a server's last words: why it ends the connection."""
    if isinstance(incoming, Notice):
        return incoming.text == SHUTTING_DOWN
    return isinstance(incoming, ServerError) and incoming.text.startswith((TOO_SLOW, TIMED_OUT))
