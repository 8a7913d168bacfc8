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
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing

from ..errors import BroadcastError, ClusterError, LostError, RedisError
from ..net.dial import TLSHints, connect
from ..server.clock import ServingClock
from ..server.gate import PauseReason
from ..server.history import History
from ..server.reasons import LeaveReason
from ..server.settings import Settings
from ..states import follow
from ..system.tasks import background_task, background_tasks
from .entries import position_of
from .log import RoomLog
from .neighbours import Neighbours
from .resp import FOREIGN, RedisConnection, encode
from .room import ClusterRoom
from .scripts import Scripts
from .url import RedisURL, parse_url

LOGGER = logging.getLogger("broadcast")

TLS_HINTS = TLSHints("add ?ca=FILE to the URL", "use its host in the URL", "use redis://")
REAP_SLICE = 100  # names freed at once: 10,000 would block Redis for 70 ms
SHORTEST_DELAY = 0.05  # seconds between attempts to attach, or heartbeats while senders are held


class LinkState(enum.Enum):
    """Whether this server takes part in the room; changed only in `Link._enter`."""

    STARTING = enum.auto()  # nobody is served yet: a problem ends the start
    ATTACHED = enum.auto()
    AWAY = enum.auto()  # clients stay, senders wait, and newcomers are refused after a while
    CUT_OFF = enum.auto()  # the same, but clients have been disconnected, and the server has no ID
    LEFT = enum.auto()  # it does not attach again


NEXT_STATES = {
    LinkState.STARTING: {LinkState.ATTACHED, LinkState.LEFT},
    LinkState.ATTACHED: {LinkState.AWAY, LinkState.CUT_OFF, LinkState.LEFT},
    LinkState.AWAY: {LinkState.ATTACHED, LinkState.CUT_OFF, LinkState.LEFT},
    LinkState.CUT_OFF: {LinkState.ATTACHED, LinkState.CUT_OFF, LinkState.LEFT},
    LinkState.LEFT: set[LinkState](),
}


class Link:
    """Attaches a room to the log that all servers share, and again after each outage."""

    def __init__(self, room: ClusterRoom, url: RedisURL, name: str, clock: ServingClock) -> None:
        self._room, self._url, self._clock, self._timing = room, url, clock, room.timing
        self._scripts = Scripts(name)
        self._log = RoomLog(room, self._scripts)
        self._state = LinkState.STARTING
        self._away_since, self._logged = 0.0, ""  # in running time; why, as it was logged last
        self._retry_delay = 0.0  # seconds before the next attempt to attach
        # Done when it is attached for the first time, or that has failed.
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._caller: RedisConnection  # of its two connections, that which calls scripts
        self._leaving = asyncio.Event()  # set when the farewell is to be sent
        self._epoch = b""  # of the room, as this server knows it
        self._neighbours = Neighbours(clock, room.timing, room.grace)
        self.statistics: dict[str, int] = {}  # as of the last heartbeat
        self._beat_text, self._beats = "", 0  # the last heartbeat, and how many there were

    def _enter(self, state: LinkState, reason: str = "") -> None:
        before, self._state = self._state, follow(NEXT_STATES, self._state, state)
        if before is LinkState.ATTACHED and state is not LinkState.LEFT:
            self._away_since, self._logged = self._clock.running_time(), ""
            self._log.stop_writing()
            self._room.set_attached(False)
        if state is LinkState.ATTACHED:
            if before is LinkState.AWAY:
                away = self._clock.running_time() - self._away_since
                LOGGER.info("attached again after %.1f s", away)
            self._room.set_attached(True)
            if before is LinkState.STARTING:
                self._started.set_result(None)
        elif state is LinkState.CUT_OFF:
            LOGGER.warning("cut off: %s", reason)
            self._log.server = ""
            self._room.on_cut_off()

    @contextlib.asynccontextmanager
    async def attached(self) -> AsyncIterator[None]:
        """Attach, and leave the room at the end. Raises ClusterError if attaching fails."""
        async with background_task(self._run()) as running:
            try:
                try:
                    await asyncio.shield(self._started)
                except (OSError, BroadcastError) as problem:
                    raise ClusterError(f"can't use Redis at {self._url}: {problem}") from None
                except (TypeError, ValueError, RecursionError) as problem:
                    raise ClusterError(f"can't use {self._url}: {FOREIGN}") from problem
                try:
                    yield
                finally:
                    await self._leave(running)
            finally:
                if self._state is not LinkState.LEFT:
                    self._enter(LinkState.LEFT)

    async def _run(self) -> None:
        # On 3.11 and 3.12, a problem that meets a cancellation hides it, and the loop goes on.
        while self._state is not LinkState.LEFT:
            await asyncio.sleep(self._retry_delay * random.uniform(0.5, 1))
            self._retry_delay = min(2 * self._retry_delay + SHORTEST_DELAY, self._timing.retry)
            try:
                await self._take_part()
            except Exception as problem:
                if self._state is LinkState.STARTING:
                    self._started.set_exception(problem)
                    return
                self._on_problem(problem)

    def _on_problem(self, problem: Exception) -> None:
        if self._state is LinkState.LEFT:
            return
        if isinstance(problem, LostError):
            self._enter(LinkState.CUT_OFF, str(problem).removeprefix("LOST "))
        elif isinstance(problem, OSError | BroadcastError):
            if self._state is LinkState.ATTACHED:
                self._enter(LinkState.AWAY)
            if str(problem) != self._logged:
                LOGGER.warning("away from %s: %s", self._url, problem)
            self._logged = str(problem)
        else:
            LOGGER.error("the cluster failed: please report this", exc_info=problem)
            self._enter(LinkState.CUT_OFF, "an error in this server")

    async def _take_part(self) -> None:
        """Connect, attach, write and read the log until this server leaves; raise what ends it."""
        async with aclosing(await self._open()) as caller, aclosing(await self._open()) as reader:
            self._caller = caller
            async with background_tasks() as start:
                for part in (caller.run(), reader.run(), self._watch(caller, reader)):
                    start(part)
                await self._log_in(caller)
                await self._log_in(reader)
                behind = await self._attach()
                self._log.start_reading(reader, start)
                start(self._beat())
                await self._log.start_writing(caller, behind)
                self._enter(LinkState.ATTACHED)
                await self._leaving.wait()
                await self._reap(self._log.server, self._beat_text)

    async def _open(self) -> RedisConnection:
        url, timeout = self._url, self._timing.silence
        connection = await connect(url.host, url.port, timeout, url.tls, TLS_HINTS)
        return RedisConnection(connection, self._clock)

    async def _log_in(self, redis: RedisConnection) -> None:
        if self._url.password:
            user = filter(None, [self._url.user])
            await redis.ask(encode("AUTH", *user, self._url.password))
        found = re.search(rb"redis_version:((\d+)\.(\d+)\S*)", await redis.ask(encode("INFO")))
        if found and (int(found[2]), int(found[3])) < (6, 2):
            raise RedisError(f"its version is {found[1].decode()}, and 6.2 is needed")
        await redis.ask(encode("SELECT", self._url.database))

    async def _attach(self) -> int:
        """Go on where this server was, or begin anew; return how many bytes it has to read."""
        redis = self._caller
        await self._scripts.load(redis)
        if not self._log.server:
            server = secrets.token_hex(4)
            hello = self._scripts.call("hello", server, secrets.token_hex(8))
            self._epoch, first = await redis.ask(hello)
            await self._room.load(redis, self._scripts, first)
            self._log.begin(server, first)
            LOGGER.info("attached to %s as server %s", self._url, server)
        return await self._report()

    async def _beat(self) -> None:
        while True:
            is_behind = self._neighbours.is_behind
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SHORTEST_DELAY if is_behind else self._timing.heartbeat):
                    await self._log.report_due.wait()
            self._log.report_due.clear()
            if self._state is LinkState.LEFT:
                return
            await self._report()
            self._retry_delay = 0.0  # since it has attached, Redis has executed everything

    async def _watch(self, *connections: RedisConnection) -> None:
        """Raise OSError when Redis does not answer in time."""
        while True:
            await asyncio.sleep(self._timing.silence / 10)
            if max(redis.silent_for for redis in connections) > self._timing.silence:
                raise ConnectionError(f"no answer for {self._timing.silence:g} s")

    async def _report(self) -> int:
        """Send a heartbeat, and act on those of the others; return the bytes not read yet."""
        self._beats += 1
        log, position = self._log, self._log.position
        self._beat_text = f"{self._beats} {position} {self._room.oldest_needed(position)}"
        known = (self._epoch, log.last, self._beat_text)
        heartbeat = self._scripts.call("heartbeat", log.server, *known)
        last, words, unclean = await self._caller.ask(heartbeat)
        behind = (end := position_of(last)) - log.position
        texts = [word.decode() for word in words]
        beats = dict(zip(texts[::2], texts[1::2], strict=True))
        self.statistics = {"servers": len(beats), "position": log.position, "behind": behind}
        for server in self._neighbours.update(end, beats):
            if server != log.server:
                LOGGER.warning("server %s is taken for dead", server)
                await self._reap(server, beats[server])
        if unclean:
            await self._reap(unclean.decode())
        self._room.gate.hold(PauseReason.BEHIND, self._neighbours.is_behind)
        return behind

    async def _reap(self, server: str, *beat: str) -> None:
        """Free a dead server's names; given its last heartbeat, declare it dead first."""
        about = (REAP_SLICE, LeaveReason.LOST.value)
        while await self._caller.ask(self._scripts.call("reap", server, *about, *beat)):
            beat = ()

    async def _leave(self, running: asyncio.Task[None]) -> None:
        """Declare this server dead once nothing is in flight; if it is away, others will do so."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timing.leave):
                await self._room.settle()
                if self._state is LinkState.ATTACHED:
                    self._enter(LinkState.LEFT)
                    self._leaving.set()
                    await asyncio.wait([running])


class LinkedRoom(ClusterRoom):
    """A room of many servers, and this server's link to it."""

    def __init__(self, clock: ServingClock, settings: Settings, history: History | None) -> None:
        super().__init__(clock, settings, history)
        self._link = Link(self, parse_url(settings.cluster or ""), settings.room, clock)

    def open(self) -> AbstractAsyncContextManager[None]:
        return self._link.attached()

    def statistics(self) -> dict[str, int]:
        return super().statistics() | self._link.statistics
