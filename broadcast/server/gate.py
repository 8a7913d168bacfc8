"""Hold input back: make those that publish wait while there is a reason to."""

import asyncio
import enum

from .clock import ServingClock


class PauseReason(enum.Enum):
    """Why input is paused."""

    BACKLOG = enum.auto()
    """Readers are too slow."""
    AWAY = enum.auto()
    """This server is away from its cluster."""
    IN_FLIGHT = enum.auto()
    """Too much of what was published has not come back from the cluster."""
    BEHIND = enum.auto()
    """Another server of the cluster is too slow."""
    SHUTDOWN = enum.auto()
    """What was accepted is to come back before this server ends."""


STOPS_READING_TIME = {PauseReason.BACKLOG, PauseReason.AWAY, PauseReason.BEHIND}
"""The reasons that may last so long that clients must not be timed out meanwhile."""


class InputGate:
    """Where publishers wait while input is paused, for one or more reasons.

    Messages wait while there is any (`wait_turn`). Commands, and what other servers have already
    accepted, only wait for the readers (`wait_for_readers`).
    """

    def __init__(self, clock: ServingClock) -> None:
        self._clock = clock
        self._reasons: set[PauseReason] = set()
        self._open = asyncio.Event()  # set while there is no reason
        self._open.set()
        self._readers_keep_up = asyncio.Event()  # set while the backlog is none of them
        self._readers_keep_up.set()
        self._queue = asyncio.Lock()  # serves those that wait for their turn in order

    def hold(self, reason: PauseReason, applies: bool) -> None:
        """Make publishers wait while this reason applies."""
        if applies == self.is_held(reason):
            return
        self._reasons ^= {reason}
        _set_if(self._open, not self._reasons)
        _set_if(self._readers_keep_up, PauseReason.BACKLOG not in self._reasons)
        self._clock.stop_reading_time(not STOPS_READING_TIME.isdisjoint(self._reasons))

    def is_held(self, reason: PauseReason) -> bool:
        """Return whether publishers wait for this reason."""
        return reason in self._reasons

    @property
    def is_open(self) -> bool:
        """Whether there is no reason to wait."""
        return self._open.is_set()

    @property
    def must_wait(self) -> bool:
        """Whether a publisher must wait, because input is paused or others are queued."""
        return self._queue.locked() or not self._open.is_set()

    async def wait_turn(self) -> None:
        """Wait while input is paused, first come, first served; call it before each block.

        If all publishers resumed together, the first few would fill the backlog again each time,
        and the others would never publish. A publisher that arrives between two queued ones may
        overtake the second: if it had to queue too, all would proceed in lockstep, one block for
        each iteration of the event loop, for as long as there is a queue.
        """
        if self.must_wait:
            async with self._queue:
                while not self.is_open:
                    await self._open.wait()

    @property
    def is_backlogged(self) -> bool:
        """Whether readers are so slow that this is a reason to wait."""
        return not self._readers_keep_up.is_set()

    async def wait_for_readers(self) -> None:
        """Wait until the readers keep up."""
        await self._readers_keep_up.wait()


def _set_if(event: asyncio.Event, condition: bool) -> None:
    if condition:
        event.set()
    else:
        event.clear()
