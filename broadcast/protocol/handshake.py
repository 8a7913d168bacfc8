"""Build and parse the first line of a client, and name the answers to it."""

from dataclasses import dataclass

from ..errors import HandshakeError
from .framing import encode
from .names import check_username

DEFAULT_HOST, DEFAULT_PORT, DEFAULT_USERNAME = "127.0.0.1", 8888, "anonymous"

HANDSHAKE_LIMIT = 1_024
"""Bytes that a client may send up to the end of its CONNECT, blank lines included. A username has
128 at most, which leaves enough for a token."""

SUCCESS = "SUCCESS"

EXPECTED_CONNECT = "expected CONNECT <username>"

HANDSHAKE_TIMED_OUT = "handshake timed out"

FULL = "server is full"

NOT_AUTHORISED = "not authorised"

TLS_NOT_SUPPORTED = "this server does not use TLS: connect without it"

TLS_FIRST_BYTE = b"\x16"
"""The first byte that a TLS client sends, which no line of this protocol begins with."""

SHUTTING_DOWN = "server is shutting down"

UNAVAILABLE = "lost touch with the other servers: try again later"

TEMPORARY_REFUSALS = (SHUTTING_DOWN, HANDSHAKE_TIMED_OUT, FULL, UNAVAILABLE)
"""Refusals that are temporary: the same client may be accepted later."""


@dataclass(frozen=True, slots=True)
class Connect:
    """The username that a client asks for in its first line, and the token that it presents."""

    username: str
    token: str | None = None

    def encode(self) -> bytes:
        """Return the line that the client sends."""
        words = ["CONNECT", self.username] + ([self.token] if self.token is not None else [])
        return encode(" ".join(words))


def parse_connect(text: str) -> Connect:
    """Parse a client's first line, sanitised, of the form `CONNECT [username [token]]`.

    Raises HandshakeError if it is anything else.
    """
    keyword, _, rest = text.partition(" ")
    words = list(filter(None, rest.split(" ")))
    if keyword != "CONNECT" or len(words) > 2:
        raise HandshakeError(EXPECTED_CONNECT)
    username = check_username(words[0] if words else DEFAULT_USERNAME)
    return Connect(username, words[1] if len(words) == 2 else None)
