"""Judge from the heartbeats of all servers who is dead, and whether somebody is too far behind."""

from ..server.clock import ServingClock
from ..server.settings import ClusterTiming

FAR_BEHIND = 32 * 1024 * 1024  # bytes from the log's end to the slowest server: senders wait


class Neighbours:
    """The servers of a room, as one of them sees them.

    A heartbeat has a counter. A server seems dead when that has not changed for a while in which
    this process was running and attached: a clock that jumps, or an outage for all, kills nobody.
    """

    def __init__(self, clock: ServingClock, timing: ClusterTiming, grace: float) -> None:
        self._clock, self._dead_after = clock, timing.dead_after
        self._hold_limit = grace + timing.behind  # for which a server may hold the senders
        self._longest_step = 2 * timing.heartbeat  # between two updates; more was an outage
        self._time, self._updated_at = 0.0, clock.running_time()
        self._seen: dict[str, tuple[str, float]] = {}  # the last heartbeat, and when it was new
        self._behind: dict[str, float] = {}  # servers that hold the senders, and since when

    @property
    def is_behind(self) -> bool:
        """Whether any server is so far behind that senders must wait."""
        return bool(self._behind)

    def update(self, end: int, beats: dict[str, str]) -> list[str]:
        """Note all servers' heartbeats when the log ends at `end`; return the dead ones."""
        now, seen, behind = self._clock.running_time(), self._seen, self._behind
        self._time += min(now - self._updated_at, self._longest_step)
        self._updated_at, time = now, self._time
        self._seen = {
            server: seen[server] if seen.get(server, ("",))[0] == beat else (beat, time)
            for server, beat in beats.items()
        }
        far = [server for server, beat in beats.items() if end - int(beat.split()[1]) > FAR_BEHIND]
        self._behind = {server: behind.get(server, time) for server in far}
        too_late = [server for server in far if time - self._behind[server] > self._hold_limit]
        silent = [server for server, (_, at) in self._seen.items() if time - at > self._dead_after]
        return [*{*silent, *too_late}]
