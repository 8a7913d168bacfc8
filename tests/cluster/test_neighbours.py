"""Who is dead, and who is too far behind, as the heartbeats tell."""

from __future__ import annotations

from typing import cast

import pytest

from broadcast.cluster.neighbours import FAR_BEHIND, Neighbours
from broadcast.server.clock import ServingClock
from broadcast.server.settings import ClusterTiming

DEAD_AFTER, GRACE, BEHIND = 15.0, 5.0, 2.0


class FakeClock:
    """A clock that a test advances."""

    now = 100.0

    def running_time(self) -> float:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def neighbours(clock: FakeClock) -> Neighbours:
    timing = ClusterTiming(dead_after=DEAD_AFTER, behind=BEHIND)
    return Neighbours(cast(ServingClock, clock), timing, GRACE)


def beat(count: int, position: int = 0) -> str:
    return f"{count} {position} {position}"


STEP = 0.5
"""Seconds between two updates, as while senders wait."""


class Room:
    """Servers whose heartbeats another one watches."""

    def __init__(self, clock: FakeClock, neighbours: Neighbours) -> None:
        self.clock, self.neighbours = clock, neighbours
        self.count = 0

    def dead(self, *silent: str, seconds: float, end: int = 0, **positions: int) -> list[str]:
        """Let time pass, and return who seems dead then; `silent` servers send no heartbeat."""
        stop = self.clock.now + seconds
        while True:
            self.clock.now = min(self.clock.now + STEP, stop)
            self.count += 1
            beats = {
                server: beat(0 if server in silent else self.count, position)
                for server, position in positions.items()
            }
            dead = self.neighbours.update(end, beats)
            if dead or self.clock.now == stop:
                return dead


@pytest.fixture
def room(clock: FakeClock, neighbours: Neighbours) -> Room:
    return Room(clock, neighbours)


class TestDead:
    def test_server_is_dead_whose_heartbeat_does_not_change(self, room: Room) -> None:
        room.dead("b", seconds=STEP, a=0, b=0)
        assert room.dead("b", seconds=DEAD_AFTER, a=0, b=0) == []
        assert room.dead("b", seconds=0.1, a=0, b=0) == ["b"]

    def test_each_heartbeat_counts_from_when_it_was_first_seen(self, room: Room) -> None:
        for _ in range(3):
            assert room.dead("a", seconds=DEAD_AFTER - 0.1, a=0) == []
            room.dead(seconds=STEP, a=0)

    def test_server_that_is_seen_for_the_first_time_is_not_dead(self, room: Room) -> None:
        room.dead(seconds=10 * DEAD_AFTER, a=0)
        assert room.dead("b", seconds=DEAD_AFTER, a=0, b=0) == []

    def test_server_that_was_gone_meanwhile_is_judged_anew(self, room: Room) -> None:
        room.dead("b", seconds=1, a=0, b=0)
        room.dead(seconds=1, a=0)
        assert room.dead("b", seconds=DEAD_AFTER, a=0, b=0) == []

    def test_outage_counts_as_a_moment_however_often_there_is_one(
        self, clock: FakeClock, room: Room
    ) -> None:
        """Nobody is dead after a single one, and a room that is never whole frees its names."""
        room.dead("b", seconds=STEP, a=0, b=0)
        clock.now += 1000
        assert room.dead("b", seconds=STEP, a=0, b=0) == []
        outages = 1
        while not room.dead("b", seconds=STEP, a=0, b=0):
            clock.now += 1000
            outages += 1
        assert outages >= 3


class TestBehind:
    def test_senders_wait_only_above_the_limit(self, neighbours: Neighbours) -> None:
        beats = {"a": beat(1, FAR_BEHIND), "b": beat(1, 10)}
        neighbours.update(FAR_BEHIND + 10, beats)
        assert not neighbours.is_behind
        neighbours.update(FAR_BEHIND + 11, beats)
        assert neighbours.is_behind
        neighbours.update(FAR_BEHIND + 12, {"a": beat(2, FAR_BEHIND), "b": beat(2, 12)})
        assert not neighbours.is_behind

    def test_server_is_dead_when_it_has_held_the_senders_for_too_long(self, room: Room) -> None:
        end = 2 * FAR_BEHIND
        room.dead(seconds=STEP, end=end, a=end, b=0)
        assert room.dead(seconds=GRACE + BEHIND, end=end, a=end, b=0) == []
        assert room.dead(seconds=0.1, end=end, a=end, b=0) == ["b"]

    def test_time_starts_again_when_it_has_caught_up(self, room: Room) -> None:
        end = 2 * FAR_BEHIND
        for _ in range(3):
            assert room.dead(seconds=GRACE, end=end, a=end, b=0) == []
            room.dead(seconds=STEP, end=end, a=end, b=end)

    def test_servers_that_hold_the_senders_together_do_not_hold_them_longer(
        self, room: Room
    ) -> None:
        end = 2 * FAR_BEHIND
        room.dead(seconds=STEP, end=end, a=end, b=1, c=0)
        assert room.dead(seconds=GRACE, end=end, a=end, b=1, c=2) == []
        assert sorted(room.dead(seconds=BEHIND + 0.1, end=end, a=end, b=1, c=2)) == ["b", "c"]

    def test_each_server_has_a_time_of_its_own(self, room: Room) -> None:
        end = 2 * FAR_BEHIND
        room.dead(seconds=GRACE, end=end, a=end, b=0, c=end)
        assert room.dead(seconds=BEHIND + 2 * STEP, end=end, a=end, b=0, c=0) == ["b"]
