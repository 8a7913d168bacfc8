"""The CONNECT line, built and parsed."""

from __future__ import annotations

import pytest

from broadcast import HandshakeError
from broadcast.protocol import (
    Connect,
    parse_connect,
    sanitize,
)


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
    def test_good(self, line: str, connect: Connect) -> None:
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
    def test_anything_else(self, line: str) -> None:
        with pytest.raises(HandshakeError, match="^expected CONNECT <username>$"):
            parse_connect(line)

    def test_encodes_what_it_parses(self) -> None:
        assert parse_connect(sanitize(Connect("a", "b").encode()[:-2])) == Connect("a", "b")
