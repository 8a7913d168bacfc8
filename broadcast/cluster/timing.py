"""The times and limits of a cluster."""

from __future__ import annotations

from dataclasses import dataclass

IN_FLIGHT_LIMIT = 256 * 1024
"""Bytes written and not read back from the log, above which this server's senders wait. With 2 MiB,
a delivery costs 20 % more."""

BEHIND_LIMIT = 32 * 1024 * 1024
"""Bytes that the slowest server may be behind the end of the log, above which all senders wait."""

REPORT_SIZE = 2 * 1024 * 1024
"""Bytes read from the log after which a server tells its position without waiting."""

HISTORY_LOG_LIMIT = 16 * 1024 * 1024
"""Bytes at the end of the log that are kept for the history. Joins and leaves are among them."""


@dataclass(frozen=True, slots=True)
class ClusterTiming:
    """When what happens, in seconds; tests shorten them."""

    heartbeat: float = 2.0
    """Between two heartbeats of a server."""
    silence: float = 5.0
    """For which Redis may leave a command unanswered, before the server is away."""
    dead_after: float = 15.0
    """Without a heartbeat, after which the others declare a server dead."""
    behind: float = 2.0
    """Above the grace time, for which the slowest server may hold the others' senders."""
    notice: float = 1.0
    """For which a server is away before its clients are told."""
    newcomer: float = 3.0
    """That a client which connects meanwhile waits, before it is refused."""
    leave: float = 5.0
    """That a client which leaves, or a server which ends, waits for a Redis that is away."""
    poll: float = 0.05
    """Between two heartbeats while senders are held because a server is behind."""
    retry: float = 1.0
    """Between two attempts to attach again, after the first ones."""
