from .errors import (
    BroadcastError,
    ConnectError,
    ConnectionLostError,
    HandshakeError,
    ListenError,
    RefusedError,
    UsernameError,
)

"""A broadcast server and its client, in the standard library alone.

What one client sends reaches all the others. Begin with `BroadcastServer` and `BroadcastClient`;
the README has an example.
"""

__version__ = "1.0.0"

from .client.client import BroadcastClient
from .protocol import Incoming, Message, Notice, ServerError
from .server.server import BroadcastServer

__all__ = [
    "BroadcastClient",
    "BroadcastError",
    "BroadcastServer",
    "ConnectError",
    "ConnectionLostError",
    "HandshakeError",
    "Incoming",
    "ListenError",
    "Message",
    "Notice",
    "RefusedError",
    "ServerError",
    "UsernameError",
]
