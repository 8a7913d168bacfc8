"""Every exception that this package raises on purpose."""


class BroadcastError(Exception):
    """Base class of this package's exceptions; the text is one line, written for people."""

    def __init__(self, text: str = "", details: str = "") -> None:
        super().__init__(f"{text}{details}")
        self.details = details or text
        """The text without its beginning, for a place that says that already."""


class HandshakeError(BroadcastError):
    """A client's first line was rejected; the text is what follows `ERROR ` in the answer."""


class UsernameError(HandshakeError, ValueError):
    """A username is not allowed; the text gives the reason."""

    def __init__(self, why: str) -> None:
        super().__init__(f"bad username: {why}")


class ListenError(BroadcastError):
    """The server cannot listen on the given address."""


class ClusterError(BroadcastError):
    """The server can't be part of its cluster."""


class RedisError(BroadcastError):
    """Redis has answered with an error, or not as Redis does."""


class LostError(RedisError):
    """Redis does not have the room as this server knows it: something that was said is lost."""


class ConnectError(BroadcastError):
    """The server could not be reached, or is temporarily unavailable."""


class TLSMismatchError(ConnectError):
    """TLS fails, and would fail again: only one side uses it, or does not trust the other."""


class ConnectionLostError(BroadcastError):
    """The connection broke, and data in transit in either direction may be lost."""


class RefusedError(BroadcastError):
    """The server refused this client and would refuse it again; the text gives the reason."""


class OutputClosedError(BroadcastError):
    """The reader of our standard output has gone."""
