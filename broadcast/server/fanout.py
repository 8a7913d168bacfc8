"""Publish once, deliver to all: the backlog, the cursors, the flow control.

Simpler ways fail. One `write` and `drain` a client a message costs two hundred times more and stops for good behind one reader that
stalls; a queue and a task a client multiply every message by the clients that lag; dropping what a slow client does not take
loses in silence. Here:

* What is published in one turn of the event loop is joined into one *batch*, and every client gets that same bytes object in one
  write. Idle, that adds no delay; under load, batches grow by themselves.
* A *ready* client has had every batch. One whose socket did not take all of it is *lagging*: whenever the system has taken what is under
  way, it is fed from the *backlog*, batch by batch, from its *cursor*, until it is level again. The backlog is one, shared, so the memory
  it takes does not depend on how many lag; with nobody lagging it is empty.
* When the backlog exceeds its bound, the room is *held*: sessions stop handling input, which senders feel as ordinary TCP
  backpressure. At half the bound it is released. Meanwhile the *stragglers*, which are more than
  half the bound behind, are judged by `budget`: a client that stalls is dropped after a second, one
  that is slow, or stalls again and again, when the budget of its address is spent, and one that
  takes half the bound in a grace time is waited for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from ..net.connection import Connection, send_to_all
from .batch import BATCH_SIZE, Batch, Subscription
from .budget import STALL_TIME, PauseBudget, Straggler, budget_key
from .clock import ServingClock

NOTICE_DELAY = 0.01
"""Seconds that a notice may wait for others, or for a message, to go out with: nobody sees it, and a thousand clients that join at once
take a hundredth of the writes."""

MAX_BATCHES_PER_FEED = 4
"""Batches fed to one client before the others get their turn: some 100 us."""

CHECKS_PER_LEEWAY = 4
"""Looks at the stragglers in the time that they may be late, 8 a second in general: time is missed
by one look at most. A look costs 0.7 us for each straggler (1.7 us the first time); while input is
not paused there is none."""

SHORTEST_CHECK = 0.002
"""Seconds between two looks at the stragglers, at least: with a few thousand of them a look takes
as long. It is a small part of the 40 ms and more in which a flood fills the backlog again."""

LATE_LIMIT = 0.1
"""Seconds by which a look at the stragglers may come late. A later one means that the process was
stopped (SIGSTOP, a suspended machine) or starved, and that it is not known yet what clients took
meanwhile: that time slice counts against nobody."""


class Fanout:
    """Delivers what is published to everyone who has joined, in one order for all, each author's own left out.

    `bound`: bytes of backlog at which the room is held; memory exceeds it by one batch. `grace`:
    seconds for which the clients of one address may keep the room held by reading too slowly.
    `stall_time`: seconds for which one of those may take nothing.

    From `join` on a client gets every block, or `on_evicted` is called and it gets nothing more. Nothing here waits for a client: `publish`
    returns at once, and whoever publishes looks at `held` before.
    """

    def __init__(
        self, clock: ServingClock, bound: int, grace: float, stall_time: float = STALL_TIME
    ) -> None:
        self._clock = clock
        self._bound = bound
        self._budget = PauseBudget(bound, grace, stall_time)
        self._open = Batch(0)  # what is published and not flushed yet
        self._flush_due = False  # while a flush is scheduled for the end of the turn
        self._notices_due: asyncio.TimerHandle | None = (
            None  # while one is scheduled for notices alone
        )
        self.deliveries = 0  # lines times those who get them, since the beginning
        self.dropped = 0  # clients too slow, likewise
        self._closed = False  # from `close` on
        self._ready: dict[Connection, Subscription] = {}  # have had every batch before the open one
        self._lagging: dict[
            Subscription, None
        ] = {}  # have a cursor, and something under way or a turn to come
        self._backlog: deque[Batch] = (
            deque()
        )  # the batches from the slowest cursor on; empty while nobody lags
        self._backlog_size = 0
        self._stream_position = 0  # of all batches that were ever in the backlog
        self._input_allowed = asyncio.Event()  # set while the room is not held
        self._input_allowed.set()
        self._publish_lock = asyncio.Lock()  # held by who is next to publish once the room is released; asyncio's is first come, first delivered
        # While the room is held: those that it waits for, as of the last look.
        self._stragglers: dict[Subscription, Straggler] = {}
        self._next_check: asyncio.TimerHandle | None = None  # while the room is held

    # --- who takes part ---

    def join(self, connection: Connection, on_evicted: Callable[[], None]) -> Subscription:
        """Let a client take part: it gets what is published from now on."""
        receiver = Subscription(connection, on_evicted, self._clock.running_time())
        if self._open.size:
            self._open.exclude(receiver, 0, self._open.size)
        self._ready[receiver.connection] = receiver
        return receiver

    def leave(self, receiver: Subscription) -> asyncio.Future[None]:
        """Let a client go: it gets what was published up to now; the future is done when its connection has taken all of it, or is gone."""
        if receiver.delivered is None:
            receiver.delivered = asyncio.get_running_loop().create_future()
            receiver.end_batch = self._open.number
            if self._open.size:
                self._open.exclude(receiver, self._open.size, None)
                receiver.end_batch += 1
            elif receiver.connection in self._ready:
                self._reclassify(receiver)
        return receiver.delivered

    def drop(self, receiver: Subscription) -> None:
        """Forget a client: it gets nothing more, whatever it is owed."""
        self._ready.pop(receiver.connection, None)
        self._stop_lagging(receiver)

    def close(self, last: bytes) -> None:
        """Publish a last block and let everyone go; what is published after that goes nowhere."""
        self.publish(None, last)
        self._flush()
        self._closed = True
        for receiver in [*self._ready.values(), *self._lagging]:
            self.leave(receiver)

    # --- publishing ---

    @property
    def lagging(self) -> int:
        """How many clients have not taken all they were sent."""
        return len(self._lagging)

    @property
    def backlog(self) -> int:
        """Bytes kept for them."""
        return self._backlog_size

    @property
    def input_paused(self) -> bool:
        """Whether input has to wait because too much is owed to those who read slowly."""
        return not self._input_allowed.is_set()

    @property
    def must_wait_to_publish(self) -> bool:
        """Whether who comes now to publish has to wait, for the room or for others who do."""
        return self.input_paused or self._publish_lock.locked()

    async def wait_to_publish(self) -> None:
        """Wait while the room is held, those who wait in the order of coming: to be called before each block.

        Were all let in at once when it is released, the first few would fill it again each time, and the others never get in. Who comes between
        two of them goes before the second: made to queue up too, all would go on in step, a block a turn, for as long as there are some.
        """
        if self.must_wait_to_publish:
            async with self._publish_lock:
                while self.input_paused:
                    await self._input_allowed.wait()

    def publish(
        self, author: Subscription | None, block: bytes, lines: int = 1, *, defer: bool = False
    ) -> None:
        """Send whole lines, that many, to everyone but their author, at the end of this turn; those that can wait, with what comes next or NOTICE_DELAY later."""
        if self._closed:
            return
        if self._open.size + len(block) > BATCH_SIZE:
            self._flush()
        batch = self._open
        batch.blocks.append(block)
        takes_part = author is not None and (
            author.connection in self._ready or author in self._lagging
        )
        self.deliveries += lines * (len(self._ready) + len(self._lagging) - takes_part)
        if author and takes_part:
            batch.exclude(author, batch.size, batch.size + len(block))
        batch.size += len(block)
        if defer:
            if not self._notices_due:
                self._notices_due = asyncio.get_running_loop().call_later(NOTICE_DELAY, self._flush)
        elif not self._flush_due:
            self._flush_due = True
            asyncio.get_running_loop().call_soon(self._flush_at_end_of_iteration)

    def _flush_at_end_of_iteration(self) -> None:
        self._flush_due = False
        self._flush()

    def _flush(self) -> None:
        """Hand the open batch to everyone who is ready, and keep it for those who lag."""
        if self._notices_due:
            self._notices_due.cancel()
            self._notices_due = None
        batch = self._open
        if not batch.size:
            return
        self._open = Batch(batch.number + 1)
        data = batch.seal()
        with_parts = [
            receiver for receiver in batch.excluded if self._ready.pop(receiver.connection, None)
        ]
        behind = [self._ready[connection] for connection in send_to_all(self._ready, data)]
        for receiver in with_parts:
            if part := batch.data_for(receiver):
                receiver.connection.send(part)
        if self._lagging:
            self._backlog.append(batch)
            batch.start = self._stream_position
            self._stream_position += batch.memory_cost
            self._backlog_size += batch.memory_cost
        for receiver in behind + with_parts:
            self._reclassify(receiver)
        self._pause_or_resume_input()

    # --- those who lag ---

    def _reclassify(self, receiver: Subscription) -> None:
        """Sort a client in that has had every batch, or can't have more: lagging with something under way, delivered for good, or ready."""
        if receiver.connection.write_pending:
            self._ready.pop(receiver.connection, None)
            self._lagging[receiver] = None
            receiver.cursor = self._open.number
            self._open.waiting += 1
            receiver.connection.on_drained = lambda: self._feed(receiver)
        elif receiver.delivered and (
            receiver.end_batch <= self._open.number or receiver.connection.is_closing
        ):
            self._ready.pop(receiver.connection, None)
            if (
                not receiver.delivered.done()
            ):  # its session may have given up waiting in this very turn
                receiver.delivered.set_result(None)
        else:
            self._ready[receiver.connection] = receiver

    def _feed(self, receiver: Subscription) -> None:
        """Feed a lagging client from the backlog what the system takes; called again when it has taken it, until the client is level, or gone."""
        connection = receiver.connection
        for _ in range(MAX_BATCHES_PER_FEED):
            if connection.is_closing or receiver.cursor >= min(receiver.end_batch, self._open.number):
                self._stop_lagging(receiver)
                self._reclassify(receiver)
                return
            is_taken = connection.send(self._batch(receiver.cursor).data_for(receiver))
            self._advance_cursor(receiver, receiver.cursor + 1)
            if not is_taken:
                return
        asyncio.get_running_loop().call_soon(self._continue_feeding, receiver)

    def _continue_feeding(self, receiver: Subscription) -> None:
        # In the meantime it may have been dropped, or sent an answer, at the end of which it is fed again.
        if receiver in self._lagging and not receiver.connection.write_pending:
            self._feed(receiver)

    def _batch(self, number: int) -> Batch:
        return (
            self._open
            if number == self._open.number
            else self._backlog[number - self._backlog[0].number]
        )

    def _advance_cursor(self, receiver: Subscription, number: int) -> None:
        self._batch(number).waiting += 1
        self._batch(receiver.cursor).waiting -= 1
        receiver.cursor = number
        self._trim()

    def _stop_lagging(self, receiver: Subscription) -> None:
        if receiver in self._lagging:
            del self._lagging[receiver]
            receiver.connection.on_drained = None
            self._batch(receiver.cursor).waiting -= 1
            self._trim()

    def _trim(self) -> None:
        """Drop the batches before the slowest cursor."""
        while self._backlog and not self._backlog[0].waiting:
            self._backlog_size -= self._backlog.popleft().memory_cost
        self._pause_or_resume_input()

    # --- flow control ---

    def _pause_or_resume_input(self) -> None:
        if not self.input_paused and self._backlog_size > self._bound:
            self._input_allowed.clear()
            self._clock.pause()
            self._find_stragglers()
            self._schedule_check()
        elif self.input_paused and self._backlog_size <= self._bound // 2:
            self._input_allowed.set()
            self._clock.resume()
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
        """Drop the clients that are too slow; called again and again while input is paused."""
        self._next_check = None
        elapsed = asyncio.get_running_loop().time() - began
        counted = elapsed if elapsed <= interval + LATE_LIMIT else 0.0
        self._find_stragglers()
        for receiver in self._budget.judge(self._stragglers, counted, self._clock.running_time()):
            self.dropped += 1
            self.drop(receiver)
            receiver.on_evicted()
        if self.input_paused and self._next_check is None:
            self._schedule_check()

    def _find_stragglers(self) -> None:
        """Update `_stragglers`: who is more than half the bound behind, and what each has taken."""
        behind, first_near = 0, 0  # the first batch that is not that far from the end
        for batch in reversed(self._backlog):
            behind += batch.memory_cost
            if behind > self._bound // 2:
                first_near = batch.number + 1
                break
        now = self._clock.running_time()
        known, self._stragglers = self._stragglers, {}
        for receiver in self._lagging:
            if receiver.cursor < first_near:
                position = self._batch(receiver.cursor).start - receiver.connection.unsent
                straggler = known.get(receiver)
                if straggler is None:
                    key = budget_key(receiver.connection.peer)
                    leeway = self._budget.leeway_for(key, receiver.joined_at, now)
                    straggler = Straggler(key, leeway, position)
                straggler.position = position
                self._stragglers[receiver] = straggler
