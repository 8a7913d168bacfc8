"""Compute the answers to commands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ..protocol.commands import COMMANDS, command_word, first_word
from ..protocol.framing import ENDING, encode
from ..protocol.messages import error, notice
from .registry import Roster


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a command: encoded lines for the client, and whether the client leaves.

    The lines come in pieces; each is made when the one before has been sent.
    """

    pieces: Iterable[bytes] = ()
    leave: bool = False


def answer(line: str, name: str, roster: Roster) -> Answer:
    """Execute a command line of the client called `name`, and return the answer.

    Only the first word matters, and its case does not; a doubled backslash is the same as one.
    """
    if execute := _ANSWERS.get(command_word(line)):
        return execute(name, roster)
    typed = first_word(line)
    hint = "try \\help, or begin the line with a space to send it as text"
    return Answer((encode(error(f"unknown command {typed}: {hint}")),))


def _exit(_name: str, _roster: Roster) -> Answer:
    return Answer(leave=True)


def _clients(name: str, roster: Roster) -> Answer:
    return Answer(_list_clients(name, roster))


def _list_clients(name: str, roster: Roster) -> Iterator[bytes]:
    count = len(roster)
    before = encode(notice(f"{count} client" if count == 1 else f"{count} clients"))
    # A name is unique and contains no line ending, so its line occurs once.
    line, marked = ENDING + encode(notice(name)), ENDING + encode(notice(f"{name} (you)"))
    for page in roster.pages():
        # Prepend a line ending, so that a match always begins a line.
        yield before + (ENDING + page).replace(line, marked, 1)[len(ENDING) :]
        before = b""


def _ping(_name: str, _roster: Roster) -> Answer:
    return Answer()


def _help(_name: str, _roster: Roster) -> Answer:
    lines = (notice(f"\\{word}: {text}") for word, text in COMMANDS.items())
    return Answer((encode(*lines),))


_ANSWERS: dict[str, Callable[[str, Roster], Answer]] = {
    "exit": _exit,
    "clients": _clients,
    "ping": _ping,
    "help": _help,
}
