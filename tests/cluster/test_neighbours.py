"""Who is dead, and who is too far behind, as the heartbeats tell."""

from __future__ import annotations

from typing import cast

import pytest

from broadcast.cluster.neighbours import BEHIND_LIMIT, Neighbours
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


class TestDead:
    def test_server_is_dead_whose_heartbeat_does_not_change(
        self, clock: FakeClock, neighbours: Neighbours
    ) -> None:
        assert neighbours.update(0, {"a": beat(1), "b": beat(7)}) == []
        clock.now += DEAD_AFTER
        assert neighbours.update(0, {"a": beat(2), "b": beat(7)}) == []
        clock.now += 0.1
        assert neighbours.update(0, {"a": beat(3), "b": beat(7)}) == ["b"]

    def test_each_heartbeat_counts_from_when_it_was_first_seen(
        self, clock: FakeClock, neighbours: Neighbours
    ) -> None:
        for count in range(5):
            clock.now += DEAD_AFTER - 0.1
            assert neighbours.update(0, {"a": beat(count)}) == []

    def test_server_that_is_seen_for_the_first_time_is_not_dead(
        self, clock: FakeClock, neighbours: Neighbours
    ) -> None:
        neighbours.update(0, {"a": beat(1)})
        clock.now += 10 * DEAD_AFTER
        assert neighbours.update(0, {"a": beat(2), "b": beat(0)}) == []

    def test_server_that_was_gone_meanwhile_is_judged_anew(
        self, clock: FakeClock, neighbours: Neighbours
    ) -> None:
        neighbours.update(0, {"a": beat(1), "b": beat(1)})
        clock.now += 1
        neighbours.update(0, {"a": beat(2)})
        clock.now += DEAD_AFTER
        assert neighbours.update(0, {"a": beat(3), "b": beat(1)}) == []


class TestBehind:
    def test_senders_wait_only_above_the_limit(self, neighbours: Neighbours) -> None:
        beats = {"a": beat(1, BEHIND_LIMIT), "b": beat(1, 10)}
        neighbours.update(BEHIND_LIMIT + 10, beats)
        assert not neighbours.is_behind
        neighbours.update(BEHIND_LIMIT + 11, beats)
        assert neighbours.is_behind
        neighbours.update(BEHIND_LIMIT + 12, {"a": beat(2, BEHIND_LIMIT), "b": beat(2, 12)})
        assert not neighbours.is_behind

    def test_slowest_server_is_dead_when_it_has_held_the_senders_for_too_long(
        self, clock: FakeClock, neighbours: Neighbours
    ) -> None:
        end = 2 * BEHIND_LIMIT
        assert neighbours.update(end, {"a": beat(1, end), "b": beat(1)}) == []
        clock.now += GRACE + BEHIND
        assert neighbours.update(end, {"a": beat(2, end), "b": beat(2)}) == []
        clock.now += 0.1
        assert neighbours.update(end, {"a": beat(3, end), "b": beat(3)}) == ["b"]

    def test_time_starts_again_when_it_has_caught_up(
        self, clock: FakeClock, neighbours: Neighbours
    ) -> None:
        end = 2 * BEHIND_LIMIT
        neighbours.update(end, {"a": beat(1, end), "b": beat(1)})
        clock.now += GRACE
        neighbours.update(end, {"a": beat(2, end), "b": beat(2, end)})
        clock.now += GRACE
        assert neighbours.update(2 * end, {"a": beat(3, 2 * end), "b": beat(3, end)}) == []
        clock.now += GRACE
        assert neighbours.update(2 * end, {"a": beat(4, 2 * end), "b": beat(4, end)}) == []

    def test_each_slowest_server_has_a_time_of_its_own(
        self, clock: FakeClock, neighbours: Neighbours
    ) -> None:
        end = 2 * BEHIND_LIMIT
        neighbours.update(end, {"a": beat(1, 1), "b": beat(1, 0)})
        clock.now += GRACE
        assert neighbours.update(end, {"a": beat(2, 1), "b": beat(2, 2)}) == []
        clock.now += GRACE
        assert neighbours.update(end, {"a": beat(3, 1), "b": beat(3, 2)}) == []
        clock.now += GRACE
        assert neighbours.update(end, {"a": beat(4, 1), "b": beat(4, 2)}) == ["a"]
