"""Judge from the heartbeats of all servers who is dead, and who is too far behind."""

from __future__ import annotations

from ..server.clock import ServingClock
from .timing import BEHIND_LIMIT


class Neighbours:
    """The servers of a room, as one of them sees them.

    A heartbeat is a counter, and the time for which it has not changed is this server's own: time
    in which its process ran and it was attached. So neither a clock that jumps nor an outage that
    affects all makes anybody seem dead.

    `dead_after`, `hold_limit`: seconds for which a server may send no heartbeat, and for which it
    may hold the others' senders.
    """

    def __init__(self, clock: ServingClock, dead_after: float, hold_limit: float) -> None:
        self._clock = clock
        self._dead_after = dead_after
        self._hold_limit = hold_limit
        self._seen: dict[str, tuple[str, float]] = {}  # the last heartbeat, and when it was new
        self._slowest = ""
        self._slowest_since = 0.0  # for how long it has been that one, too far behind
        self.is_behind = False  # whether the slowest one is so far behind that senders must wait

    def __len__(self) -> int:
        return len(self._seen)

    def forget(self) -> None:
        """Begin again, because the time since the last heartbeats does not count."""
        self._seen.clear()
        self._slowest, self.is_behind = "", False

    def update(self, server: str, end: int, beats: dict[str, str]) -> list[tuple[str, str]]:
        """Take note of all servers' heartbeats, as of now, when the log ends at `end`.

        Returns those that are dead with their last heartbeat; never `server`, which is this one.
        """
        now = self._clock.running_time()
        seen, self._seen = self._seen, {}
        for other, beat in beats.items():
            known = seen.get(other)
            self._seen[other] = known if known and known[0] == beat else (beat, now)
        positions = {other: int(beat.split(" ")[1]) for other, beat in beats.items()}
        slowest = min(positions, key=positions.__getitem__)
        self.is_behind = end - positions[slowest] > BEHIND_LIMIT
        if slowest != self._slowest or not self.is_behind:
            self._slowest, self._slowest_since = slowest, now
        dead = {other for other, (_, since) in self._seen.items() if now - since > self._dead_after}
        if now - self._slowest_since > self._hold_limit:
            dead.add(slowest)
        return [(other, beats[other]) for other in dead - {server}]
