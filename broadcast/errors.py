"""Every exception that this package raises on purpose."""

from __future__ import annotations


class BroadcastError(Exception):
    """The base of everything this package raises on purpose; its text is one line, meant for people."""


class HandshakeError(BroadcastError):
    """A first line that lets nobody in; the text is what follows `ERROR ` in the answer."""


class UsernameError(HandshakeError, ValueError):
    """A username that cannot be used; the text says what is wrong with it."""

    def __init__(self, why: str) -> None:
        super().__init__(f"bad username: {why}")


class ListenError(BroadcastError):
    """The server cannot listen where it was told to."""


class ConnectError(BroadcastError):
    """The server could not be reached."""


class ConnectionLostError(BroadcastError):
    """The connection broke: what was being sent in either direction may be lost."""


class RefusedError(BroadcastError):
    """The server does not let this client in, and would not next time; the text has its reason."""


class OutputClosedError(BroadcastError):
    """Whoever read our stdout has gone."""
