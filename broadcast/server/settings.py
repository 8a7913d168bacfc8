"""The settings of a server: what each is for, and why its default is what it is."""

import re
import ssl
from dataclasses import KW_ONLY, dataclass, field, fields

from ..net.connection import CLOSE_TIMEOUT
from ..protocol.framing import LINE_LIMIT
from ..protocol.handshake import DEFAULT_HOST, DEFAULT_PORT

MAY_BE_ZERO = ("port", "history")
"""The numbers that need not be above 0."""


@dataclass(frozen=True, slots=True)
class ClusterTiming:
    """When a server in a cluster is away, and when it is taken for dead, in seconds."""

    heartbeat: float = 2.0  # between two heartbeats of a server
    silence: float = 5.0  # for which a command may be unanswered, before the server is away
    dead_after: float = 15.0  # without a heartbeat, after which a server is declared dead
    behind: float = 2.0  # above the grace time, for which the slowest server may hold the senders
    notice: float = 1.0  # after which clients are told that it is away, or it ends without Redis
    newcomer: float = 3.0  # for which a client that connects meanwhile waits before it is refused
    leave: float = 5.0  # that a client or a server waits until its leave has come back
    retry: float = 1.0  # between two attempts to attach again, after the first ones


@dataclass(eq=False, repr=False)
class Settings:
    """What a server is told when it is created.

    Raises ValueError for a limit that is not above 0, a negative `history`, a `port` that does not
    exist, or a bad `room`.
    """

    host: str = DEFAULT_HOST
    """A name or an address, empty for every interface; it listens on all addresses of a name."""
    port: int = DEFAULT_PORT
    """0 for any free one, the same for all addresses; once it listens, the one that it has."""
    _: KW_ONLY
    timeout: float = 300.0
    """Seconds of silence after which a client is disconnected: ten times the client's heartbeat, so
    that a short network failure disconnects nobody."""
    backlog: int = 8 * 1024 * 1024
    """Bytes kept for slow readers: a second or two of heavy traffic."""
    grace: float = 5.0
    """Seconds for which slow readers of one address may keep input paused: more than most network
    interruptions last, and short enough that users tolerate it."""
    notices: bool = True
    """Whether joins and leaves are announced."""
    history: int = 0
    """Messages that a client is sent when it joins; 0 for none."""
    history_bytes: int = 1024 * 1024
    """The most memory that they take up: some 10,000 lines of chat."""
    handshake_timeout: float = 10.0
    """Seconds within which a client must join: enough to type CONNECT by hand."""
    line_limit: int = LINE_LIMIT
    """Bytes in a line."""
    max_clients: int = 10_240
    """Clients that have joined, at once: as many as one core serves well."""
    max_strangers: int = 512
    """Connections that have not joined, at once; one more displaces the oldest. Enough for many
    clients that connect at the same time over a slow network, with a memory use of some 10 MB, or
    30 MB with TLS."""
    max_rate: float | None = None
    """Lines per second; a client that sends faster is slowed down; None for no limit."""
    tls: ssl.SSLContext | None = None
    """A context with a certificate; None for plain TCP."""
    token: str | None = None
    """A secret that clients must present; None for none."""
    wrong_token_delay: float = 1.0
    """Seconds until a wrong token is refused: each guess occupies a connection for that long, and
    the number of connections that have not joined is bounded."""
    shutdown_timeout: float = 5.0
    """Seconds of running time that clients have to read the rest of their data at a shutdown."""
    close_timeout: float = CLOSE_TIMEOUT
    """Seconds that one client has to do so when it leaves."""
    cluster: str | None = None
    """The URL of a Redis, of which all servers with the same `room` are one room; None for a room
    of this server alone."""
    room: str = "main"
    """The name of the room in the cluster."""
    cluster_timing: ClusterTiming = field(default_factory=ClusterTiming)
    """When it is away, and when it is taken for dead; tests shorten these times."""
    reuse_port: bool = False
    """Whether several processes may listen on the port."""

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = getattr(self, setting.name)
            is_limit = type(value) in (int, float) and setting.name not in MAY_BE_ZERO
            if is_limit and not value > 0:
                raise ValueError(f"{setting.name} must be above 0, not {value}")
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port must be from 0 to 65535, not {self.port}")
        if self.history < 0:
            raise ValueError(f"history must be 0 or more, not {self.history}")
        check_room(self.room)


def check_room(name: str) -> str:
    """Return a room's name if it is allowed; otherwise raise ValueError."""
    if not re.fullmatch(r"[^\s{}]{1,64}", name) or not name.isprintable():
        raise ValueError("a room's name has 1 to 64 characters, no white space and no braces")
    return name
