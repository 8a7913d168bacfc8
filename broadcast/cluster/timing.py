"""The times of a cluster, in seconds; tests shorten them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClusterTiming:
    """When a server is away, and when it is taken for dead."""

    heartbeat: float = 2.0  # between two heartbeats of a server
    silence: float = 5.0  # for which a command may be unanswered, before the server is away
    dead_after: float = 15.0  # without a heartbeat, after which a server is declared dead
    behind: float = 2.0  # above the grace time, for which the slowest server may hold the senders
    notice: float = 1.0  # for which a server is away before its clients are told
    newcomer: float = 3.0  # that a client waits which connects meanwhile, before it is refused
    leave: float = 5.0  # that a client or a server waits to leave while it is away
    retry: float = 1.0  # between two attempts to attach again, after the first ones
