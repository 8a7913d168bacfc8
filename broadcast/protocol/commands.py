"""The command words and their help, shared by the server and the client."""

import enum
import re
import sys

HEARTBEAT_INTERVAL = 30.0
"""Seconds between two heartbeats of an idle client, unless it is told otherwise: a tenth of the
server's timeout, and too rare to cost it anything."""

PONG_LIMIT = 64
"""Characters of the word in `\\ping <word>`; a longer one is not answered."""

SHOWN_COMMAND_LIMIT = 64
"""Characters of an unknown command that the error message repeats."""


class Command(enum.StrEnum):
    """What a client can ask of the server; the value is the word after the backslash."""

    EXIT = "exit"
    CLIENTS = "clients"
    PING = "ping"
    HELP = "help"

    def line(self, *arguments: str | int) -> str:
        """Return the command as a line that a client sends."""
        return " ".join([f"\\{self}", *map(str, arguments)])


_PING = Command.PING.encode()

_HEARTBEAT = re.compile(rb"\\{1,2}%b(?: ([!-~]{1,%d}))?\r?\n" % (_PING, PONG_LIMIT))

COMMANDS = {
    Command.EXIT: "leave",
    Command.CLIENTS: "who is here",
    Command.PING: "a sign of life; with a word, it is answered",
    Command.HELP: "this list",
}
"""What `\\help` says about each command."""


def parse_heartbeat(chunk: bytes) -> bytes | None:
    """Return the word in a chunk that is one `\\ping`, empty if it has none.

    Returns None for any other chunk, and for spellings that idle clients do not use.
    """
    match = _HEARTBEAT.fullmatch(chunk)
    return (match[1] or b"") if match else None


def ping_word(line: str) -> str | None:
    """Return the word of a `\\ping <word>`, None if the line is not to be answered."""
    words = line.split(maxsplit=2)
    return words[1] if len(words) == 2 and len(words[1]) <= PONG_LIMIT else None


def is_command(line: str, command: Command) -> bool:
    """Return whether a line is this command, in any spelling."""
    return line.startswith("\\") and command_word(line) == command


def command_word(line: str) -> str:
    """Return the word of a command, without its backslashes, in lower case."""
    return first_word(line).removeprefix("\\").removeprefix("\\").lower()


def first_word(line: str) -> str:
    """Return a command's first word as typed, up to SHOWN_COMMAND_LIMIT characters of it."""
    # Truncate before splitting: a word of 64 KB is slow to process, and is not a command.
    return line[:SHOWN_COMMAND_LIMIT].split(maxsplit=1)[0]


def largest_room(line: str) -> int:
    r"""Return the size above which `\clients` only counts: the `200` of `\clients 200`."""
    words = line[:SHOWN_COMMAND_LIMIT].split()
    return int(words[1]) if words[1:] and words[1].isdecimal() else sys.maxsize
