"""The CONNECT line, built and parsed."""

from __future__ import annotations

import pytest

from broadcast import HandshakeError
from broadcast.protocol.blocks import sanitize
from broadcast.protocol.handshake import Connect, parse_connect


class TestConnect:
    @pytest.mark.parametrize(
        ("line", "connect"),
        [
            ("CONNECT", Connect("anonymous")),
            ("CONNECT   ", Connect("anonymous")),
            ("CONNECT Attila", Connect("Attila")),
            ("CONNECT   Attila   secret  ", Connect("Attila", "secret")),
            ("CONNECT Zoë", Connect("Zoë")),
        ],
    )
    def test_valid_connect_line_is_parsed(self, line: str, connect: Connect) -> None:
        assert parse_connect(line) == connect

    @pytest.mark.parametrize(
        "line",
        [
            "connect a",
            "CONNECTa",
            " CONNECT a",
            "CONNECT a b c",
            "GET / HTTP/1.1",
            "CONNECT\ta",
            "\\exit",
        ],
    )
    def test_any_other_first_line_raises(self, line: str) -> None:
        with pytest.raises(HandshakeError, match="^expected CONNECT <username>$"):
            parse_connect(line)

    def test_encoded_connect_line_can_be_parsed(self) -> None:
        assert parse_connect(sanitize(Connect("a", "b").encode()[:-2])) == Connect("a", "b")
