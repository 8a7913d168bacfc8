"""The command words and their help: what both sides know of them."""

from __future__ import annotations

HEARTBEATS = frozenset((b"\\ping\n", b"\\ping\r\n", b"\\\\ping\n", b"\\\\ping\r\n"))
"""The lines that ten thousand quiet clients send: they ask for nothing and are answered with nothing."""

SHOWN_COMMAND_LIMIT = 64
"""Characters of an unknown command that are repeated to who typed it."""

COMMANDS = {
    "exit": "leave",
    "clients": "who is here",
    "ping": "a sign of life; nothing is answered",
    "help": "this list",
}
"""What `\\help` says of each command."""


def is_exit(line: str) -> bool:
    """Whether a line is the command to leave."""
    return line.startswith("\\") and command_word(line) == "exit"


def is_help(line: str) -> bool:
    """Whether a line is the command that lists the commands."""
    return line.startswith("\\") and command_word(line) == "help"


def command_word(line: str) -> str:
    """Return the word of a command, without its backslashes, in lower case."""
    return first_word(line).removeprefix("\\").removeprefix("\\").lower()


def first_word(line: str) -> str:
    """Return a command's first word as it was typed, as far as it is shown."""
    # Cut first: to put a word of 64 KB into lower case takes a millisecond, and it is no command.
    return line[:SHOWN_COMMAND_LIMIT].split(maxsplit=1)[0]
