"""A broadcast server and its client, in the standard library alone: what one client sends reaches all the others.

`BroadcastServer` and `BroadcastClient` are the two to begin with; the README has the protocol and an example.
"""

__version__ = "1.0.0"

from .client import BroadcastClient, RefusedError
from .dial import ConnectError, ConnectionLostError
from .protocol import BroadcastError, HandshakeError, Incoming, Message, Notice, ServerError, UsernameError
from .server import BroadcastServer, ListenError

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
