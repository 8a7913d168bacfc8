"""Which clients keep input paused for too long: pace, stalls, and the budgets of addresses."""

from __future__ import annotations

import pytest

from broadcast.server.eviction import (
    ACCOUNT_LIMIT,
    REFILL_RATE,
    VISIBLE_STEP,
    PauseBudget,
    Straggler,
)

BOUND = 8 * 1024 * 1024
GRACE = 5.0
SLICE = 0.125
HERE, THERE = "127.0.0.1", "127.0.0.2"


class Pause:
    """A pause of input and its stragglers, judged slice by slice on a clock that a test moves."""

    def __init__(self) -> None:
        self.budget = PauseBudget(BOUND, GRACE)
        self.now = 1000.0
        self.stragglers: dict[str, Straggler] = {}

    def add(self, name: str, key: str = HERE, joined_at: float = 0.0) -> Straggler:
        leeway = self.budget.leeway_for(key, joined_at, self.now)
        self.stragglers[name] = straggler = Straggler(key, leeway, 0)
        return straggler

    def judge(self, seconds: float = SLICE) -> list[str]:
        self.now += seconds
        return self.budget.judge(self.stragglers, seconds, self.now)

    def stall(self, key: str = HERE) -> float:
        """Let a newcomer stall until it is dropped, and return how many seconds that took."""
        began = self.now
        straggler = self.add("staller", key, self.now - 0.04)
        while "staller" not in self.judge(max(straggler.leeway / 4, 0.002)):
            pass
        del self.stragglers["staller"]
        return self.now - began

    def spend(self, key: str = HERE) -> None:
        while self.budget.remaining(key, self.now) > 0:
            self.stall(key)


def test_client_that_reads_nothing_is_too_slow_after_the_stall_time() -> None:
    pause = Pause()
    pause.add("stalled")
    assert [pause.judge() for _ in range(8)] == [[]] * 7 + [["stalled"]]


def test_steady_reader_is_never_charged_however_little_its_address_has_left() -> None:
    pause = Pause()
    pause.spend()
    reader = pause.add("reader", joined_at=990.0)
    balance = pause.budget.remaining(HERE, pause.now)
    for number in range(600):
        steps = int((number + 1) * SLICE * BOUND / 2 / GRACE) // VISIBLE_STEP
        reader.position = steps * VISIBLE_STEP
        assert pause.judge() == []
    assert pause.budget.remaining(HERE, pause.now) > balance
    assert reader.charged == 0


def test_reader_at_half_the_pace_is_too_slow_once_the_budget_is_spent() -> None:
    pause = Pause()
    reader = pause.add("reader")
    slices = 0
    while not pause.judge():
        slices += 1
        reader.position = int(slices * SLICE * BOUND / 4 / GRACE)
    # Half of the time is charged, and a tenth is regained.
    assert slices * SLICE == pytest.approx(GRACE / (0.5 - REFILL_RATE), rel=0.15)


def test_sleeper_is_charged_although_it_reads_everything_in_between() -> None:
    pause = Pause()
    sleeper = pause.add("sleeper")
    for cycle in range(1, 40):
        for _ in range(6):
            if pause.judge():
                return
        sleeper.position = cycle * BOUND
        assert pause.judge() == []
    raise AssertionError("it was never too slow")


def test_leeway_is_free_for_a_client_that_catches_up() -> None:
    pause = Pause()
    reader = pause.add("reader")
    for _ in range(4):
        assert pause.judge() == []
    reader.position = BOUND
    pause.judge()
    assert pause.budget.remaining(HERE, pause.now) == GRACE


def test_time_of_a_client_that_is_dropped_counts_twice() -> None:
    pause = Pause()
    pause.stall()
    assert pause.budget.remaining(HERE, pause.now) == pytest.approx(GRACE - 2, abs=0.1)


def test_clients_of_one_address_that_are_late_together_are_charged_once() -> None:
    pause = Pause()
    for number in range(100):
        pause.add(f"stalled{number}")
    while not pause.judge():
        pass
    assert pause.budget.remaining(HERE, pause.now) == pytest.approx(GRACE - 2, abs=0.1)
    assert pause.budget.remaining(THERE, pause.now) == GRACE


class TestSpentBudget:
    def test_neighbour_that_was_there_before_keeps_its_leeway(self) -> None:
        pause = Pause()
        pause.spend()
        pause.add("neighbour", joined_at=990.0)
        assert [pause.judge() for _ in range(5)] == [[]] * 4 + [["neighbour"]]

    def test_newcomer_is_waited_for_a_tenth_of_its_stay_at_most(self) -> None:
        pause = Pause()
        pause.spend()
        joined_at = pause.now
        pause.now += 1.0
        assert 0 < pause.budget.leeway_for(HERE, joined_at, pause.now) <= 1.0 * REFILL_RATE
        assert pause.budget.leeway_for(THERE, joined_at, pause.now) == 0.5

    def test_newcomer_that_reads_fast_is_not_dropped(self) -> None:
        pause = Pause()
        pause.spend()
        reader = pause.add("reader", joined_at=pause.now)
        for number in range(1000):
            reader.position = (number + 1) * VISIBLE_STEP
            assert pause.judge(0.002) == []

    def test_newcomer_has_its_leeway_again_once_the_budget_covers_it(self) -> None:
        pause = Pause()
        pause.spend()
        pause.now += (0.5 - pause.budget.remaining(HERE, pause.now)) / REFILL_RATE + 0.1
        assert pause.budget.leeway_for(HERE, pause.now, pause.now) == 0.5

    def test_newcomer_has_less_leeway_the_more_its_address_is_in_debt(self) -> None:
        pause = Pause()
        pause.spend()
        for number in range(3):
            pause.add(f"stalled{number}")
            while not pause.judge():
                pass
            pause.stragglers.clear()
        debt = -pause.budget.remaining(HERE, pause.now)
        leeway = pause.budget.leeway_for(HERE, pause.now - 1, pause.now)
        assert leeway == pytest.approx(REFILL_RATE * (1 - debt / GRACE))

    @pytest.mark.parametrize("rejoins_after", [0.0, 0.3, 1.0, 4.0])
    def test_staller_that_rejoins_pauses_input_a_tenth_of_the_time(
        self, rejoins_after: float
    ) -> None:
        pause = Pause()
        pause.spend()
        began, held = pause.now, 0.0
        while pause.now < began + 300:
            pause.now += rejoins_after + 0.04  # while the backlog fills
            held += pause.stall()
        assert held / (pause.now - began) < 0.1

    def test_debt_of_an_address_is_limited(self) -> None:
        pause = Pause()
        for _ in range(100):
            pause.add(f"stalled{pause.now}", joined_at=pause.now - 100)
            while not pause.judge():
                pass
            pause.stragglers.clear()
        assert -GRACE <= pause.budget.remaining(HERE, pause.now) < 0


class TestAccounts:
    def test_account_that_is_full_again_is_forgotten(self) -> None:
        pause = Pause()
        pause.stall()
        pause.now += 3 / REFILL_RATE
        pause.stall(THERE)
        assert pause.budget.remaining(HERE, pause.now) == GRACE
        assert len(pause.budget) == 1

    def test_number_of_accounts_is_limited(self) -> None:
        pause = Pause()
        for number in range(ACCOUNT_LIMIT + 10):
            pause.add(f"stalled{number}", key=f"address{number}")
        while not pause.judge():
            pass
        assert len(pause.budget) == ACCOUNT_LIMIT
