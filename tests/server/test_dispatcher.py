"""Answers to commands, as values, without a server."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from broadcast.protocol.commands import COMMANDS, Command, is_command
from broadcast.server.dispatcher import answer
from broadcast.server.registry import Registry


def roster(*names: str) -> Registry:
    made = Registry()
    for name in names:
        made.claim(name)
    return made


def lines(pieces: Iterable[bytes]) -> list[str]:
    """Return the lines of an answer, each of which must end in CR LF."""
    *whole, rest = b"".join(pieces).decode().split("\r\n")
    assert not rest
    return whole


ROSTER = roster("bob", "Anna", "Attila")


@pytest.mark.parametrize("line", ["\\exit", "\\\\exit", "\\EXIT", "\\Exit now please", "\\exit\tx"])
def test_exit_leaves_in_every_spelling(line: str) -> None:
    assert is_command(line, Command.EXIT)


def test_long_word_is_not_lower_cased() -> None:
    class Line(str):
        def split(self, *arguments: object, **options: object) -> list[str]:
            raise AssertionError("the whole line is looked at")

    line = Line("\\" + "\u0130" * 30_000)
    assert not is_command(line, Command.EXIT)
    assert lines(answer(line, "bob", ROSTER))[0].startswith("ERROR unknown command")


@pytest.mark.parametrize("line", ["\\ping", "\\ping a b", "\\ping " + "x" * 65])
def test_ping_without_one_word_of_at_most_64_characters_is_not_answered(line: str) -> None:
    assert answer(line, "bob", ROSTER) == ()


@pytest.mark.parametrize("word", ["x", "x" * 64, "\u00e9", "a:", "\\"])
def test_ping_with_a_word_is_answered_with_it(word: str) -> None:
    assert lines(answer(f"\\\\PING  {word}", "bob", ROSTER)) == [f"PONG {word}"]


@pytest.mark.parametrize(
    ("line", "is_listed"),
    [
        ("\\clients 3", True),
        ("\\clients 2", False),
        ("\\\\CLIENTS  0 x", False),
        ("\\clients x", True),
        ("\\clients -1", True),
        ("\\clients" + " " * 64 + "1", True),
    ],
)
def test_names_of_a_room_that_is_larger_than_asked_for_are_not_listed(
    line: str, is_listed: bool
) -> None:
    assert lines(answer(line, "bob", ROSTER))[0] == "* 3 clients"
    assert len(lines(answer(line, "bob", ROSTER))) == (4 if is_listed else 1)


def test_clients_are_listed_in_the_order_of_their_name_keys() -> None:
    attila = answer("\\clients", "Attila", ROSTER)
    assert lines(attila) == ["* 3 clients", "* Anna", "* Attila (you)", "* bob"]
    assert lines(answer("\\clients", "a", roster("a"))) == ["* 1 client", "* a (you)"]


@pytest.mark.parametrize("name", ["a", "ab", "b", "(you)", "clients", "3"])
def test_only_the_asking_client_is_marked(name: str) -> None:
    others = {"a", "ab", "b", "(you)", "clients", "3", "a-2"}
    listed = lines(answer("\\clients", name, roster(*others)))
    assert listed[0] == "* 7 clients"
    assert set(listed[1:]) == {f"* {other}" for other in others - {name}} | {f"* {name} (you)"}


def test_help_has_one_notice_for_each_command() -> None:
    helps = lines(answer("\\help", "bob", ROSTER))
    assert len(helps) == len(COMMANDS)
    assert all(line.startswith(f"* \\{word}") for line, word in zip(helps, COMMANDS, strict=True))


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("\\foo", "\\foo"),
        ("\\\\Foo bar", "\\\\Foo"),
        ("\\", "\\"),
        ("\\ exit", "\\"),
        ("\\" + "x" * 100, "\\" + "x" * 63),
        ("\\exit" + "x" * 100, "\\exit" + "x" * 59),
        ("\\" + "x" * 62 + " y", "\\" + "x" * 62),
    ],
)
def test_unknown_command_is_quoted_as_typed_and_truncated(line: str, shown: str) -> None:
    hint = "try \\help, or begin the line with a space to send it as text"
    assert lines(answer(line, "bob", ROSTER)) == [f"ERROR unknown command {shown}: {hint}"]
