"""A server's link to the Redis of its room: attach, follow the log, notice an outage, attach again.

The life of an outage: a connection breaks, or Redis answers with an error, or not in time. Both
connections are dropped; the link is AWAY, and keeps what was written and has not come back. After a
growing delay, it connects again and asks `heartbeat.lua` whether Redis has the room as this server
knows it: epoch, registration, last entry. It reads on, writes what was kept, and is ATTACHED.

If Redis does not have it, or if an entry is missing, the link is CUT_OFF. Clients are told and
disconnected before anything else is delivered; the server begins anew as another (`hello.lua`).
"""

import asyncio
import contextlib
import enum
import logging
import random
import re
import secrets
import time
from collections.abc import Coroutine

from ..errors import BroadcastError, ClusterError
from ..net.dial import TLSHints, connect
from ..server.batch import BATCH_SIZE
from ..server.clock import ServingClock
from ..server.history import History
from ..server.settings import Settings
from .entries import parse_entry, position_of
from .neighbours import Neighbours
from .resp import LostError, RedisConnection, RedisError, encode
from .room import GONE, ClusterRoom
from .scripts import Scripts
from .url import RedisURL, parse_url

LOGGER = logging.getLogger("broadcast")

ENTRIES_PER_READ = 32  # each of a batch at most: 4 MB
REPORT_SIZE = 2 * 1024 * 1024  # bytes of the log, after each of which a heartbeat is sent early
TLS_HINTS = TLSHints("add ?ca=FILE to the URL", "use its host in the URL", "use redis://")
REAP_SLICE = 100  # names freed at once: 10,000 would block Redis for 70 ms
SHORTEST_DELAY = 0.05  # seconds between attempts to attach, or heartbeats while senders are held


class LinkState(enum.Enum):
    """Whether this server takes part in the room; changed only in `Link._enter`."""

    ATTACHED = enum.auto()
    AWAY = enum.auto()  # clients stay, senders wait, and newcomers are refused after a while
    CUT_OFF = enum.auto()  # the same, but clients have been disconnected, and the server has no ID


class Link:
    """Writes to the log for a room, and has the room take what comes back."""

    def __init__(self, room: ClusterRoom, url: RedisURL, name: str, clock: ServingClock) -> None:
        self._room, self._url, self._clock, self._timing = room, url, clock, room.timing
        self._scripts = Scripts(name)
        self._state = LinkState.AWAY
        self._away_since, self._logged = 0.0, ""  # in running time; why, as it was logged last
        self._retry_delay = 0.0  # seconds before the next attempt to attach
        self._task: asyncio.Task[None]  # since `start`
        self._connections: list[RedisConnection] = []  # to call scripts, and to read the log
        self.server = ""  # this server's ID; empty if it has none
        self._epoch = b""
        self._last, self._position = b"", 0  # ID and position of the last entry that was taken
        self.statistics: dict[str, int] = {}  # as of the last heartbeat
        self._beat_text, self._beats = "", 0  # the last heartbeat, and how many there were
        self._report_due = asyncio.Event()  # set to send one early

    def _enter(self, state: LinkState, reason: str = "") -> None:
        assert state is not LinkState.AWAY or self._state is LinkState.ATTACHED
        before, self._state = self._state, state
        if before is LinkState.ATTACHED:
            self._away_since, self._logged = self._clock.running_time(), ""
            self._room.on_attached(False)
        if state is LinkState.ATTACHED:
            if before is LinkState.AWAY and self._away_since:
                away = self._clock.running_time() - self._away_since
                LOGGER.info("attached again after %.1f s", away)
            self._room.on_attached(True)
        elif state is LinkState.CUT_OFF:
            LOGGER.warning("cut off: %s", reason)
            self.server = ""
            self._room.on_cut_off()

    async def start(self) -> None:
        """Attach. Raises ClusterError with the reason if that fails."""
        try:
            await self._run_watched(self._attach())
        except BaseException as problem:
            await asyncio.gather(*map(RedisConnection.close, self._connections))
            if not isinstance(problem, OSError | BroadcastError):
                raise
            raise ClusterError(f"can't use Redis at {self._url}: {problem}") from None
        self._enter(LinkState.ATTACHED)
        self._task = asyncio.create_task(self._run(), name="cluster link")

    async def _run(self) -> None:
        while True:
            try:
                if not self._connections:
                    await asyncio.sleep(self._retry_delay * random.uniform(0.5, 1))
                    longer = 2 * self._retry_delay + SHORTEST_DELAY
                    self._retry_delay = min(longer, self._timing.retry)
                    await self._run_watched(self._attach())
                caller, reader = self._connections
                await self._run_watched(self._write(caller), self._read(reader), self._beat(caller))
            except LostError as problem:
                self._enter(LinkState.CUT_OFF, str(problem).removeprefix("LOST "))
            except (OSError, BroadcastError) as problem:
                if self._state is LinkState.ATTACHED:
                    self._enter(LinkState.AWAY)
                if str(problem) != self._logged:
                    LOGGER.warning("away from %s: %s", self._url, problem)
                self._logged = str(problem)
            except Exception as problem:
                LOGGER.error("the cluster failed: please report this", exc_info=problem)
                if self.server:
                    self._enter(LinkState.CUT_OFF, "an error in this server")
            finally:
                while self._connections:
                    await self._connections.pop().close()

    async def _attach(self) -> None:
        """Connect, and go on where this server was, or begin anew."""
        redis, _ = [await self._connect() for _ in range(2)]
        await self._scripts.load(redis)
        if not self.server:
            server = secrets.token_hex(4)
            hello = self._scripts.call("hello", server, secrets.token_hex(8))
            self._epoch, self._last = await redis.ask(hello)
            self._position = position_of(self._last)
            await self._room.load(redis, self._scripts, self._last)
            self.server = server
            LOGGER.info("attached to %s as server %s", self._url, self.server)
        self._neighbours = Neighbours(self._clock, self._timing, self._room.grace)
        await self._report(redis)

    async def _connect(self) -> RedisConnection:
        url = self._url
        connection = await connect(url.host, url.port, self._timing.silence, url.tls, TLS_HINTS)
        redis = RedisConnection(connection, self._clock)
        self._connections.append(redis)
        if url.password:
            await redis.ask(encode("AUTH", *filter(None, [url.user]), url.password))
        found = re.search(rb"redis_version:((\d+)\.(\d+)\S*)", await redis.ask(encode("INFO")))
        if found and (int(found[2]), int(found[3])) < (6, 2):
            raise RedisError(f"its version is {found[1].decode()}, and 6.2 is needed")
        await redis.ask(encode("SELECT", url.database))
        return redis

    async def _run_watched(self, *parts: Coroutine[None, None, None]) -> None:
        """Run until one of these ends or fails, or Redis does not answer in time."""
        tasks = [asyncio.create_task(part) for part in (*parts, self._watch())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in filter(done.__contains__, tasks):
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self, redis: RedisConnection) -> None:
        """Send one write after the other; it is attached when those that were kept are executed."""
        writes, end = list(self._room.writes), self._position + self.statistics["behind"]
        while writes and self._position < end:  # until this is read, a full Redis has no room
            await asyncio.sleep(SHORTEST_DELAY)
        while True:
            if not writes and self._state is not LinkState.ATTACHED:
                self._enter(LinkState.ATTACHED)
            number, events, size = writes.pop(0) if writes else await self._room.next_write()
            words = [word for kind, text, key, _ in events for word in (kind, text, key)]
            call = self._scripts.call("write", self.server, number, size, int(time.time()), *words)
            await redis.ask(call)

    async def _read(self, redis: RedisConnection) -> None:
        """Take the entries of the log: about a batch in an iteration, none while it is full."""
        wait = self._timing.heartbeat  # after which Redis answers anyway
        most = ("COUNT", ENTRIES_PER_READ, "BLOCK", int(1000 * wait), "STREAMS", self._scripts.log)
        flushed = self._position
        while True:
            reply = await redis.ask(encode("XREAD", *most, self._last), wait)
            for entry in map(parse_entry, reply[0][1] if reply else ()):
                if self._position - flushed >= BATCH_SIZE:
                    await asyncio.sleep(0)
                    flushed = self._position
                await self._room.gate.wait_for_readers()
                if entry.before != self._last:
                    raise LostError("Redis no longer has what was said before")
                self._room.take(entry, is_own=entry.server == self.server)
                before, self._position, self._last = self._position, position_of(entry.id), entry.id
                if not entry.server or before // REPORT_SIZE < self._position // REPORT_SIZE:
                    self._report_due.set()  # a server has come or gone, or waits for this one
            self._room.flush()

    async def _beat(self, redis: RedisConnection) -> None:
        while True:
            is_behind = self._neighbours.is_behind
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SHORTEST_DELAY if is_behind else self._timing.heartbeat):
                    await self._report_due.wait()
            self._report_due.clear()
            await self._report(redis)
            self._retry_delay = 0.0  # since it has attached, Redis has executed everything

    async def _watch(self) -> None:
        """Raise OSError when Redis does not answer in time."""
        while True:
            await asyncio.sleep(self._timing.silence / 10)
            if any(redis.silent_for > self._timing.silence for redis in self._connections):
                raise ConnectionError(f"no answer for {self._timing.silence:g} s")

    async def _report(self, redis: RedisConnection) -> None:
        """Send a heartbeat, and act on those of the others."""
        self._beats += 1
        self._beat_text = f"{self._beats} {self._position} {self._room.floor(self._position)}"
        known = (self._epoch, self._last, self._beat_text)
        last, words, unclean = await redis.ask(self._scripts.call("heartbeat", self.server, *known))
        behind = (end := position_of(last)) - self._position
        texts = [word.decode() for word in words]
        beats = dict(zip(texts[::2], texts[1::2], strict=True))
        self.statistics = {"servers": len(beats), "position": self._position, "behind": behind}
        for server in self._neighbours.update(end, beats):
            if server != self.server:
                LOGGER.warning("server %s is taken for dead", server)
                await self._reap(redis, server, beats[server])
        if unclean:
            await self._reap(redis, unclean.decode())
        self._room.gate.hold("behind", self._neighbours.is_behind)

    async def _reap(self, redis: RedisConnection, server: str, *beat: str) -> None:
        """Declare a server dead that has sent this heartbeat last, and free its names."""
        while await redis.ask(self._scripts.call("reap", server, REAP_SLICE, GONE, *beat)):
            beat = ()

    async def close(self) -> None:
        """Declare this server dead once nothing is in flight; if it is away, others will do so."""
        try:
            with contextlib.suppress(OSError, BroadcastError):
                async with asyncio.timeout(self._timing.leave):
                    await self._room.settle()
                    if self._state is LinkState.ATTACHED:
                        await self._reap(self._connections[0], self.server, self._beat_text)
        finally:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


class LinkedRoom(ClusterRoom):
    """A room of many servers, and this server's link to it."""

    def __init__(self, clock: ServingClock, settings: Settings, history: History | None) -> None:
        super().__init__(clock, settings, history)
        self._link = Link(self, parse_url(settings.cluster or ""), settings.room, clock)

    async def open(self) -> None:
        await self._link.start()

    async def wait_closed(self) -> None:
        await self._link.close()

    def statistics(self) -> dict[str, int]:
        return super().statistics() | self._link.statistics
