"""Limit how long clients may keep input paused, with a time budget for each address.

* *Straggler*: while input is paused, a client that is more than half the backlog's bound behind.
  Input stays paused until there is none.
* *Pace*: the speed at which a straggler must read: half the bound in one grace time.
* *Lateness*: the seconds by which a straggler misses that pace.
* *Leeway*: the lateness that is free.
* *Overdue*: the part of a time slice that exceeds the leeway. It is *charged* to the budget of the
  straggler's address.
* *Budget*: the seconds that may be charged to an address: one grace time, which refills slowly once
  it is used. Below 0 it is a debt. It belongs to an address, not to a client, so that a client
  cannot renew it by rejoining.
* *Trust*: the part, from 0 to 1, of its leeway that a newcomer keeps when its address is in debt.

A client is too slow when it has read nothing for the stall time, or when it is charged while the
budget of its address is spent. When it is evicted, all the time for which it was late counts twice.
A client that reads at the required pace is never charged, and so never evicted because of others.

Everything here is pure computation: it uses no event loop, no socket and no clock.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

STALL_TIME = 1.0
"""Seconds for which a straggler may read nothing, or the grace time if shorter: a client that
stalls delays a burst by this, not by the whole grace time."""

VISIBLE_STEP = 262_144
"""Bytes that a client reads between two visible signs of progress: a socket becomes writable only
when a third of its send buffer is free (`connection.SEND_BUFFER`, doubled by Linux). A reader must
read that much within its leeway to be distinguished from one that stalls, whatever grace is set."""

REFILL_RATE = 0.1
"""Seconds that a spent budget regains each second: stragglers that keep coming back can keep input
paused for a tenth of the time."""

ACCOUNT_LIMIT = 1024
"""Addresses whose budgets are remembered, some 200 KB. Beyond that, the address charged least
recently is forgotten; a peer with that many addresses has that many budgets anyway."""

Client = TypeVar("Client")


@dataclass(slots=True, eq=False)
class Straggler:
    """Tracks a client that keeps input paused, until it has caught up."""

    key: str
    leeway: float  # seconds of lateness that are not charged
    position: int  # bytes of the backlog's stream that it has read so far
    previous: int = field(init=False)  # the same at the end of the previous time slice
    lateness: float = 0.0  # seconds, 0 to `leeway`
    overdue: float = 0.0  # seconds of the last time slice that exceeded the leeway
    charged: float = 0.0  # seconds of all time slices that exceeded the leeway
    stalled_for: float = 0.0  # seconds since it last read anything

    def __post_init__(self) -> None:
        self.previous = self.position

    def advance(self, seconds: float, pace: float) -> None:
        """Account for a time slice and the progress made in it; `pace` is in bytes per second."""
        progress = self.position - self.previous
        # An answer to a command counts as unsent too, so the position may fall and rise again.
        self.previous = max(self.position, self.previous)
        self.stalled_for = 0.0 if progress > 0 else self.stalled_for + seconds
        lateness = max(0.0, self.lateness + seconds - max(0, progress) / pace)
        self.lateness = min(lateness, self.leeway)
        self.overdue = lateness - self.lateness
        self.charged += self.overdue


@dataclass(slots=True, eq=False)
class _Account:
    """The budget of one address, remembered while it is not full."""

    balance: float  # seconds left; negative in debt
    updated_at: float
    spent_at: float | None = None  # when it ran out; None once it covers a leeway again


class PauseBudget:
    """Decides which clients keep input paused for too long; a full budget is `grace` seconds.

    `bound` is the backlog's, in bytes. All times are seconds on one monotonic clock.
    """

    def __init__(self, bound: int, grace: float, stall_time: float = STALL_TIME) -> None:
        self._grace = grace
        self._stall_time = min(stall_time, grace)
        self.leeway = self._stall_time / 2
        """Seconds of lateness that are free: a steady reader is late by less, between two visible
        signs of progress, and a client that stalls by twice as much."""
        self.pace = max(bound / 2 / grace, VISIBLE_STEP / self.leeway)
        """Bytes per second: a client that reads at least this fast is never too slow."""
        self._accounts: dict[str, _Account] = {}  # the least recently charged first

    def __len__(self) -> int:
        return len(self._accounts)

    def remaining(self, key: str, now: float) -> float:
        """Return the seconds left in the budget of an address; negative while it is in debt."""
        account = self._accounts.get(key)
        if account is None:
            return self._grace
        refilled = account.balance + (now - account.updated_at) * REFILL_RATE
        account.balance = min(self._grace, refilled)
        account.updated_at = now
        if account.balance >= self.leeway:
            account.spent_at = None
        return account.balance

    def leeway_for(self, key: str, joined_at: float, now: float) -> float:
        """Return the seconds by which a client may be late without being charged.

        A client that joined after the budget of its address was spent has a tenth of the time since
        it joined, so that one that is evicted and rejoins at once keeps input paused for a tenth of
        the time. The more the address is in debt, the shorter it is: otherwise many such clients
        could alternate.
        """
        balance = self.remaining(key, now)
        account = self._accounts.get(key)
        if account is None or account.spent_at is None or joined_at < account.spent_at:
            return self.leeway
        trust = min(1.0, max(0.0, 1.0 + balance / self._grace))
        return min(self.leeway, (now - joined_at) * REFILL_RATE) * trust

    def judge(
        self, stragglers: Mapping[Client, Straggler], seconds: float, now: float
    ) -> list[Client]:
        """Charge for the time slice that has just passed; return the clients that are too slow."""
        for straggler in stragglers.values():
            straggler.advance(seconds, self.pace)
        self._charge(((late.key, late.overdue) for late in stragglers.values()), now)
        too_slow = [client for client, late in stragglers.items() if self._is_too_slow(late, now)]
        # All its lateness counts twice: the leeway is free only for those that catch up, and a
        # client that stalls and rejoins repeatedly spends the budget twice as fast.
        fined = [stragglers[client] for client in too_slow]
        self._charge(((late.key, late.charged + 2 * late.lateness) for late in fined), now)
        return too_slow

    def _is_too_slow(self, straggler: Straggler, now: float) -> bool:
        if straggler.stalled_for >= self._stall_time:
            return True
        return straggler.overdue > 0 and self.remaining(straggler.key, now) <= 0

    def _charge(self, charges: Iterable[tuple[str, float]], now: float) -> None:
        """Take seconds off budgets: once for all clients of an address that were late together."""
        most: dict[str, float] = {}
        for key, seconds in charges:
            most[key] = max(most.get(key, 0.0), seconds)
        for key, seconds in most.items():
            if seconds > 0:
                # Debt is bounded, too.
                balance = max(-self._grace, self.remaining(key, now) - seconds)
                account = self._accounts.pop(key, None) or _Account(balance, now)
                account.balance = balance
                if balance <= 0 and account.spent_at is None:
                    account.spent_at = now
                self._accounts[key] = account
                self._forget_accounts(now)

    def _forget_accounts(self, now: float) -> None:
        """Forget leading accounts that are full again or exceed ACCOUNT_LIMIT."""
        while self._accounts:
            oldest = next(iter(self._accounts))
            is_full = self.remaining(oldest, now) >= self._grace
            if not is_full and len(self._accounts) <= ACCOUNT_LIMIT:
                return
            del self._accounts[oldest]
