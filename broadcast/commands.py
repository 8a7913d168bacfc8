r"""\exit \clients \ping \help: a table of commands. Takes values, returns an answer, touches nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from .protocol import ENDING, SHOWN_COMMAND_LIMIT, encode, error, notice
from .registry import Roster


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a command: encoded lines for the client that gave it, and whether it leaves.

    The lines are in pieces, of which the next is asked for when the last one has been sent.
    """

    pieces: Iterable[bytes] = ()
    leave: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    r"""A row of the table: what `\help` says, and the function that answers, given the name of the
    client and the roster."""

    help: str
    answer: Callable[[str, Roster], Answer]


def is_exit(line: str) -> bool:
    """Whether a line is the command to leave."""
    return line.startswith("\\") and _word(line) == "exit"


def is_help(line: str) -> bool:
    """Whether a line is the command that lists the commands."""
    return line.startswith("\\") and _word(line) == "help"


def answer(line: str, name: str, roster: Roster) -> Answer:
    """Carry out a line that begins with a backslash, given by the client called `name`. Only its first word counts, in any case; one doubled
    backslash is the same as a single one."""
    command = COMMANDS.get(_word(line))
    if command:
        return command.answer(name, roster)
    typed = _first_word(line)
    hint = "try \\help, or begin the line with a space to send it as text"
    return Answer((encode(error(f"unknown command {typed}: {hint}")),))


def _word(line: str) -> str:
    return _first_word(line).removeprefix("\\").removeprefix("\\").lower()


def _first_word(line: str) -> str:
    # Cut first: to put a word of 64 KB into lower case takes a millisecond, and it is no command.
    return line[:SHOWN_COMMAND_LIMIT].split(maxsplit=1)[0]


def _exit(name: str, roster: Roster) -> Answer:
    return Answer(leave=True)


def _clients(name: str, roster: Roster) -> Answer:
    return Answer(_list_clients(name, roster))


def _list_clients(name: str, roster: Roster) -> Iterator[bytes]:
    count = len(roster)
    before = encode(notice(f"{count} client" if count == 1 else f"{count} clients"))
    # A name has no line end in it, and only one client has it: its line occurs once.
    line, marked = ENDING + encode(notice(name)), ENDING + encode(notice(f"{name} (you)"))
    for page in roster.pages():
        # The line is looked for behind the ending of another.
        yield before + (ENDING + page).replace(line, marked, 1)[len(ENDING) :]
        before = b""


def _ping(name: str, roster: Roster) -> Answer:
    return Answer()


def _help(name: str, roster: Roster) -> Answer:
    lines = (notice(f"\\{word}: {command.help}") for word, command in COMMANDS.items())
    return Answer((encode(*lines),))


COMMANDS = {
    "exit": Command("leave", _exit),
    "clients": Command("who is here", _clients),
    "ping": Command("a sign of life; nothing is answered", _ping),
    "help": Command("this list", _help),
}
