"""The fan-out, with connections that a test drives by hand."""

from __future__ import annotations

import asyncio
import time

import pytest

from broadcast.net.connection import Connection
from broadcast.server.batch import BATCH_SIZE
from broadcast.server.clock import ServingClock
from broadcast.server.fanout import MAX_BATCHES_PER_FEED, Fanout
from broadcast.server.subscription import Subscription, SubscriptionState


class DrainedLater(Connection):
    """A connection that has data pending at first, and then accepts everything."""

    is_closing = False
    write_pending = True

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0

    def _send_indirectly(self, data: bytes | memoryview, sent: int) -> bool:
        self.sent += 1
        return not self.write_pending

    def finish_writing(self) -> None:
        assert self.on_drained
        self.write_pending = False
        self.on_drained()


class TestFeeding:
    async def lag(self) -> tuple[Fanout, DrainedLater, Subscription]:
        fanout, connection = Fanout(ServingClock(), 10_000_000, 1.0), DrainedLater()
        fanout.join(DrainedLater(), lambda _: None)  # it accepts nothing: the backlog is kept
        subscription = fanout.join(connection, lambda _: None)
        for _ in range(4 * MAX_BATCHES_PER_FEED):
            fanout.publish(None, bytes(BATCH_SIZE))
        await asyncio.sleep(0)
        assert (connection.sent, fanout.lagging) == (1, 2)
        connection.finish_writing()
        assert connection.sent == 1 + MAX_BATCHES_PER_FEED
        return fanout, connection, subscription

    async def test_lagging_subscription_is_fed_again_after_the_others_until_it_catches_up(
        self,
    ) -> None:
        fanout, connection, _ = await self.lag()
        for _ in range(3):
            await asyncio.sleep(0)
        assert (connection.sent, fanout.lagging) == (4 * MAX_BATCHES_PER_FEED, 1)

    async def test_subscription_removed_between_two_feeds_receives_nothing_more(self) -> None:
        fanout, connection, subscription = await self.lag()
        fanout.remove(subscription)
        await asyncio.sleep(0)
        assert (connection.sent, fanout.lagging) == (1 + MAX_BATCHES_PER_FEED, 1)

    async def test_answer_between_two_feeds_is_written_first(self) -> None:
        _, connection, _ = await self.lag()
        connection.write_pending = True
        await asyncio.sleep(0)
        assert connection.sent == 1 + MAX_BATCHES_PER_FEED
        connection.finish_writing()
        assert connection.sent == 1 + 2 * MAX_BATCHES_PER_FEED


class DrainedByHand(Connection):
    """A connection that has data pending until a test drains it."""

    is_closing = False
    write_pending = True

    def __init__(self, peer: str) -> None:
        super().__init__()
        self.peer = peer
        self.waiting = 0

    @property
    def unsent(self) -> int:
        return self.waiting

    def _send_indirectly(self, data: bytes | memoryview, sent: int) -> bool:
        self.waiting += len(data)
        return False

    def finish_writing(self) -> None:
        self.waiting = 0
        assert self.on_drained
        self.on_drained()


class TestStragglers:
    """Input is paused for clients that a test drives by hand."""

    async def pause(
        self, *peers: str, **options: float
    ) -> tuple[Fanout, list[DrainedByHand], list[DrainedByHand]]:
        """Return a fan-out whose input is paused for these clients, and a list of the dropped."""
        dropped: list[DrainedByHand] = []
        options = {"grace": 20.0, "stall_time": 0.2} | options
        fanout = Fanout(ServingClock(), 1_000_000, **options)
        clients = [DrainedByHand(peer) for peer in peers]
        for client in clients:
            fanout.join(client, lambda _, client=client: dropped.append(client))  # type: ignore[misc]
        await self.fill(fanout)
        assert not fanout.gate.is_open
        return fanout, clients, dropped

    async def fill(self, fanout: Fanout) -> None:
        while fanout.gate.is_open:
            fanout.publish(None, bytes(BATCH_SIZE))
            await asyncio.sleep(0)

    async def test_client_that_reads_nothing_is_dropped_long_before_the_grace_time_ends(
        self,
    ) -> None:
        fanout, (stalled,), dropped = await self.pause("127.0.0.1:1")
        began = time.monotonic()
        async with asyncio.timeout(5):
            await fanout.gate.wait_turn()
        assert dropped == [stalled]
        assert time.monotonic() - began > 0.19

    async def test_client_that_reads_a_little_is_waited_for(self) -> None:
        fanout, (slow,), dropped = await self.pause("127.0.0.1:1")
        began = time.monotonic()
        while time.monotonic() < began + 0.5:
            slow.waiting = max(0, slow.waiting - 1000)
            await asyncio.sleep(0.01)
        assert not fanout.gate.is_open and not dropped

    async def test_time_while_the_process_is_stopped_counts_against_nobody(self) -> None:
        fanout, (stalled,), dropped = await self.pause("127.0.0.1:1")
        time.sleep(0.4)
        await asyncio.sleep(0.1)
        assert not fanout.gate.is_open and not dropped
        async with asyncio.timeout(5):
            await fanout.gate.wait_turn()
        assert dropped == [stalled]

    async def test_stalling_newcomer_costs_little_once_the_budget_is_spent(self) -> None:
        fanout, _, dropped = await self.pause("127.0.0.1:1", grace=0.2)
        async with asyncio.timeout(5):
            await fanout.gate.wait_turn()
        for number in range(5):
            fanout.join(
                stalled := DrainedByHand(f"127.0.0.1:{number}"), lambda _: dropped.append(stalled)
            )
            await self.fill(fanout)
            began = time.monotonic()
            await fanout.gate.wait_turn()
            assert dropped[-1] is stalled
            assert time.monotonic() - began < 0.1

    async def test_no_client_is_checked_while_input_is_not_paused(self) -> None:
        fanout, (slow,), _ = await self.pause("127.0.0.1:1")
        check = fanout._next_check
        while not fanout.gate.is_open:
            slow.finish_writing()
        assert check and check.cancelled()
        assert not fanout._next_check and not fanout._stragglers

    async def test_client_that_lags_by_less_than_half_the_limit_is_not_dropped(self) -> None:
        dropped: list[DrainedByHand] = []
        fanout = Fanout(ServingClock(), 1_000_000, 20.0, 0.2)
        first, second = DrainedByHand("127.0.0.1:1"), DrainedByHand("127.0.0.2:1")
        fanout.join(first, lambda _: dropped.append(first))
        while fanout.backlog < 600_000:
            fanout.publish(None, bytes(BATCH_SIZE))
            await asyncio.sleep(0)
        fanout.join(second, lambda _: dropped.append(second))
        await self.fill(fanout)
        async with asyncio.timeout(5):
            await fanout.gate.wait_turn()
        assert dropped == [first]


class TestLeaving:
    def fanout(self) -> tuple[Fanout, Subscription]:
        fanout = Fanout(ServingClock(), 1_000_000, 1.0)
        subscription = fanout.join(DrainedLater(), lambda _: None)
        return fanout, subscription

    async def test_leaver_that_is_removed_is_not_waited_for(self) -> None:
        fanout, subscription = self.fanout()
        for _ in range(3):
            fanout.publish(None, bytes(BATCH_SIZE))
        delivered = fanout.leave(subscription)
        assert not delivered.done()
        fanout.remove(subscription)
        assert delivered.done() and not delivered.result()

    async def test_client_that_leaves_after_it_was_removed_is_not_waited_for(self) -> None:
        fanout, subscription = self.fanout()
        fanout.remove(subscription)
        assert await fanout.leave(subscription) is False

    async def test_deliveries_are_counted_for_receivers_only(self) -> None:
        fanout, leaver = self.fanout()
        fanout.join(DrainedLater(), lambda _: None)
        fanout.publish(None, b"both\r\n")
        assert fanout.deliveries == 2
        fanout.leave(leaver)
        fanout.publish(leaver, b"* left\r\n")
        fanout.publish(None, b"one\r\n")
        assert fanout.deliveries == 4

    async def test_state_never_goes_back(self) -> None:
        fanout, subscription = self.fanout()
        fanout.leave(subscription)
        with pytest.raises(RuntimeError):
            fanout._set_state(subscription, SubscriptionState.LAGGING)


class TestPublishing:
    async def test_publishing_to_nobody_keeps_nothing(self) -> None:
        fanout = Fanout(ServingClock(), 1000, 1.0)
        for _ in range(10):
            fanout.publish(None, b"x" * 1000)
        for _ in range(2):
            assert fanout.backlog == 0 and fanout.gate.is_open
            await asyncio.sleep(0)
