"""Judge from the heartbeats of all servers who is dead, and whether somebody is too far behind."""

from ..server.clock import ServingClock
from ..server.settings import ClusterTiming

BEHIND_LIMIT = 32 * 1024 * 1024  # bytes from the log's end to the slowest server: senders wait


class Neighbours:
    """The servers of a room, as one of them sees them since it has attached.

    A heartbeat has a counter. A server seems dead when that has not changed for a while in which
    this process was running and attached: a clock that jumps, or an outage for all, kills nobody.
    """

    def __init__(self, clock: ServingClock, timing: ClusterTiming, grace: float) -> None:
        self._clock, self._dead_after = clock, timing.dead_after
        self._hold_limit = grace + timing.behind  # for which the slowest one may hold the senders
        self._seen: dict[str, tuple[str, float]] = {}  # the last heartbeat, and when it was new
        self._slowest, self._slowest_since = "", 0.0  # and since when it has been that one
        self.is_behind = False  # whether the slowest one is so far behind that senders must wait

    def update(self, end: int, beats: dict[str, str]) -> list[str]:
        """Note all servers' heartbeats when the log ends at `end`; return the dead ones."""
        now, seen = self._clock.running_time(), self._seen
        self._seen = {
            server: seen[server] if seen.get(server, ("",))[0] == beat else (beat, now)
            for server, beat in beats.items()
        }
        positions = {server: int(beat.split(" ")[1]) for server, beat in beats.items()}
        slowest = min(positions, key=positions.__getitem__)
        self.is_behind = end - positions[slowest] > BEHIND_LIMIT
        if slowest != self._slowest or not self.is_behind:
            self._slowest, self._slowest_since = slowest, now
        dead = [server for server, (_, at) in self._seen.items() if now - at > self._dead_after]
        if now - self._slowest_since > self._hold_limit and slowest not in dead:
            dead.append(slowest)
        return dead
