"""How long clients may keep input paused: time budgets by address, and the pace that costs none.

While input is paused, a *straggler* is a client that is more than half the backlog's bound behind:
input stays paused until there is none. A straggler has to read at the required pace, half the bound
in one grace time. The seconds by which it misses that pace are its *lateness*; what exceeds its
leeway is charged to the budget of its address. A client is too slow when it has taken nothing for
the stall time, or when it is charged and the budget of its address is spent. Once it is dropped all
the time for which it was late counts twice.

A budget belongs to an address, not to a client, so that a client that is dropped and joins again
finds the budget as it left it. It cannot cost a neighbour its place who reads at the required pace:
such a client is never charged.

Values in, decisions out: nothing here knows the event loop, a socket or the time.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import TypeVar

STALL_TIME = 1.0
"""Seconds for which a straggler may take nothing; at most the grace time. With one of 50 clients
stalled, a burst that Redis delivers in 1.6 s takes as long as that, not the whole grace time."""

VISIBLE_STEP = 262_144
"""Bytes: a socket reports room only when a third of its send buffer is free (`server.SEND_BUFFER`,
doubled by Linux), so this is how much a client reads between two signs of progress. A reader must
take that much within its leeway to be known from one that stalls, whatever grace is set."""

REFILL_RATE = 0.1
"""Seconds that a spent budget regains per second: stragglers that never stop trying keep input
paused for a tenth of the time."""

ACCOUNT_LIMIT = 1024
"""Addresses whose budgets are remembered, some 200 KB; of more, the one charged least recently is
forgotten. Whoever has that many addresses has that many budgets anyway."""

IPV6_PREFIX_LENGTH = 64
"""Bits of an IPv6 address that share a budget: one subscriber has all the addresses behind them."""

Client = TypeVar("Client")


def budget_key(peer: str) -> str:
    """Return what a client is charged under: the host of its `host:port`, for IPv6 its network."""
    host = peer.rpartition(":")[0]
    if not host.startswith("["):
        return host
    address = ipaddress.IPv6Address(host[1:-1].partition("%")[0])
    return f"[{int(address) >> (address.max_prefixlen - IPV6_PREFIX_LENGTH):x}]"


class Straggler:
    """A client that keeps input paused, from the moment it does until it has caught up."""

    __slots__ = (
        "charged",
        "key",
        "lateness",
        "leeway",
        "overdue",
        "position",
        "previous",
        "stalled_for",
    )

    def __init__(self, key: str, leeway: float, position: int) -> None:
        self.key = key
        self.leeway = leeway  # seconds of lateness that are not charged
        self.position = position  # bytes of the backlog's stream that it has taken so far
        self.previous = position  # the same at the end of the previous time slice
        self.lateness = 0.0  # seconds, 0 to `leeway`
        self.overdue = 0.0  # seconds of the last time slice that exceeded the leeway
        self.charged = 0.0  # seconds of all time slices that exceeded the leeway
        self.stalled_for = 0.0  # seconds since it last took anything

    def advance(self, seconds: float, pace: float) -> None:
        """Account for a time slice and what was taken in it; `pace` in bytes per second."""
        taken = self.position - self.previous
        # An answer to a command counts as unsent too, so the position may fall and rise again.
        self.previous = max(self.position, self.previous)
        self.stalled_for = 0.0 if taken > 0 else self.stalled_for + seconds
        lateness = max(0.0, self.lateness + seconds - max(0, taken) / pace)
        self.lateness = min(lateness, self.leeway)
        self.overdue = lateness - self.lateness
        self.charged += self.overdue


class _Account:
    """The budget of one address, remembered while it is not full."""

    __slots__ = ("balance", "spent_at", "updated_at")

    def __init__(self, balance: float, now: float) -> None:
        self.balance = balance  # seconds left; negative in debt
        self.updated_at = now
        self.spent_at: float | None = None  # when it ran out; None once it covers a leeway again


class PauseBudget:
    """Decides who keeps input paused for too long; `grace` is the seconds in a full budget.

    `bound` is the backlog's, in bytes. All times are seconds on one clock that never goes back.
    """

    def __init__(self, bound: int, grace: float, stall_time: float = STALL_TIME) -> None:
        self._grace = grace
        self._stall_time = min(stall_time, grace)
        self.leeway = self._stall_time / 2
        """Seconds: twice the time between two signs of progress would be 0.6 s at the pace that the
        defaults require, so a steady reader is late by less than this, and a stall by twice it."""
        self.pace = max(bound / 2 / grace, VISIBLE_STEP / self.leeway)
        """Bytes per second: who reads at least that fast is never too slow."""
        self._accounts: dict[str, _Account] = {}  # the one charged least recently comes first

    def __len__(self) -> int:
        return len(self._accounts)

    def remaining(self, key: str, now: float) -> float:
        """Return the seconds left to an address; less than 0 while it is in debt."""
        account = self._accounts.get(key)
        if account is None:
            return self._grace
        account.balance = min(
            self._grace, account.balance + (now - account.updated_at) * REFILL_RATE
        )
        account.updated_at = now
        if account.balance >= self.leeway:
            account.spent_at = None
        return account.balance

    def leeway_for(self, key: str, joined_at: float, now: float) -> float:
        """Return the seconds by which a client may be late without being charged.

        A client that joined after the budget of its address was spent has a tenth of the time since
        then, so that one that is dropped and joins again at once keeps input paused for a tenth of
        the time. The more the address is in debt, the less it has: otherwise many such clients
        could take turns.
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
        """Charge a time slice that has just passed, and return the clients that are too slow."""
        charges: dict[str, float] = {}
        for straggler in stragglers.values():
            straggler.advance(seconds, self.pace)
            charges[straggler.key] = max(charges.get(straggler.key, 0.0), straggler.overdue)
        for key, charge in charges.items():
            self._charge(key, charge, now)
        too_slow = [
            client for client, straggler in stragglers.items() if self._is_too_slow(straggler, now)
        ]
        fines: dict[str, float] = {}
        for straggler in map(stragglers.__getitem__, too_slow):
            # All its time counts twice: the leeway is free only for those that catch up, and a
            # client that stalls, is dropped and rejoins has spent a budget in 6 s, not in 12.
            fine = straggler.charged + 2 * straggler.lateness
            fines[straggler.key] = max(fines.get(straggler.key, 0.0), fine)
        for key, charge in fines.items():
            self._charge(key, charge, now)
        return too_slow

    def _is_too_slow(self, straggler: Straggler, now: float) -> bool:
        if straggler.stalled_for >= self._stall_time:
            return True
        return straggler.overdue > 0 and self.remaining(straggler.key, now) <= 0

    def _charge(self, key: str, seconds: float, now: float) -> None:
        """Take seconds off a budget: once for all clients of an address that were late together."""
        if seconds <= 0:
            return
        balance = max(-self._grace, self.remaining(key, now) - seconds)  # a debt has an end, too
        account = self._accounts.pop(key, None) or _Account(balance, now)
        account.balance = balance
        if balance <= 0 and account.spent_at is None:
            account.spent_at = now
        self._accounts[key] = account
        self._forget_accounts(now)

    def _forget_accounts(self, now: float) -> None:
        """Forget the budgets that are full again, as far as they come first, and those too many."""
        while self._accounts:
            oldest = next(iter(self._accounts))
            is_full = self.remaining(oldest, now) >= self._grace
            if not is_full and len(self._accounts) <= ACCOUNT_LIMIT:
                return
            del self._accounts[oldest]
