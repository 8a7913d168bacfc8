"""A room of many servers.

The way of a message: `publish` puts it into the write that is open, and at the end of the iteration
of the event loop the write is sealed, kept, and sent to Redis, which appends it to the log as one
entry (`write.lua`). Every server reads the log, and delivers each entry to its own clients within
the callback that brings it, its own entries too, so that all clients see one order. For these it
takes the write that it has kept, which knows the author, who is left out. Joins and leaves take the
same way: a client has joined when its entry has come back.

`link.py` tells the life of an outage.
"""

from __future__ import annotations

import asyncio
import datetime
from collections import deque

from ..errors import HandshakeError
from ..net.connection import Connection
from ..protocol import messages, notices
from ..protocol.blocks import Block
from ..protocol.framing import encode
from ..protocol.handshake import SHUTTING_DOWN, UNAVAILABLE
from ..server.batch import BATCH_SIZE
from ..server.clock import ServingClock
from ..server.history import History
from ..server.registry import Roster
from ..server.room import Member, Room, RoomOptions, SessionEvents
from .entries import (
    EVENT_COST,
    JOIN,
    LEAVE,
    SAY,
    Entry,
    Event,
    Join,
    Leave,
    Say,
    Write,
    parse_entry,
)
from .link import CutOffError, Link
from .resp import RedisConnection
from .scripts import Scripts
from .timing import HISTORY_LOG_LIMIT, IN_FLIGHT_LIMIT, ClusterTiming
from .url import parse_url

AWAY_NOTICE = "lost touch with the other servers: messages wait until they are back"

BACK_NOTICE = "back in touch with the other servers"

GONE = "connection lost"
"""Why a client leaves that did not wait until it had joined."""

NAMES_PER_SCAN, ENTRIES_PER_SCAN = 500, 32


class ClusterRoom(Room):
    """The clients of this server in a room of many."""

    def __init__(
        self,
        clock: ServingClock,
        options: RoomOptions,
        history: History | None,
        url: str,
        name: str,
        timing: ClusterTiming | None = None,
    ) -> None:
        super().__init__(clock, options, history)
        self._clock = clock
        self._timing = timing = timing or ClusterTiming()
        self._link = Link(parse_url(url), name, timing, clock, options.grace, self)
        self._roster = Roster()  # of all servers
        self._present: set[Member] = set()  # of this server, until they leave
        # Those that leave and whose entry has not come back, with what ends the wait for it.
        self._leaving: dict[Member, tuple[asyncio.Future[bool], asyncio.TimerHandle]] = {}
        self._open = Write()  # what has happened in this iteration
        self.writes: deque[Write] = deque()  # sealed, and not come back
        self._last_number = 0  # of a sealed write
        self._in_flight = 0  # bytes in all writes
        self._nothing_in_flight = asyncio.Event()
        self._nothing_in_flight.set()
        self._said = False  # whether a message was taken since the last flush
        self._holds: set[str] = set()  # why this room holds its senders
        self._attached = asyncio.Event()
        self._notice_due: asyncio.TimerHandle | None = None  # since it is away
        self._is_announced = False  # whether clients were told that it is away
        self._hold("away", True)
        clock.pause()

    def __len__(self) -> int:
        return len(self._present)

    # --- what sessions call ---

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
        self._add(Join(username, connection, events, joined), len(username))
        try:
            return await joined
        except BaseException:
            self._members -= 1
            if joined.done() and not joined.cancelled() and not joined.exception():
                self.remove(joined.result(), GONE)
            raise

    def leave(self, member: Member, why: str) -> asyncio.Future[bool]:
        """See `Room.leave`."""
        if member not in self._present or self._closed:
            self._release_name(member, why)
            return self._fanout.leave(member.subscription)
        loop = asyncio.get_running_loop()
        delivered: asyncio.Future[bool] = loop.create_future()
        timer = loop.call_later(self._timing.leave, self._on_left, member)
        self._leaving[member] = delivered, timer
        self._release_name(member, why)
        return delivered

    def remove(self, member: Member, why: str) -> None:
        """See `Room.remove`."""
        self._fanout.remove(member.subscription)
        self._release_name(member, why)

    def _release_name(self, member: Member, why: str) -> None:
        if member in self._present:  # otherwise it was cut off, and its name is not its own
            self._present.discard(member)
            self._add(Leave(member.name, why, member), len(member.name))

    def _on_left(self, member: Member) -> None:
        """Let a member go that has got everything that was said before it left."""
        if member not in self._leaving:
            return
        delivered, timer = self._leaving.pop(member)
        timer.cancel()

        def on_delivered(result: asyncio.Future[bool]) -> None:
            if not delivered.done():  # it is cancelled if the session does not wait any more
                delivered.set_result(result.result())

        self._fanout.leave(member.subscription).add_done_callback(on_delivered)

    def publish(self, member: Member, block: Block) -> None:
        """See `Room.publish`."""
        self._add(Say(member, block), len(block.data))

    async def roster(self) -> Roster:
        """See `Room.roster`."""
        return self._roster

    # --- writing ---

    def _add(self, event: Event, size: int) -> None:
        if self._open.events and self._open.size + size > BATCH_SIZE:
            self._seal()
        if not self._open.events:
            asyncio.get_running_loop().call_soon(self._seal)
            self._nothing_in_flight.clear()
        self._open.add(event, size)
        self._in_flight += size + EVENT_COST
        if self._in_flight > IN_FLIGHT_LIMIT:
            self._hold("in flight", True)

    def _seal(self) -> None:
        if self._open.events:
            write, self._open = self._open, Write()
            self._last_number += 1
            write.seal(self._link.server, self._last_number)
            self.writes.append(write)
            self._link.write(write)

    def _hold(self, why: str, wanted: bool) -> None:
        """Hold this server's senders, or let them go if nothing else holds them."""
        if wanted and why not in self._holds:
            self._holds.add(why)
            self._fanout.pause_input()
        elif not wanted and why in self._holds:
            self._holds.discard(why)
            self._fanout.resume_input()

    # --- what the link calls ---

    def take(self, entry: Entry) -> None:
        """Deliver an entry of the log to this server's clients."""
        if entry.server == self._link.server:
            self._take_own(entry)
        else:
            for kind, text in entry.events:
                if kind == SAY:
                    self._deliver(entry, Block(text, text.count(b"\n")), None)
                elif kind == JOIN:
                    self._roster.add(text.decode())
                    self._announce(notices.joined(text.decode()))
                elif kind == LEAVE:
                    name, _, why = text.decode().partition(" ")
                    self._roster.discard(name)
                    self._announce(notices.left(name, why))
        if self._said:
            self._said = False
            self._fanout.flush()

    def _take_own(self, entry: Entry) -> None:
        if not self.writes or self.writes[0].number != entry.number:
            raise CutOffError("Redis has what this server has not written")
        write = self.writes.popleft()
        names = (text.decode() for kind, text in entry.events if kind == JOIN)
        for event in write.events:
            if isinstance(event, Say):
                self._deliver(entry, event.block, event.member)
            elif isinstance(event, Join):
                self._take_join(event, next(names))
            else:
                self._roster.discard(event.name)
                if event.member:
                    self._on_left(event.member)
                self._announce(notices.left(event.name, event.why), event.member)
        self._in_flight -= write.size
        if self._in_flight <= IN_FLIGHT_LIMIT // 2:
            self._hold("in flight", False)
        if not self.writes and not self._open.events:
            self._nothing_in_flight.set()

    def _deliver(self, entry: Entry, block: Block, author: Member | None) -> None:
        subscription = None if author is None else author.subscription
        self._fanout.publish(subscription, block.data, block.lines)
        self._said = True
        self._remember(entry, block)

    def _remember(self, entry: Entry, block: Block) -> None:
        if self._history:
            said_at = datetime.datetime.fromtimestamp(entry.seconds)
            self._history.add(block, said_at, entry.position)

    def _take_join(self, join: Join, name: str) -> None:
        self._roster.add(name)
        if self._closed and not join.joined.done():
            join.joined.set_exception(HandshakeError(SHUTTING_DOWN))
        if join.joined.done():  # the client does not wait any more
            self._announce(notices.joined(name))
            self._add(Leave(name, GONE, None), len(name))
        else:
            member = self._admit(join.username, name, join.connection, join.events)
            self._present.add(member)
            join.joined.set_result(member)

    def floor(self, position: int) -> int:
        """Return the position from which the log is needed by a server that has read so far."""
        oldest = self._history.oldest_position if self._history else None
        return position if oldest is None else max(oldest, position - HISTORY_LOG_LIMIT)

    async def load(self, redis: RedisConnection, scripts: Scripts, position: int) -> None:
        """Load who is there and what was said, as of a position in the log or later.

        What has happened later is in the log, too; taking it again changes nothing.
        """
        cursor = b"0"
        while True:
            names = scripts.names
            cursor, found = await redis.ask("HSCAN", names, cursor, "COUNT", NAMES_PER_SCAN)
            for name in found[1::2]:
                self._roster.add(name.decode())
            if cursor == b"0":
                break
        said: list[tuple[Entry, Block]] = []  # the latest first
        lines = size = 0
        history = self._history
        while history and lines < history.most_lines and size < history.limit:
            before = (f"({position}-0", "-", "COUNT", ENTRIES_PER_SCAN)
            found = await redis.ask("XREVRANGE", scripts.log, *before)
            entries = [parse_entry(reply) for reply in found]
            for entry in entries:
                position = entry.position
                for kind, text in reversed(entry.events):
                    if kind == SAY:
                        said.append((entry, Block(text, text.count(b"\n"))))
                        lines, size = lines + said[-1][1].lines, size + len(text)
            if not entries:
                break
        for entry, block in reversed(said):
            self._remember(entry, block)

    def on_behind(self, is_behind: bool) -> None:
        """Hold the senders while a server is so far behind that the log grows too long."""
        self._hold("behind", is_behind)

    def on_attached(self, is_attached: bool) -> None:
        """Hold the senders while this server is away, and tell its clients if that lasts."""
        self._hold("away", not is_attached)
        if is_attached:
            self._attached.set()
            self._clock.resume()
            if self._notice_due:
                self._notice_due.cancel()
            if self._is_announced:
                self._tell(BACK_NOTICE)
            self._is_announced = False
        else:
            self._attached.clear()
            self._clock.pause()
            loop = asyncio.get_running_loop()
            self._notice_due = loop.call_later(self._timing.notice, self._tell, AWAY_NOTICE)
            self._hold("behind", False)

    def _tell(self, text: str) -> None:
        self._is_announced = True
        self._fanout.publish(None, encode(messages.notice(text)))

    def on_cut_off(self) -> None:
        """Disconnect all clients, and forget everything: this server begins anew."""
        for member in [*self._present, *self._leaving]:
            self._fanout.remove(member.subscription)
            member.events.on_cut_off()
        for delivered, timer in self._leaving.values():
            timer.cancel()
            if not delivered.done():
                delivered.set_result(False)
        for write in [*self.writes, self._open]:
            for event in write.events:
                if isinstance(event, Join) and not event.joined.done():
                    event.joined.set_exception(HandshakeError(UNAVAILABLE))
        self._present.clear()
        self._leaving.clear()
        self.writes.clear()
        self._open = Write()
        self._last_number = self._in_flight = 0
        self._hold("in flight", False)
        self._nothing_in_flight.set()
        self._roster = Roster()
        if self._history:
            self._history.clear()

    # --- the whole room ---

    async def open(self) -> None:
        """See `Room.open`."""
        await self._link.start()

    async def wait_closed(self) -> None:
        """Unregister, after what was written for the last clients has come back."""
        try:
            async with asyncio.timeout(self._timing.leave):
                await self._nothing_in_flight.wait()
                await self._link.close()
        except TimeoutError:
            pass  # the other servers will take this one for dead
        finally:
            self._link.stop()

    def statistics(self) -> dict[str, int]:
        """See `Room.statistics`."""
        return super().statistics() | self._link.statistics()
