"""Publish once, deliver to all: the backlog, the cursors and the flow control.

Simpler designs fail. One `write` and `drain` for each client and message is far slower, and blocks
for good behind one reader that stalls. A queue and a task for each client multiply every message by
the number of clients that lag. Dropping messages for a slow client loses data silently. Here:

* What is published in one iteration of the event loop is joined into one *batch*, and every client
  is sent the same bytes object in one write. This adds no delay when the server is idle; under
  load, batches grow by themselves.
* A *ready* client has been sent every batch. One whose socket did not accept all of a batch is
  *lagging*: whenever its pending data has been sent, it is fed from the *backlog*, batch by batch,
  from its *cursor*, until it is ready again. There is one backlog for all clients, so its memory
  does not depend on how many lag; when none does, it is empty.
* When the backlog exceeds its bound, *input is paused*: sessions stop handling input, which senders
  experience as ordinary TCP backpressure. At half the bound, input resumes. Meanwhile `eviction`
  judges the *stragglers*, the clients that are more than half the bound behind. A client that
  stalls is evicted after the stall time. A slow one is evicted when its address's budget is spent.
  One that reads half the bound within the grace time is never evicted.
"""

import asyncio
from collections import deque

from ..net.address import network_of
from ..net.connection import Connection, send_to_all
from ..states import follow
from .batch import BATCH_SIZE, Batch
from .clock import ServingClock
from .eviction import STALL_TIME, PauseBudget, Straggler
from .gate import InputGate, PauseReason
from .reasons import Interrupt, LeaveReason
from .subscription import NEXT_STATES, RECEIVING, Subscription, SubscriptionState

NOTICE_DELAY = 0.01
"""Seconds that a notice may wait to be sent with other notices or a message: too short to be
noticed, and clients that join at the same time share one write."""

MAX_BATCHES_PER_FEED = 4
"""Batches sent to one lagging client before the event loop serves others."""

CHECKS_PER_LEEWAY = 4
"""Checks of the stragglers in one leeway, while input is paused: an eviction is late by at most the
time between two."""

SHORTEST_CHECK = 0.002
"""Minimum seconds between two checks: with thousands of stragglers, one check takes as long. It
is short compared with the time in which a flood fills the backlog again."""

LATE_LIMIT = 0.1
"""Seconds by which a check may be late. A later one means that the process was stopped (SIGSTOP, a
suspended machine) or starved, and that it does not know yet what clients have read meanwhile: that
time is charged to nobody."""


class Fanout:
    """Delivers each published block to all clients but its author, in the same order for all.

    `bound`: bytes of backlog above which input is paused; memory exceeds it by at most one batch.
    `grace`: seconds for which the clients of one address may keep input paused by reading too
    slowly. `stall_time`: seconds for which one of these may read nothing.

    A client receives every block published after `join`, or `interrupt` is called and it receives
    nothing more. Nothing here waits for a client: `publish` returns at once, and publishers wait at
    the `gate` first.
    """

    def __init__(
        self, clock: ServingClock, bound: int, grace: float, stall_time: float = STALL_TIME
    ) -> None:
        self._clock = clock
        self._bound = bound
        self._budget = PauseBudget(bound, grace, stall_time)
        self._open = Batch(0)  # what is published and not flushed yet
        # Scheduled flushes: one at the end of this iteration, one for notices after NOTICE_DELAY.
        self._flush_due: asyncio.Handle | None = None
        self._notices_due: asyncio.TimerHandle | None = None
        self.deliveries = 0  # lines times the clients that receive them, since the start
        self.evicted = 0  # clients that were too slow, since the start
        self.is_closed = False  # once `close` has been called
        self._ready: dict[Connection, Subscription] = {}  # READY
        self._fed: dict[Subscription, None] = {}  # LAGGING or LEAVING
        self._receivers = 0  # READY or LAGGING
        self._batches: deque[Batch] = deque()  # from the slowest cursor to the open batch
        self.backlog = 0  # bytes of memory that they take up
        self._stream_position = 0  # the memory cost of all batches that were ever in the backlog
        self.gate = InputGate(clock)
        # While input is paused: the stragglers as of the last check, and the next check.
        self._stragglers: dict[Subscription, Straggler] = {}
        self._next_check: asyncio.TimerHandle | None = None

    # --- subscriptions ---

    def join(self, connection: Connection, interrupt: Interrupt) -> Subscription:
        """Subscribe a client to everything that is published from now on."""
        subscription = Subscription(connection, interrupt, self._clock.running_time())
        if self._open.size:
            self._open.exclude(subscription, 0, self._open.size)
        self._ready[connection] = subscription
        self._receivers += 1
        return subscription

    def leave(self, subscription: Subscription) -> asyncio.Future[bool]:
        """Unsubscribe a client, which still receives everything published so far.

        The future is done when its connection has been handed all of it, of which some may still be
        unsent, or has closed. Its result is False if the client was removed before that.
        """
        if subscription.delivered is None:
            delivered = subscription.delivered = asyncio.get_running_loop().create_future()
            if subscription.state is SubscriptionState.GONE:
                delivered.set_result(False)
                return delivered
            subscription.end_batch = self._open.number
            if self._open.size:
                self._open.exclude(subscription, self._open.size, None)
                subscription.end_batch += 1
            self._set_state(subscription, SubscriptionState.LEAVING)
            if subscription.cursor + 1 >= subscription.end_batch:
                self._feed(subscription)  # its cursor must not keep any later batches
        return subscription.delivered

    def remove(self, subscription: Subscription) -> None:
        """Send a client nothing more, even of what was published before."""
        self._end(subscription, delivered=False)

    def close(self, last: bytes) -> None:
        """Publish a last block and unsubscribe everyone; after this, `publish` has no effect."""
        self.publish(None, last)
        self._flush()
        self.is_closed = True
        for subscription in [*self._ready.values(), *self._fed]:
            self.leave(subscription)

    def _set_state(self, subscription: Subscription, state: SubscriptionState) -> None:
        """Change a client's state, and keep `_ready`, `_fed` and its cursor consistent with it.

        READY and LAGGING alternate until LEAVING; GONE may follow any of these, and is final.
        """
        follow(NEXT_STATES, subscription.state, state)
        if subscription.state in RECEIVING and state not in RECEIVING:
            self._receivers -= 1
        connection = subscription.connection
        was_fed = subscription in self._fed
        is_fed = state in (SubscriptionState.LAGGING, SubscriptionState.LEAVING)
        subscription.state = state
        if state is SubscriptionState.READY:
            self._ready[connection] = subscription
        else:
            self._ready.pop(connection, None)
        if is_fed and not was_fed:
            self._fed[subscription] = None
            subscription.cursor = self._open.number
            self._open.waiting += 1
            connection.on_drained = lambda: self._feed(subscription)
        elif was_fed and not is_fed:
            del self._fed[subscription]
            connection.on_drained = None
            self._batch_at(subscription.cursor).waiting -= 1
            self._trim()

    # --- publishing ---

    @property
    def lagging(self) -> int:
        """The number of clients that have not been sent everything."""
        return len(self._fed)

    def publish(
        self, author: Subscription | None, block: bytes, lines: int = 1, *, defer: bool = False
    ) -> None:
        """Send a block of `lines` lines to everyone but its author.

        It is sent at the end of this iteration of the event loop; with `defer`, together with the
        next block, NOTICE_DELAY later at most.
        """
        if self.is_closed:
            return
        if self._open.size + len(block) > BATCH_SIZE:
            self._flush()
        batch = self._open
        batch.blocks.append(block)
        receivers = self._receivers
        if author and author.state in RECEIVING:
            batch.exclude(author, batch.size, batch.size + len(block))
            receivers -= 1
        self.deliveries += lines * receivers
        batch.size += len(block)
        if not defer and not self._flush_due:
            self._flush_due = asyncio.get_running_loop().call_soon(self._flush)
        elif defer and not self._notices_due:
            self._notices_due = asyncio.get_running_loop().call_later(NOTICE_DELAY, self._flush)

    def flush_due(self) -> None:
        """Send at once what would be sent at the end of this iteration."""
        if self._flush_due:
            self._flush()

    def _flush(self) -> None:
        """Send the open batch to all ready clients, and keep it for those that lag."""
        for due in (self._flush_due, self._notices_due):
            if due:
                due.cancel()
        self._flush_due = self._notices_due = None
        batch = self._open
        if not batch.size:
            return
        self._open = Batch(batch.number + 1)
        data = batch.seal()
        partial = [
            subscription
            for subscription in batch.excluded
            if self._ready.pop(subscription.connection, None)
        ]
        behind = [self._ready[connection] for connection in send_to_all(self._ready, data)]
        for subscription in partial:
            connection = subscription.connection
            self._ready[connection] = subscription
            if part := batch.data_for(subscription):
                connection.send(part)
            if connection.write_pending:
                behind.append(subscription)
        if self._fed:
            self._batches.append(batch)
            batch.start = self._stream_position
            self._stream_position += batch.memory_cost
            self.backlog += batch.memory_cost
        for subscription in behind:
            self._set_state(subscription, SubscriptionState.LAGGING)
        self._pause_or_resume_input()

    # --- feeding clients that lag ---

    def _feed(self, subscription: Subscription) -> None:
        """Send a client what it lacks until its socket blocks; called whenever it has drained."""
        connection = subscription.connection
        is_leaving = subscription.state is SubscriptionState.LEAVING
        for _ in range(MAX_BATCHES_PER_FEED):
            end = subscription.end_batch if is_leaving else self._open.number
            if connection.is_closing or subscription.cursor == end:
                self._stop_feeding(subscription)
                return
            batch = self._batch_at(subscription.cursor)
            accepted = connection.send(batch.data_for(subscription))
            if is_leaving and batch.number + 1 == end:
                self._stop_feeding(subscription)
                return
            batch.waiting -= 1
            subscription.cursor += 1
            self._batch_at(subscription.cursor).waiting += 1
            self._trim()
            if not accepted:
                return
        asyncio.get_running_loop().call_soon(self._continue_feeding, subscription)

    def _continue_feeding(self, subscription: Subscription) -> None:
        # It may have been removed meanwhile, or have an answer pending: then `on_drained` feeds it.
        if subscription in self._fed and not subscription.connection.write_pending:
            self._feed(subscription)

    def _stop_feeding(self, subscription: Subscription) -> None:
        if subscription.state is SubscriptionState.LAGGING:
            self._set_state(subscription, SubscriptionState.READY)
        else:
            self._end(subscription, delivered=True)

    def _end(self, subscription: Subscription, delivered: bool) -> None:
        if subscription.state is not SubscriptionState.GONE:
            self._set_state(subscription, SubscriptionState.GONE)
        # It is cancelled if the session was cancelled while waiting for it.
        if subscription.delivered and not subscription.delivered.done():
            subscription.delivered.set_result(delivered)

    def _batch_at(self, number: int) -> Batch:
        if number == self._open.number:
            return self._open
        return self._batches[number - self._batches[0].number]

    def _trim(self) -> None:
        """Remove the batches before the slowest cursor."""
        while self._batches and not self._batches[0].waiting:
            self.backlog -= self._batches.popleft().memory_cost
        self._pause_or_resume_input()

    # --- flow control ---

    def _pause_or_resume_input(self) -> None:
        if not self.gate.is_backlogged and self.backlog > self._bound:
            self.gate.hold(PauseReason.BACKLOG, True)
            self._find_stragglers()
            self._schedule_check()
        elif self.gate.is_backlogged and self.backlog <= self._bound // 2:
            self.gate.hold(PauseReason.BACKLOG, False)
            self._stragglers.clear()
            if self._next_check:
                self._next_check.cancel()
                self._next_check = None

    def _schedule_check(self) -> None:
        leeways = (straggler.leeway for straggler in self._stragglers.values())
        least = min(leeways, default=self._budget.leeway)
        interval = max(least / CHECKS_PER_LEEWAY, SHORTEST_CHECK)
        loop = asyncio.get_running_loop()
        self._next_check = loop.call_later(interval, self._check_stragglers, loop.time(), interval)

    def _check_stragglers(self, began: float, interval: float) -> None:
        """Evict the clients that are too slow; repeated while input is paused."""
        self._next_check = None
        elapsed = asyncio.get_running_loop().time() - began
        charged = elapsed if elapsed <= interval + LATE_LIMIT else 0.0
        self._find_stragglers()
        now = self._clock.running_time()
        for subscription in self._budget.judge(self._stragglers, charged, now):
            self.evicted += 1
            self.remove(subscription)
            subscription.interrupt(LeaveReason.TOO_SLOW)
        if self.gate.is_backlogged and self._next_check is None:
            self._schedule_check()

    def _find_stragglers(self) -> None:
        """Update `_stragglers`: the clients more than half the bound behind, and their progress."""
        now = self._clock.running_time()
        known, self._stragglers = self._stragglers, {}
        for subscription in self._fed:
            batch = self._batch_at(subscription.cursor)
            behind = 0 if batch is self._open else self._stream_position - batch.start
            if behind > self._bound // 2:
                connection = subscription.connection
                position = batch.start - connection.unsent
                straggler = known.get(subscription)
                if straggler is None:
                    key = network_of(connection.peer)
                    leeway = self._budget.leeway_for(key, subscription.joined_at, now)
                    straggler = Straggler(key, leeway, position)
                straggler.position = position
                self._stragglers[subscription] = straggler
