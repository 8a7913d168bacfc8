"""A room of many servers.

The life of a message: `publish` adds it to this server's events. Once Redis has executed what was
sent before, `log.py` sends all events since then as one write, which is kept, and `write.lua`
appends it to the log as one entry. Each server delivers the entries of the log to its own clients
(`take`), in one order; its writes tell whom to leave out. Joins and leaves go the same way.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from ..errors import HandshakeError, LostError
from ..net.connection import Connection
from ..protocol import framing, messages, notices
from ..protocol.blocks import Block
from ..protocol.handshake import UNAVAILABLE
from ..protocol.names import name_key
from ..server.batch import BATCH_SIZE
from ..server.clock import ServingClock
from ..server.gate import PauseReason
from ..server.history import History
from ..server.reasons import Interrupt, LeaveReason
from ..server.registry import Roster
from ..server.room import Member, Room
from ..server.settings import Settings
from ..server.watchdog import RECHECK_DELAY
from .entries import END, JOIN, LEAVE, SAY, Entry, block_of, parse_entry, position_of
from .resp import RedisConnection, encode
from .scripts import Scripts

# Bytes in flight, EVENT_COST for each event included, above which senders wait at once; above half
# of it, they wait from the next iteration on, so that no chunk is split.
IN_FLIGHT_LIMIT = 256 * 1024
EVENT_COST = 300  # bytes of memory, about, that an event takes up besides its text
SETTLE_INTERVAL = 0.01  # seconds between checks that everything has come back
LOAD_SIZE = 1024 * 1024  # bytes of the history, about, that are loaded at once
HISTORY_LOG_LIMIT = 16 * 1024 * 1024  # bytes kept for the history; joins and leaves are among them


class Newcomer(NamedTuple):
    """A client that asks for a name; `joined` is done early if it no longer waits."""

    username: str
    connection: Connection
    interrupt: Interrupt
    joined: asyncio.Future[Member]


class ClientEvent(NamedTuple):
    """What a client did (messages, a name asked for, or one given back, and why), or the end."""

    kind: bytes
    text: bytes | str
    key: str  # of the name, if it is about one
    who: Member | Newcomer | None  # stays here: the log has no use for it


class Write(NamedTuple):
    """Events that are sent together."""

    number: int  # of this server's writes, from 1
    events: list[ClientEvent]
    size: int


class ClusterRoom(Room):
    """This server's clients in a room that it shares with others: same Redis, same room's name."""

    def __init__(self, clock: ServingClock, settings: Settings, history: History | None) -> None:
        super().__init__(clock, settings, history)
        self.timing, self.grace = settings.cluster_timing, settings.grace
        self._leaving: dict[Member, asyncio.Event] = {}  # until their entries come back
        self.events: deque[ClientEvent] = deque()  # that are not part of a write yet
        self.on_event: Callable[[], None] = lambda: None  # called for each; set by `RoomLog`
        self.writes: deque[Write] = deque()  # that have not come back
        self._joining: set[asyncio.Future[Member]] = set()  # of newcomers with a place reserved
        # The number of the last write; bytes of all events and writes that have not come back.
        self._last_number = self._in_flight = 0
        self._notice_due: asyncio.TimerHandle | None = None  # until clients are told: it is away
        self._limits: dict[asyncio.Timeout, float] = {}  # of those who wait, and their deadlines
        self.gate.hold(PauseReason.AWAY, True)

    async def join(self, username: str, connection: Connection, interrupt: Interrupt) -> Member:
        joined: asyncio.Future[Member] = asyncio.get_running_loop().create_future()
        try:
            async with self._limit_if_away(self.timing.newcomer):
                await self.gate.wait_turn()
                self.check_space(len(self._joining))
                self._joining.add(joined)
                self._add(JOIN, username, Newcomer(username, connection, interrupt, joined))
                return await joined
        except BaseException as problem:
            if joined.done() and not joined.cancelled() and not joined.exception():
                self.release_place(joined.result())
            if isinstance(problem, TimeoutError):
                raise HandshakeError(UNAVAILABLE) from None
            raise
        finally:
            self._joining.discard(joined)

    @contextlib.asynccontextmanager
    async def _limit_if_away(self, seconds: float) -> AsyncIterator[None]:
        """Raise TimeoutError if a block takes longer than this and the server is away by then."""
        deadline = asyncio.get_running_loop().time() + seconds
        is_away = self.gate.is_held(PauseReason.AWAY)
        async with asyncio.timeout_at(deadline if is_away else None) as limit:
            self._limits[limit] = deadline
            try:
                yield
            finally:
                del self._limits[limit]

    async def leave(self, member: Member, why: str) -> bool:
        has_left = None
        if member in self._present and not self._fanout.is_closed:
            has_left = self._leaving[member] = asyncio.Event()
        self._release_name(member, why)
        if has_left:
            try:
                async with self._limit_if_away(self.timing.leave):
                    await has_left.wait()
            except TimeoutError:
                await asyncio.sleep(RECHECK_DELAY)  # this process may have been stopped
                if not has_left.is_set():  # it may lack what was said on other servers before
                    self._fanout.remove(member.subscription)
                    member.subscription.interrupt(LeaveReason.OUT_OF_SYNC)
        return await self._fanout.leave(member.subscription)

    def _release_name(self, member: Member, why: str) -> None:
        if member in self._present:  # otherwise it was cut off, and the name is not its own
            self._present.discard(member)
            self._add(LEAVE, f"{member.name} {why}", member)

    def publish(self, member: Member, block: Block) -> None:
        self._add(b"%b %d" % (SAY, block.lines), block.data, member)

    def _add(self, kind: bytes, text: bytes | str, who: Member | Newcomer | None) -> None:
        key = name_key(text.partition(" ")[0]) if isinstance(text, str) else ""
        self.events.append(ClientEvent(kind, text, key, who))
        self._in_flight += len(text) + EVENT_COST
        if self._in_flight > IN_FLIGHT_LIMIT:
            self._pace()
        elif self._in_flight > IN_FLIGHT_LIMIT // 2:
            asyncio.get_running_loop().call_soon(self._pace)
        self.on_event()

    def _pace(self) -> None:
        self.gate.hold(PauseReason.IN_FLIGHT, self._in_flight > IN_FLIGHT_LIMIT // 2)

    def next_write(self) -> Write | None:
        """Turn the next events, about a batch at most, into a write; return None without any."""
        events: list[ClientEvent] = []
        size = 0
        while self.events and (size + len(self.events[0].text) < BATCH_SIZE or not events):
            events.append(self.events.popleft())
            size += len(events[-1].text) + EVENT_COST
        if not events:
            return None
        self._last_number += 1
        self.writes.append(Write(self._last_number, events, size))
        return self.writes[-1]

    def take(self, entry: Entry, *, is_own: bool) -> None:
        """Deliver an entry of the log, perhaps this server's own, to this server's clients."""
        own: list[ClientEvent] = []
        if is_own:
            if not self.writes or self.writes[0].number != entry.number:
                raise LostError("Redis has what this server has not written")
            own = self.writes[0].events
            self._in_flight -= self.writes.popleft().size
            self._pace()
        for place, (kind, text) in enumerate(entry.events):
            who = own[place].who if own else None
            member = who if isinstance(who, Member) else None
            if block := block_of(kind, text):
                author = member.subscription if member else None
                self._fanout.publish(author, text, block.lines)
                if self._history:
                    self._history.add(block, entry.seconds, position_of(entry.id))
            elif kind == JOIN:
                self._take_join(text.decode(), who if isinstance(who, Newcomer) else None)
            elif kind == LEAVE:
                self._take_leave(text.decode(), member)

    def _take_join(self, name: str, newcomer: Newcomer | None) -> None:
        self._roster.add(name)
        if newcomer and not newcomer.joined.done():
            asked, connection, interrupt, joined = newcomer
            self._joining.discard(joined)  # from here on it is a member, which takes a place itself
            try:
                self.check_space()
                joined.set_result(self._admit(asked, name, connection, interrupt))
                return
            except HandshakeError as problem:
                joined.set_exception(problem)
        self._announce(notices.joined(name))
        if newcomer:  # it does not wait any more
            self._add(LEAVE, f"{name} {LeaveReason.LOST.value}", None)

    def _take_leave(self, text: str, member: Member | None) -> None:
        name, _, why = text.partition(" ")
        self._roster.discard(name)
        if member:
            self._fanout.leave(member.subscription)
            self._leaving.pop(member, asyncio.Event()).set()
        self._announce(notices.left(name, why), member)

    def oldest_needed(self, position: int) -> int:
        """Return the first position that is needed by a server that has read up to `position`."""
        oldest = self._history.oldest_position if self._history else None
        return position if oldest is None else max(oldest, position - HISTORY_LOG_LIMIT)

    async def settle(self) -> None:
        """Wait until everything that this server has written has come back."""
        while self.events or self.writes:
            await asyncio.sleep(SETTLE_INTERVAL)

    async def finish(self) -> None:
        self.gate.hold(PauseReason.SHUTDOWN, True)
        if self._present and not self.gate.is_held(PauseReason.AWAY):
            self._add(END, b"", None)  # what others have said before comes back first
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.timing.notice):
                await self.settle()
        if self.events or self.writes or self.gate.is_held(PauseReason.AWAY):
            self._disconnect_all()  # they may lack what was said on other servers

    def _disconnect_all(self) -> None:
        for member in [*self._present, *self._leaving]:
            self._fanout.remove(member.subscription)
            member.subscription.interrupt(LeaveReason.OUT_OF_SYNC)

    async def load(self, redis: RedisConnection, scripts: Scripts, entry_id: bytes) -> None:
        """Load what was said before an entry of the log, and who is there, then or later."""
        names, cursor = list[str](), b""
        while cursor != b"0":
            scan = encode("HSCAN", scripts.names, cursor or 0, "COUNT", 10_000)
            cursor, found = await redis.ask(scan)
            names += map(bytes.decode, found[1::2])
        self._roster = Roster(names)
        if self._history:
            self._history.clear()
            log, start, end, count = scripts.log, b"-", b"(" + entry_id, 32
            while replies := await redis.ask(encode("XRANGE", log, start, end, "COUNT", count)):
                entries = [*map(parse_entry, replies)]
                start = b"(" + entries[-1].id
                size = position_of(entries[-1].id) - position_of(entries[0].id)
                count = 32 if size > LOAD_SIZE else 2 * count  # of small ones, more at once
                for entry in entries:
                    for kind, text in entry.events:
                        if block := block_of(kind, text):
                            self._history.add(block, entry.seconds, position_of(entry.id))

    def set_attached(self, is_attached: bool) -> None:
        """Hold the senders while this server is away, and tell its clients if that lasts."""
        self.gate.hold(PauseReason.AWAY, not is_attached)
        for limit, deadline in self._limits.items():
            if not limit.expired():
                limit.reschedule(None if is_attached else deadline)
        if not is_attached:
            loop = asyncio.get_running_loop()
            self._notice_due = loop.call_later(self.timing.notice, self._tell, notices.AWAY)
        elif self._notice_due:
            self._notice_due.cancel()
        else:  # also when it attaches for the first time, but then it has no clients yet
            self._tell(notices.BACK)

    def _tell(self, text: str) -> None:
        self._notice_due = None
        self._fanout.publish(None, framing.encode(messages.notice(text)))

    def on_cut_off(self) -> None:
        """Disconnect all clients, and forget what was written: this server begins anew."""
        self._disconnect_all()
        for joined in self._joining:
            if not joined.done():
                joined.set_exception(HandshakeError(UNAVAILABLE))
        for kept in (self._present, self._leaving, self.writes, self.events):
            kept.clear()  # nobody waits to leave any more: that was interrupted
        self._last_number = self._in_flight = 0
        self._pace()
