"""The paragraph that a terminal makes of the answer to the command that lists clients."""

from __future__ import annotations

import pytest

from broadcast.protocol.messages import Message, Notice
from broadcast.terminal.client_list import PARAGRAPH_LIMIT, ClientList


def notices(*texts: str) -> list[Notice]:
    return list(map(Notice, texts))


def test_names_are_one_paragraph_under_the_count() -> None:
    answer = notices("3 clients", "a", "b (you)", "c")
    assert ClientList().gather(answer) == notices("3 clients", "a, b (you), c")
    assert ClientList().gather(notices("1 client", "a (you)")) == notices("1 client", "a (you)")


@pytest.mark.parametrize("split", range(1, 5))
def test_answer_may_come_in_pieces(split: int) -> None:
    clients = ClientList()
    answer = [*notices("4 clients", "a", "b (you)", "c", "d")]
    pieces = [answer[:split], answer[split:]]
    shown = [clients.gather(piece) for piece in pieces]
    assert shown == [notices("4 clients"), notices("a, b (you), c, d")]


def test_other_lines_are_passed_on_and_end_an_answer_that_lacks_names() -> None:
    clients = ClientList()
    hello = Message("a", "hello")
    assert clients.gather([*notices("3 clients", "a"), hello]) == [*notices("3 clients"), hello]
    assert clients.gather(notices("b")) == []
    assert clients.gather([hello]) == [*notices("a, b"), hello]
    assert clients.gather(notices("word", "2 clients", "2 clients", "c", "d", "e")) == notices(
        "word", "2 clients", "2 clients", "c, d", "e"
    )


def test_endless_answer_does_not_fill_the_memory() -> None:
    clients = ClientList()
    clients.gather(notices("9" * 40 + " clients"))
    assert clients.gather(notices(*["x"] * PARAGRAPH_LIMIT)) != []
    assert clients.gather(notices("9" * 5000 + " clients", "x" * 100)) == notices(
        "9" * 5000 + " clients", "x" * 100
    )
