"""The first line of a client and its answer, built and parsed."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import HandshakeError
from .framing import encode
from .names import check_username

HANDSHAKE_LIMIT = 1_024
"""Bytes that a client may send until the end of its CONNECT, blank lines included; a name has 128
at most, which leaves a token plenty."""

SUCCESS = "SUCCESS"

EXPECTED_CONNECT = "expected CONNECT <username>"

HANDSHAKE_TIMED_OUT = "handshake timed out"

FULL = "server is full"

NOT_AUTHORISED = "not authorised"

NO_TLS_HERE = "this server does not use TLS: connect without it"

TLS_FIRST_BYTE = b"\x16"
"""What a TLS client begins with, and then waits for an answer: no line of this protocol does."""

SHUTTING_DOWN = "server is shutting down"

PASSING_REFUSALS = (SHUTTING_DOWN, HANDSHAKE_TIMED_OUT, FULL)
"""Refusals that say nothing against who is refused: another try may well succeed."""


@dataclass(frozen=True, slots=True)
class Connect:
    """What the first line of a client asks for."""

    username: str
    token: str | None = None

    def encode(self) -> bytes:
        """Return it as the line that a client sends."""
        words = ["CONNECT", self.username] + ([self.token] if self.token is not None else [])
        return encode(" ".join(words))


def parse_connect(text: str) -> Connect:
    """Read a client's first line, cleaned; raise HandshakeError where it is anything but `CONNECT [username [token]]`."""
    keyword, _, rest = text.partition(" ")
    words = list(filter(None, rest.split(" ")))
    if keyword != "CONNECT" or len(words) > 2:
        raise HandshakeError(EXPECTED_CONNECT)
    username, token = (*words, None, None)[:2]
    return Connect(check_username("anonymous" if username is None else username), token)
