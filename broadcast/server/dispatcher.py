"""Compute the answers to commands."""

from collections.abc import Iterable, Iterator

from ..protocol.commands import COMMANDS, Command, command_word, first_word, largest_room, ping_word
from ..protocol.framing import ENDING, encode
from ..protocol.messages import error, notice, pong
from ..protocol.notices import client_count
from .registry import Roster


def answer(line: str, name: str, roster: Roster) -> Iterable[bytes]:
    """Execute a command line of the client called `name`, unless it is `\\exit`.

    Returns the answer: encoded lines in pieces, each to be made when the one before has been sent.
    The case of the command does not matter, and a doubled backslash is the same as one.
    """
    match command_word(line):
        case Command.CLIENTS if len(roster) > largest_room(line):
            return (encode(notice(client_count(len(roster)))),)
        case Command.CLIENTS:
            return _list_clients(name, roster)
        case Command.PING:
            word = ping_word(line)
            return () if word is None else (encode(pong(word)),)
        case Command.HELP:
            lines = [notice(f"{command.line()}: {text}") for command, text in COMMANDS.items()]
            return (encode(*lines),)
    hint = "try \\help, or begin the line with a space to send it as text"
    return (encode(error(f"unknown command {first_word(line)}: {hint}")),)


def _list_clients(name: str, roster: Roster) -> Iterator[bytes]:
    count = len(roster)
    before = encode(notice(client_count(count)))
    # A name is unique and contains no line ending, so its line occurs once.
    line, marked = ENDING + encode(notice(name)), ENDING + encode(notice(f"{name} (you)"))
    for page in roster.pages():
        # Prepend a line ending, so that a match always begins a line.
        yield before + (ENDING + page).replace(line, marked, 1)[len(ENDING) :]
        before = b""
