"""The command words and their help, shared by the server and the client."""

from __future__ import annotations

HEARTBEATS = frozenset((b"\\ping\n", b"\\ping\r\n", b"\\\\ping\n", b"\\\\ping\r\n"))
"""The lines that idle clients send to show that they are alive; they are not answered."""

SHOWN_COMMAND_LIMIT = 64
"""Characters of an unknown command that the error message repeats."""

COMMANDS = {
    "exit": "leave",
    "clients": "who is here",
    "ping": "a sign of life; nothing is answered",
    "help": "this list",
}
"""What `\\help` says about each command."""


def is_exit(line: str) -> bool:
    """Return whether a line is the command to leave."""
    return line.startswith("\\") and command_word(line) == "exit"


def is_help(line: str) -> bool:
    """Return whether a line is the command that lists the commands."""
    return line.startswith("\\") and command_word(line) == "help"


def command_word(line: str) -> str:
    """Return the word of a command, without its backslashes, in lower case."""
    return first_word(line).removeprefix("\\").removeprefix("\\").lower()


def first_word(line: str) -> str:
    """Return a command's first word as typed, up to SHOWN_COMMAND_LIMIT characters of it."""
    # Truncate before splitting: a word of 64 KB is slow to process, and is not a command.
    return line[:SHOWN_COMMAND_LIMIT].split(maxsplit=1)[0]
