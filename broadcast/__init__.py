"""A broadcast server and its client, using only the standard library.

A line sent by one client is delivered to all others. Begin with `BroadcastServer` and
`BroadcastClient`; the README has an example.
"""

TYPE_CHECKING = False  # as in `typing`, whose import would take longer than everything here
if TYPE_CHECKING:
    from .client.client import BroadcastClient
    from .errors import (
        BroadcastError,
        ClusterError,
        ConnectError,
        ConnectionLostError,
        HandshakeError,
        ListenError,
        RefusedError,
        TLSMismatchError,
        UsernameError,
    )
    from .protocol.messages import Incoming, Message, Notice, Pong, ServerError
    from .protocol.notices import Event
    from .server.server import BroadcastServer

__version__ = "1.0.0"

__all__ = [
    "BroadcastClient",
    "BroadcastError",
    "BroadcastServer",
    "ClusterError",
    "ConnectError",
    "ConnectionLostError",
    "Event",
    "HandshakeError",
    "Incoming",
    "ListenError",
    "Message",
    "Notice",
    "Pong",
    "RefusedError",
    "ServerError",
    "TLSMismatchError",
    "UsernameError",
]


def __getattr__(name: str) -> object:
    """Import a public name on its first use.

    Importing this package imports nothing else, so `__main__` can prepare for Ctrl-C first.
    """
    if name in __all__:
        from importlib import import_module

        for module in ("errors", "protocol.messages", "client.client", "server.server"):
            if found := getattr(import_module(f"{__name__}.{module}"), name, None):
                globals()[name] = found
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
