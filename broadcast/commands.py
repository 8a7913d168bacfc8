r"""\exit \clients \ping \help: a table of commands. Takes values, returns an answer, touches nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .protocol import SHOWN_COMMAND_LIMIT, error, notice


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command comes to: lines for who gave it, and whether it leaves."""

    lines: tuple[str, ...] = ()
    leave: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    r"""A row of the table: what `\help` says, and what answers, given who asks and the roster (folded name -> name)."""

    help: str
    answer: Callable[[str, Mapping[str, str]], Answer]


def is_exit(line: str) -> bool:
    """Whether a line is the command to leave."""
    return line.startswith("\\") and _word(line) == "exit"


def is_help(line: str) -> bool:
    """Whether a line is the command that lists the commands."""
    return line.startswith("\\") and _word(line) == "help"


def answer(line: str, name: str, roster: Mapping[str, str]) -> Answer:
    """Carry out a line that begins with a backslash, given by the client called `name`. Only its first word counts, in any case; one doubled
    backslash is the same as a single one."""
    command = COMMANDS.get(_word(line))
    if command:
        return command.answer(name, roster)
    typed = line.split(maxsplit=1)[0][:SHOWN_COMMAND_LIMIT]
    return Answer((error(f"unknown command {typed}: try \\help, or begin the line with a space to send it as text"),))


def _word(line: str) -> str:
    return line.split(maxsplit=1)[0].removeprefix("\\").removeprefix("\\").lower()


def _exit(name: str, roster: Mapping[str, str]) -> Answer:
    return Answer(leave=True)


def _clients(name: str, roster: Mapping[str, str]) -> Answer:
    count = len(roster)
    names = (roster[folded] for folded in sorted(roster))
    return Answer(
        (
            notice(f"{count} client" if count == 1 else f"{count} clients"),
            *(notice(f"{other} (you)" if other == name else other) for other in names),
        )
    )


def _ping(name: str, roster: Mapping[str, str]) -> Answer:
    return Answer()


def _help(name: str, roster: Mapping[str, str]) -> Answer:
    return Answer(tuple(notice(f"\\{word}: {command.help}") for word, command in COMMANDS.items()))


COMMANDS = {
    "exit": Command("leave", _exit),
    "clients": Command("who is here", _clients),
    "ping": Command("a sign of life; nothing is answered", _ping),
    "help": Command("this list", _help),
}
