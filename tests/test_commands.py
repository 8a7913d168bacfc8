"""The table of commands, as values, without a server."""

from __future__ import annotations

import pytest

from broadcast.commands import COMMANDS, Answer, answer, is_exit

ROSTER = {"bob": "bob", "anna": "Anna", "attila": "Attila"}


@pytest.mark.parametrize("line", ["\\exit", "\\\\exit", "\\EXIT", "\\Exit now please", "\\exit\tx"])
def test_exit_leaves(line: str) -> None:
    assert answer(line, "bob", ROSTER) == Answer(leave=True)
    assert is_exit(line)


@pytest.mark.parametrize("line", ["\\exits", "\\\\\\exit", "\\", "\\ exit", "exit", " \\exit"])
def test_other_lines_do_not_leave(line: str) -> None:
    assert not is_exit(line)


def test_ping_is_silent() -> None:
    assert answer("\\ping", "bob", ROSTER) == answer("\\\\PING x", "bob", ROSTER) == Answer()


def test_clients_are_listed_by_folded_name() -> None:
    assert answer("\\clients", "Attila", ROSTER).lines == ("* 3 clients", "* Anna", "* Attila (you)", "* bob")
    assert answer("\\clients", "a", {"a": "a"}).lines == ("* 1 client", "* a (you)")


def test_help_has_a_notice_a_command() -> None:
    lines = answer("\\help", "bob", ROSTER).lines
    assert len(lines) == len(COMMANDS)
    assert all(line.startswith(f"* \\{word}") for line, word in zip(lines, COMMANDS, strict=True))


@pytest.mark.parametrize(
    ("line", "shown"),
    [("\\foo", "\\foo"), ("\\\\Foo bar", "\\\\Foo"), ("\\", "\\"), ("\\ exit", "\\"), ("\\" + "x" * 100, "\\" + "x" * 63)],
)
def test_an_unknown_command_is_shown_as_typed_and_cut(line: str, shown: str) -> None:
    hint = "try \\help, or begin the line with a space to send it as text"
    assert answer(line, "bob", ROSTER).lines == (f"ERROR unknown command {shown}: {hint}",)
