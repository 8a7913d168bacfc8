"""The log of a room, as one server writes and reads it.

A write is sent once Redis has executed the one before, with all that has happened since. Entries
are taken as they arrive, in the one order of the room; each names the one before it, so that a
missing one is noticed.
"""

import asyncio
import time
from collections import deque

from ..errors import LostError
from ..server.batch import BATCH_SIZE
from ..system.tasks import Start
from .entries import Entry, parse_entry, position_of
from .resp import Prefix, RedisConnection, Reply, encode
from .room import ClusterRoom, Write
from .scripts import Scripts

ENTRIES_PER_READ = 32  # each of a batch at most: 4 MB
REPORT_SIZE = 2 * 1024 * 1024  # bytes of the log, after each of which a heartbeat is sent early
FULL_DELAY = 0.05  # seconds between checks that there is room for what is written again


class RoomLog:
    """Writes what happens in a room, and has the room take what comes back from all servers."""

    def __init__(self, room: ClusterRoom, scripts: Scripts) -> None:
        self._room, self._scripts = room, scripts
        self.server = ""  # this server's ID; empty while it has none
        self.last, self.position = b"", 0  # ID and position of the last entry that was taken
        self.report_due = asyncio.Event()  # set when a heartbeat should be sent early
        self._writer: RedisConnection | None = None  # None while nothing may be written
        self._is_writing = False  # while a write is not answered
        self._reader: RedisConnection  # since `start_reading`, as is what starts a task
        self._start: Start
        self._entries: deque[Entry] = deque()  # that have arrived and are not taken yet
        self._read_wait = room.timing.heartbeat  # seconds after which Redis answers anyway
        most = ("COUNT", ENTRIES_PER_READ, "BLOCK", int(1000 * self._read_wait))
        self._read = Prefix("XREAD", *most, "STREAMS", scripts.log)  # the ID of an entry follows
        room.on_event = self._write

    def begin(self, server: str, entry_id: bytes) -> None:
        """Take part as a server whose first entry is this one."""
        self.server, self.last, self.position = server, entry_id, position_of(entry_id)

    async def start_writing(self, redis: RedisConnection, behind: int) -> None:
        """Read `behind` bytes, write again what has not come back, from then on what happens."""
        kept, end = [*self._room.writes], self.position + behind
        # A Redis that is full has room only then: heartbeats remove what all servers have read.
        while kept and self.position < end:
            await asyncio.sleep(FULL_DELAY)
        for write in kept:
            await redis.ask(self._encode(write))
        self._writer, self._is_writing = redis, False
        self._write()

    def stop_writing(self) -> None:
        """Keep what happens from now on."""
        self._writer = None

    def _write(self) -> None:
        if self._writer and not self._is_writing and (write := self._room.next_write()):
            self._is_writing = True
            self._writer.send(self._encode(write), self._on_written)

    def _on_written(self, _: Reply) -> None:
        self._is_writing = False
        self._write()

    def _encode(self, write: Write) -> bytes:
        words = [word for kind, text, key, _ in write.events for word in (kind, text, key)]
        about = (self.server, write.number, write.size, int(time.time()))
        return self._scripts.call("write", *about, *words)

    def start_reading(self, redis: RedisConnection, start: Start) -> None:
        """Take all entries after the last one that was taken; `start` runs what has to wait."""
        self._reader, self._start = redis, start
        self._entries.clear()
        self._ask_for_more()

    def _ask_for_more(self) -> None:
        self._reader.send(encode(self.last, after=self._read), self._on_entries, self._read_wait)

    def _on_entries(self, reply: Reply) -> None:
        self._entries.extend(map(parse_entry, reply[0][1] if reply else ()))
        self._take_entries()

    def _take_entries(self) -> None:
        """Take about a batch of the entries that have arrived, none while readers lag."""
        end = self.position + BATCH_SIZE
        while self._entries and self.position < end and not self._room.gate.is_backlogged:
            self._take(self._entries.popleft())
        self._room.flush()
        if self._entries:
            self._start(self._take_rest())
        else:
            self._ask_for_more()

    async def _take_rest(self) -> None:
        await self._room.gate.wait_for_readers()
        self._take_entries()

    def _take(self, entry: Entry) -> None:
        if entry.before != self.last:
            raise LostError("Redis no longer has what was said before")
        self._room.take(entry, is_own=entry.server == self.server)
        before, self.position, self.last = self.position, position_of(entry.id), entry.id
        if not entry.server or before // REPORT_SIZE < self.position // REPORT_SIZE:
            self.report_due.set()  # a server has come or gone, or waits for this one
