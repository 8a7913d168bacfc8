"""Messages, notices and errors, as a client receives them."""

from __future__ import annotations

import pytest

from broadcast import Incoming, Message, Notice, Pong, ServerError
from broadcast.protocol.messages import parse_incoming
from broadcast.protocol.names import NAME_LIMIT


class TestIncoming:
    @pytest.mark.parametrize(
        ("line", "incoming"),
        [
            ("Attila: hello", Message("Attila", "hello")),
            ("Attila:  a: b", Message("Attila", " a: b")),
            ("ERROR: hello", Message("ERROR", "hello")),
            ("* Attila joined", Notice("Attila joined")),
            ("* a: b", Notice("a: b")),
            ("ERROR too slow: x", ServerError("too slow: x")),
            ("PONG 12", Pong("12")),
            ("PONG: 12", Message("PONG", "12")),
        ],
    )
    def test_incoming_line_has_a_type_and_is_displayed_unchanged(
        self, line: str, incoming: Incoming
    ) -> None:
        assert parse_incoming(line) == incoming
        assert str(incoming) == line

    def test_line_of_a_sender_with_an_impossibly_long_name_is_a_notice(self) -> None:
        longest = "\U0001f600" * NAME_LIMIT + "-1000000000"
        assert parse_incoming(f"{longest}: hello") == Message(longest, "hello")
        assert parse_incoming(f"x{longest}: hello") == Notice(f"x{longest}: hello")
