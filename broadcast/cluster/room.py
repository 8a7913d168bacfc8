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
from ..protocol.handshake import SHUTTING_DOWN, UNAVAILABLE
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

IN_FLIGHT_LIMIT = 256 * 1024
"""Bytes that were written and have not come back, above which senders wait; above half of them,
they wait after the iteration, so that what one has sent is not split. With 2 MiB, a delivery costs
20 % more."""

EVENT_COST = 300
"""Bytes that an event counts for in addition to its text."""

HISTORY_LOG_LIMIT = 16 * 1024 * 1024
"""Bytes at the end of the log that are kept for the history; joins and leaves are among them."""

AWAY_NOTICE = "lost touch with the other servers: messages wait until they are back"

BACK_NOTICE = "back in touch with the other servers"

GONE = "connection lost"
"""Why a client leaves that does not wait until it has joined."""


class ClusterRoom(Room):
    """The clients of this server in a room of many; the servers share `url` and `name`."""

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
        self._clock = clock
        self._timing = timing = timing or ClusterTiming()
        self._link = Link(parse_url(url), name, timing, clock, options.grace, self)
        self._roster = Roster()  # of all servers
        self._present: set[Member] = set()  # this server's, until they leave
        # Those that leave, until their entries come back, and what ends the wait for these.
        self._leaving: dict[Member, tuple[asyncio.Future[bool], asyncio.TimerHandle]] = {}
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
        try:
            async with asyncio.timeout(self._timing.newcomer):
                await self._attached.wait()
        except TimeoutError:
            raise HandshakeError(UNAVAILABLE) from None
        await self.wait_to_publish()
        self.check_space()
        self._members += 1
        joined: asyncio.Future[Member] = asyncio.get_running_loop().create_future()
        newcomer = Newcomer(username, connection, events, joined)
        self._write(Event(JOIN, username, newcomer=newcomer), len(username))
        try:
            return await joined
        except BaseException:
            self._members -= 1
            if joined.done() and not joined.cancelled() and not joined.exception():
                self.remove(joined.result(), GONE)
            raise

    def leave(self, member: Member, why: str) -> asyncio.Future[bool]:
        """See `Room.leave`."""
        delivered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        patience = self._timing.leave if member in self._present and not self._closed else 0
        timer = asyncio.get_running_loop().call_later(patience, self._let_go, member)
        self._leaving[member] = delivered, timer
        self._release_name(member, why)
        return delivered

    def remove(self, member: Member, why: str) -> None:
        """See `Room.remove`."""
        self._fanout.remove(member.subscription)
        self._release_name(member, why)

    def _release_name(self, member: Member, why: str) -> None:
        if member in self._present:  # otherwise it was cut off, and the name is not its own
            self._present.discard(member)
            self._write(Event(LEAVE, f"{member.name} {why}", member=member), len(member.name))

    def publish(self, member: Member, block: Block) -> None:
        """See `Room.publish`."""
        self._write(Event(SAY, said=[(member, block)]), len(block.data))

    async def roster(self) -> Roster:
        """See `Room.roster`."""
        return self._roster

    # --- writing ---

    def _write(self, event: Event, size: int) -> None:
        if self._open and self._open.size + size > BATCH_SIZE:
            self._send()
        if self._open is None:
            self._writes += 1
            self._open = Write(self._writes)
            asyncio.get_running_loop().call_soon(self._send)
        events = self._open.events
        if event.kind == SAY and events and events[-1].kind == SAY:
            events[-1].said += event.said
        else:
            events.append(event)
        self._open.size += size + EVENT_COST
        self._in_flight += size + EVENT_COST
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
            event = own.events[place] if own else Event(kind)
            if kind == SAY:
                for author, block in event.said or [(None, Block(text, text.count(b"\n")))]:
                    subscription = author.subscription if author else None
                    self._fanout.publish(subscription, block.data, block.lines)
                    self._remember(entry, block)
            elif kind == JOIN:
                self._take_join(text.decode(), event.newcomer)
            elif kind == LEAVE:
                name, _, why = text.decode().partition(" ")
                self._roster.discard(name)
                if event.member:
                    self._let_go(event.member)
                self._announce(notices.left(name, why), event.member)
        self._fanout.flush_due()

    def _take_write(self, entry: Entry) -> Write:
        if not self.writes or self.writes[0].number != entry.number:
            raise LostError("Redis has what this server has not written")
        write = self.writes.popleft()
        self._in_flight -= write.size
        if self._in_flight <= IN_FLIGHT_LIMIT // 2:
            self._fanout.resume_input("in flight")
        return write

    def _take_join(self, name: str, newcomer: Newcomer | None) -> None:
        self._roster.add(name)
        if newcomer and self._closed and not newcomer.joined.done():
            newcomer.joined.set_exception(HandshakeError(SHUTTING_DOWN))
        if newcomer and not newcomer.joined.done():
            asked, connection, events = newcomer.username, newcomer.connection, newcomer.events
            member = self._admit(asked, name, connection, events)
            self._present.add(member)
            newcomer.joined.set_result(member)
            return
        self._announce(notices.joined(name))
        if newcomer:
            self._write(Event(LEAVE, f"{name} {GONE}"), len(name))

    def _let_go(self, member: Member) -> None:
        """Let a member go that has been sent everything that was said before it left."""
        if member not in self._leaving:
            return
        delivered, timer = self._leaving.pop(member)
        timer.cancel()

        def on_delivered(result: asyncio.Future[bool]) -> None:
            if not delivered.done():  # it is cancelled if the session does not wait any more
                delivered.set_result(result.result())

        self._fanout.leave(member.subscription).add_done_callback(on_delivered)

    def _remember(self, entry: Entry, block: Block) -> None:
        if self._history:
            said_at = datetime.datetime.fromtimestamp(entry.seconds)
            self._history.add(block, said_at, entry.position)

    def floor(self, position: int) -> int:
        """Return from where the log is needed, if it has been taken up to a position."""
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
        if self._history is None:
            return
        self._history.clear()
        said: list[tuple[Entry, Block]] = []  # the latest first
        missing, room = self._history.most_lines, self._history.limit
        while missing > 0 and room > 0:
            scan = encode("XREVRANGE", log, f"({position}-0", "-", "COUNT", 32)
            if not (replies := await redis.ask(scan)):
                break
            for entry in map(parse_entry, replies):
                position = entry.position
                texts = [text for kind, text in entry.events if kind == SAY]
                said += [(entry, Block(text, text.count(b"\n"))) for text in reversed(texts)]
                missing -= sum(text.count(b"\n") for text in texts)
                room -= sum(map(len, texts))
        for entry, block in reversed(said):
            self._remember(entry, block)

    def pause_or_resume(self, pause: bool, why: str) -> None:
        """Hold the senders for one reason, or do so no longer."""
        (self._fanout.pause_input if pause else self._fanout.resume_input)(why)

    def on_attached(self, is_attached: bool) -> None:
        """Hold the senders while this server is away, and tell its clients if that lasts."""
        self.pause_or_resume(not is_attached, "away")
        if not is_attached:
            self._attached.clear()
            self._clock.pause()
            loop = asyncio.get_running_loop()
            self._notice_due = loop.call_later(self._timing.notice, self._tell_away)
            return
        self._attached.set()
        self._clock.resume()
        if self._notice_due:
            self._notice_due.cancel()
        else:
            self._fanout.publish(None, framing.encode(messages.notice(BACK_NOTICE)))

    def _tell_away(self) -> None:
        self._notice_due = None
        self._fanout.publish(None, framing.encode(messages.notice(AWAY_NOTICE)))

    def on_cut_off(self) -> None:
        """Disconnect all clients, and forget what was written: this server begins anew."""
        for member in [*self._present, *self._leaving]:
            self._fanout.remove(member.subscription)
            member.events.on_cut_off()
            self._let_go(member)
        for write in [*self.writes, self._open] if self._open else self.writes:
            for newcomer in filter(None, (event.newcomer for event in write.events)):
                if not newcomer.joined.done():
                    newcomer.joined.set_exception(HandshakeError(UNAVAILABLE))
        self._present.clear()
        self.writes.clear()
        self._open, self._writes, self._in_flight = None, 0, 0
        self._fanout.resume_input("in flight")

    # --- the whole room ---

    async def open(self) -> None:
        """See `Room.open`."""
        await self._link.start()

    async def wait_closed(self) -> None:
        """Unregister, after what was written for the last clients has come back."""
        with contextlib.suppress(TimeoutError):  # then the others will take this server for dead
            async with asyncio.timeout(self._timing.leave):
                while self.writes or self._open:
                    await asyncio.sleep(0.01)
                await self._link.unregister()
        await self._link.stop()

    def statistics(self) -> dict[str, int]:
        """See `Room.statistics`."""
        return super().statistics() | self._link.statistics()
