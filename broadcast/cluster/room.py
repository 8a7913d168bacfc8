"""A room of many servers.

The life of a message: `publish` adds it to the write of this iteration of the event loop, at whose
end the write is sent to Redis and kept. `write.lua` appends it to the log as one entry. Each server
reads the log, and delivers an entry to its own clients within the callback that brings it (`take`),
so that all clients see one order. Of its own entries, a server delivers what it has kept, which
says who the authors are, who are left out. Joins and leaves take the same way: a client has joined
when its entry comes back. The life of an outage is in `link.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections import deque

from ..errors import HandshakeError
from ..net.connection import Connection
from ..protocol import framing, messages, notices
from ..protocol.blocks import Block
from ..protocol.handshake import UNAVAILABLE
from ..server.batch import BATCH_SIZE
from ..server.clock import ServingClock
from ..server.history import History
from ..server.registry import Roster
from ..server.room import Member, Room, RoomOptions, SessionEvents
from .entries import JOIN, LEAVE, SAY, Entry, Event, Newcomer, Write, parse_entry
from .link import Link
from .resp import LostError, RedisConnection, encode
from .timing import ClusterTiming
from .url import parse_url

# Bytes that were written and have not come back, above which senders wait; above half of them, they
# wait from the next iteration on, so that what one has sent at once is not split. With 2 MiB, a
# delivery costs 20 % more. An event counts for EVENT_COST in addition to its text.
IN_FLIGHT_LIMIT, EVENT_COST = 256 * 1024, 300

# Bytes at the end of the log that are kept for the history; joins and leaves are among them.
HISTORY_LOG_LIMIT = 16 * 1024 * 1024

AWAY_NOTICE = "lost touch with the other servers: messages wait until they are back"
BACK_NOTICE = "back in touch with the other servers"
GONE = "connection lost"  # why a client leaves that did not wait until it had joined


class ClusterRoom(Room):
    """The clients of this server in a room of many: those with the same Redis and `name`."""

    def __init__(
        self,
        clock: ServingClock,
        options: RoomOptions,
        history: History | None,
        url: str,
        name: str,
        timing: ClusterTiming | None,
    ) -> None:
        super().__init__(clock, options, history)
        self._clock, self._timing = clock, timing or ClusterTiming()
        self.hold_limit = options.grace + self._timing.behind
        self._link = Link(self, parse_url(url), name, clock, self._timing)
        self._roster = Roster()  # of all servers
        self._present: set[Member] = set()  # this server's, until they leave
        self._leaving: dict[Member, asyncio.Event] = {}  # until their entries come back
        self._open: Write | None = None  # that of this iteration
        self.writes: deque[Write] = deque()  # sent, unless away, and not come back
        self._writes = 0  # since this server has its ID
        self._in_flight = 0  # bytes of all these writes
        self._attached = asyncio.Event()
        self._notice_due: asyncio.TimerHandle | None = None  # until clients are told: it is away
        self.on_attached(False)

    def __len__(self) -> int:
        return len(self._present)

    # --- what sessions do ---

    async def join(self, username: str, connection: Connection, events: SessionEvents) -> Member:
        """See `Room.join`."""
        joined: asyncio.Future[Member] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._timing.newcomer):
                await self._attached.wait()
            async with asyncio.timeout(self._timing.silence + self._timing.newcomer):
                await self.wait_to_publish()
                self.check_space()
                self._write(JOIN, username, Newcomer(username, connection, events, joined))
                return await joined
        except BaseException as problem:
            if joined.done() and not joined.cancelled() and not joined.exception():
                self.remove(joined.result(), GONE)
                self.release_place(joined.result())
            if isinstance(problem, TimeoutError):
                raise HandshakeError(UNAVAILABLE) from None
            raise

    def leave(self, member: Member, why: str) -> asyncio.Future[bool]:
        """See `Room.leave`."""
        if member in self._present and not self._closed:
            self._leaving[member] = asyncio.Event()
        self._release_name(member, why)
        return asyncio.ensure_future(self._leave(member))

    async def _leave(self, member: Member) -> bool:
        if has_left := self._leaving.get(member):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timing.leave):
                    await has_left.wait()
            del self._leaving[member]
        return await self._fanout.leave(member.subscription)

    def remove(self, member: Member, why: str) -> None:
        """See `Room.remove`."""
        self._fanout.remove(member.subscription)
        self._release_name(member, why)

    def _release_name(self, member: Member, why: str) -> None:
        if member in self._present:  # otherwise it was cut off, and the name is not its own
            self._present.discard(member)
            self._write(LEAVE, f"{member.name} {why}", member)

    def publish(self, member: Member, block: Block) -> None:
        """See `Room.publish`."""
        self._write(SAY, block.data, member)

    async def roster(self) -> Roster:
        """See `Room.roster`."""
        return self._roster

    def _write(self, kind: bytes, text: bytes | str, who: Member | Newcomer | None) -> None:
        size = len(text) + EVENT_COST
        if self._open and self._open.size + size > BATCH_SIZE:
            self._send()
        if self._open is None:
            self._writes += 1
            self._open = Write(self._writes)
            asyncio.get_running_loop().call_soon(self._send)
        self._open.events.append(Event(kind, text, who))
        self._open.size += size
        self._in_flight += size
        if self._in_flight > IN_FLIGHT_LIMIT:
            self._fanout.pause_input("in flight")

    def _send(self) -> None:
        if write := self._open:
            self._open = None
            self.writes.append(write)
            self._link.write(write)
            if self._in_flight > IN_FLIGHT_LIMIT // 2:
                self._fanout.pause_input("in flight")

    # --- what the link does ---

    def take(self, entry: Entry) -> None:
        """Deliver an entry of the log to this server's clients."""
        own = self._take_write(entry) if entry.server == self._link.server else None
        for place, (kind, text) in enumerate(entry.events):
            who = own.events[place].who if own else None
            member = who if isinstance(who, Member) else None
            if kind == SAY:
                block = Block(text, text.count(b"\n"))
                author = member.subscription if member else None
                self._fanout.publish(author, text, block.lines)
                self._remember(entry, block)
            elif kind == JOIN:
                self._take_join(text.decode(), who if isinstance(who, Newcomer) else None)
            elif kind == LEAVE:
                self._take_leave(text.decode(), member)
        self._fanout.flush_due()

    def _take_write(self, entry: Entry) -> Write:
        if not self.writes or self.writes[0].number != entry.number:
            raise LostError("Redis has what this server has not written")
        write = self.writes.popleft()
        self._in_flight -= write.size
        if self._in_flight <= IN_FLIGHT_LIMIT // 2:
            self._fanout.pause_input("in flight", False)
        return write

    def _take_join(self, name: str, newcomer: Newcomer | None) -> None:
        self._roster.add(name)
        if newcomer and not newcomer.joined.done():
            try:
                self.check_space()
            except HandshakeError as problem:
                newcomer.joined.set_exception(problem)
            else:
                asked, connection, events, joined = newcomer
                joined.set_result(member := self._admit(asked, name, connection, events))
                self._present.add(member)
                return
        self._announce(notices.joined(name))
        if newcomer:  # it does not wait any more
            self._write(LEAVE, f"{name} {GONE}", None)

    def _take_leave(self, text: str, member: Member | None) -> None:
        name, _, why = text.partition(" ")
        self._roster.discard(name)
        if member:
            self._fanout.leave(member.subscription)
            if has_left := self._leaving.get(member):
                has_left.set()
        self._announce(notices.left(name, why), member)

    def _remember(self, entry: Entry, block: Block) -> None:
        if self._history:
            said_at = datetime.datetime.fromtimestamp(entry.seconds)
            self._history.add(block, said_at, entry.position)

    def floor(self, position: int) -> int:
        """Return from where the log is needed by a server that has taken it up to a position."""
        oldest = self._history.oldest_position if self._history else None
        return position if oldest is None else max(oldest, position - HISTORY_LOG_LIMIT)

    async def load(self, redis: RedisConnection, names: str, log: str, position: int) -> None:
        """Load who is there and what was said before a position of the log.

        Names may be as of later: what has happened since is taken again, which changes nothing.
        """
        self._roster, cursor = Roster(), b""
        while cursor != b"0":
            scan = encode("HSCAN", names, cursor or 0, "COUNT", 500)
            cursor, found = await redis.ask(scan)
            for name in found[1::2]:
                self._roster.add(name.decode())
        if self._history:
            self._history.clear()
            start, end = "-", f"({position}-0"
            while replies := await redis.ask(encode("XRANGE", log, start, end, "COUNT", 32)):
                for entry in map(parse_entry, replies):
                    start = f"({entry.position}-0"
                    for text in (text for kind, text in entry.events if kind == SAY):
                        self._remember(entry, Block(text, text.count(b"\n")))

    def on_behind(self, is_behind: bool) -> None:
        """Hold the senders while a server is so far behind that the log gets too long."""
        self._fanout.pause_input("behind", is_behind)

    def on_attached(self, is_attached: bool) -> None:
        """Hold the senders while this server is away, and tell its clients if that lasts."""
        self._fanout.pause_input("away", not is_attached)
        if is_attached:
            self._attached.set()
            self._clock.resume()
            if self._notice_due:
                self._notice_due.cancel()
            else:
                self._tell(BACK_NOTICE)
        else:
            self._attached.clear()
            self._clock.pause()
            loop = asyncio.get_running_loop()
            self._notice_due = loop.call_later(self._timing.notice, self._tell, AWAY_NOTICE)

    def _tell(self, text: str) -> None:
        self._notice_due = None
        self._fanout.publish(None, framing.encode(messages.notice(text)))

    def on_cut_off(self) -> None:
        """Disconnect all clients, and forget what was written: this server begins anew."""
        for member in [*self._present, *self._leaving]:
            self._fanout.remove(member.subscription)
            member.events.on_cut_off()
        for has_left in self._leaving.values():
            has_left.set()
        for write in [*self.writes, self._open] if self._open else self.writes:
            for _, _, who in write.events:
                if isinstance(who, Newcomer) and not who.joined.done():
                    who.joined.set_exception(HandshakeError(UNAVAILABLE))
        self._present.clear()
        self.writes.clear()
        self._open, self._writes, self._in_flight = None, 0, 0
        self._fanout.pause_input("in flight", False)

    # --- the whole room ---

    async def open(self) -> None:
        """See `Room.open`."""
        await self._link.start()

    async def wait_closed(self) -> None:
        """See `Room.wait_closed`."""
        await self._link.close()

    def statistics(self) -> dict[str, int]:
        """See `Room.statistics`."""
        return super().statistics() | self._link.statistics()
