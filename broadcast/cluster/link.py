"""A server's link to the Redis of its room: attach, follow the log, notice an outage, attach again.

The life of an outage: a connection breaks, Redis leaves a command unanswered for too long, or
answers with an error. Whatever it is, both connections are dropped and the link is AWAY: what was
written and has not come back is kept, and nothing is delivered. After a short delay, which grows
with each attempt, the link connects again and calls `attach.lua`, which checks that Redis still has
the room as this server knows it: the same epoch, the server's registration, and the last entry that
was taken. Then everything that was kept is sent again, of which Redis executes what it had not, and
the log is read on from that entry, so that nobody has noticed more than a pause.

If Redis does not have it, or if an entry is missing in what is read, the link is CUT_OFF: something
may have been said that this server's clients will never get. They are told and disconnected before
anything else is delivered, and the server begins again under a new ID, by `hello.lua`.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import random
import re
import secrets
from collections import deque
from typing import TYPE_CHECKING

from ..errors import BroadcastError, ClusterError
from ..net.dial import connect
from ..server.batch import BATCH_SIZE
from ..server.clock import ServingClock
from ..server.watchdog import RECHECK_DELAY
from .entries import Write, parse_entry
from .neighbours import Neighbours
from .resp import RedisConnection, RedisError, Reply, encode
from .scripts import Scripts
from .timing import REPORT_SIZE, ClusterTiming
from .url import RedisURL

if TYPE_CHECKING:
    from .room import ClusterRoom

LOGGER = logging.getLogger("broadcast")

OLDEST_REDIS = (6, 2)

ENTRIES_PER_READ = 32
"""Entries, each of a batch at most, that XREAD returns at once: 4 MB."""

REAP_SLICE = 100
"""Names freed in one call: 10,000 at once would block Redis for 70 ms."""

SHORTEST_RETRY = 0.05
"""Seconds before the first attempt to attach again; each delay is twice the one before."""

PASSING = (OSError, BroadcastError)
"""What an outage raises; anything else is a bug."""


class CutOffError(BroadcastError):
    """Something that was said is lost for this server's clients."""


class LinkState(enum.Enum):
    """Whether this server takes part in the room; changed only in `Link._enter`."""

    ATTACHED = enum.auto()
    AWAY = enum.auto()
    """Redis can't be used. Clients stay, senders wait, newcomers are refused after a while."""
    CUT_OFF = enum.auto()
    """As AWAY, but this server's clients have been disconnected, and its ID is void."""


NEXT_STATES = {
    LinkState.ATTACHED: {LinkState.AWAY, LinkState.CUT_OFF},
    LinkState.AWAY: {LinkState.ATTACHED, LinkState.CUT_OFF},
    LinkState.CUT_OFF: {LinkState.ATTACHED},
}


class Link:
    """Follows the log for a room: `write` to it, and what is in it comes back by `room.take`."""

    def __init__(
        self,
        url: RedisURL,
        name: str,
        timing: ClusterTiming,
        clock: ServingClock,
        grace: float,
        room: ClusterRoom,
    ) -> None:
        self._url = url
        self._scripts = Scripts(name)
        self._timing = timing
        self._clock = clock
        self._room = room
        self._state = LinkState.AWAY
        self._away_since = 0.0  # in the loop's time, unless it is attached
        self._task: asyncio.Task[None] | None = None  # from `start` to `close`
        self.server = ""  # this server's ID; empty while it is not registered
        self._former: list[str] = []  # IDs that it had, or may have, and that are void
        self._epoch = ""
        self.position = 0  # of the last entry that was taken
        self._end = 0  # of the log, at the last heartbeat
        self._retry_delay = 0.0  # before the next attempt to attach
        # While it is attached.
        self._commands: RedisConnection
        self._reader: RedisConnection
        self._entries: deque[Reply] = deque()  # read, and not taken yet
        self._entries_left = asyncio.Event()  # set while `_take_rest` has to take them
        self._counter = 0  # of heartbeats
        self._reported = 0  # the position in the last one
        self._report_pending = False
        self._neighbours = Neighbours(clock, timing.dead_after, grace + timing.behind)

    @property
    def is_attached(self) -> bool:
        """Whether this server takes part in the room."""
        return self._state is LinkState.ATTACHED

    def _enter(self, state: LinkState, reason: str = "") -> None:
        assert state in NEXT_STATES[self._state], (self._state, state)
        was_attached, self._state = self.is_attached, state
        now = asyncio.get_running_loop().time()
        if was_attached:
            self._away_since = now
        if state is LinkState.CUT_OFF:
            LOGGER.warning("cut off: %s", reason)
            self._former.append(self.server)
            self.server = ""
            self._room.on_cut_off()
        elif state is LinkState.AWAY:
            LOGGER.warning("away from %s: %s", self._url, reason)
        if self.is_attached != was_attached:
            self._room.on_attached(self.is_attached)

    # --- attaching ---

    async def start(self) -> None:
        """Attach. Raises ClusterError with the reason if that fails."""
        try:
            await self._attach()
        except PASSING as problem:
            reason = str(problem) or type(problem).__name__
            if isinstance(problem, (RedisError, OSError)):
                reason = f"can't use Redis at {self._url}: {reason}"
            raise ClusterError(reason) from None
        self._task = asyncio.create_task(self._run(), name="cluster link")

    async def _run(self) -> None:
        while True:
            try:
                await self._follow()
            except CutOffError as problem:
                self._enter(LinkState.CUT_OFF, str(problem))
            except PASSING as problem:
                self._enter(LinkState.AWAY, str(problem))
            except Exception as problem:
                LOGGER.error("the cluster failed: please report this", exc_info=problem)
                self._enter(LinkState.CUT_OFF, "an error of this server")
            while not self.is_attached:
                await asyncio.sleep(self._retry_delay * random.uniform(0.5, 1))
                longer = max(SHORTEST_RETRY, 2 * self._retry_delay)
                self._retry_delay = min(longer, self._timing.retry)
                try:
                    await self._attach()
                except PASSING as problem:
                    LOGGER.debug("still away from %s: %s", self._url, problem)

    async def _attach(self) -> None:
        """Connect, and go on where this server was, or begin anew."""
        async with contextlib.AsyncExitStack() as opened:
            commands, reader = [await self._open(opened) for _ in range(2)]
            await self._scripts.load(commands)
            if self.server:
                beat = self._next_heartbeat()
                known = (self._epoch, self.position, beat)
                call = self._scripts.call("attach", self.server, *known)
                if reason := await commands.ask_encoded(call):
                    self._enter(LinkState.CUT_OFF, reason.decode())
            is_new = not self.server
            if is_new:
                await self._register(commands)
            opened.pop_all()
        self._commands, self._reader = commands, reader
        self._entries.clear()
        self._entries_left.clear()
        self._report_pending = False
        self._neighbours.forget()
        if is_new:
            LOGGER.info("attached to %s as server %s", self._url, self.server)
        else:
            away = asyncio.get_running_loop().time() - self._away_since
            LOGGER.info("attached again after %.1f s", away)
        self._enter(LinkState.ATTACHED)
        for write in self._room.writes:
            self.write(write)

    async def _open(self, opened: contextlib.AsyncExitStack) -> RedisConnection:
        url, timeout = self._url, self._timing.silence
        connection = RedisConnection(
            await connect(url.host, url.port, timeout, url.tls), self._clock, timeout
        )
        opened.callback(connection.close)
        if url.password is not None:
            await connection.ask("AUTH", *filter(None, [url.user]), url.password)
        found = re.search(rb"redis_version:((\d+)\.(\d+)\S*)", await connection.ask("INFO"))
        if found and (int(found[2]), int(found[3])) < OLDEST_REDIS:
            raise RedisError(f"its version is {found[1].decode()}, and 6.2 is needed")
        await connection.ask("SELECT", url.database)
        return connection

    async def _register(self, commands: RedisConnection) -> None:
        server = secrets.token_hex(4)
        call = self._scripts.call("hello", server, secrets.token_hex(8), *self._former)
        self._former.append(server)  # until it is known to be complete
        epoch, position = await commands.ask_encoded(call)
        self._epoch, self.position = epoch.decode(), int(position)
        await self._room.load(commands, self._scripts, self.position)
        self._former.clear()
        self.server = server

    # --- while it is attached ---

    async def _follow(self) -> None:
        """Follow the log until that fails."""
        commands, reader = self._commands, self._reader
        self._read_on()
        parts = (commands.receive(), reader.receive(), self._take_rest(), self._beat())
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            commands.close()
            reader.close()

    def write(self, write: Write) -> None:
        """Send a write of the room, or leave it to the next attaching, which sends all again."""
        if self.is_attached:
            call = self._scripts.call_encoded("write", self.server, write.words, write.count)
            self._commands.send(call, self._on_written)

    def _on_written(self, _reply: Reply) -> None:
        self._retry_delay = 0.0  # only now is it certain that Redis takes writes

    # --- reading the log ---

    def _read_on(self) -> None:
        wait = int(self._timing.silence * 1000 / 2.5)  # milliseconds, so that it is never silent
        where = ("STREAMS", self._scripts.log, f"{self.position}-0")
        command = encode("XREAD", "COUNT", ENTRIES_PER_READ, "BLOCK", wait, *where)
        self._reader.send(command, self._on_entries)

    def _on_entries(self, reply: Reply) -> None:
        """Take what was read at once if it is little: waking a task would cost more."""
        if reply:
            self._entries.extend(reply[0][1])
        if not self._take_some():
            self._entries_left.set()

    def _take_some(self) -> bool:
        """Take entries of about one batch; return whether all have been taken."""
        size = 0
        while self._entries:
            if size >= BATCH_SIZE or self._room.is_full:
                return False
            entry = parse_entry(self._entries.popleft())
            if entry.before != self.position:
                raise CutOffError("what was said is not in Redis any more")
            self._room.take(entry)
            self.position = entry.position
            size += entry.size
            if not entry.server:  # a server has come or gone
                self._report()
        if self.position - self._reported >= REPORT_SIZE:
            self._report()
        self._read_on()
        return True

    async def _take_rest(self) -> None:
        """Take what was left, a batch in each iteration, and none while the backlog is full."""
        while True:
            await self._entries_left.wait()
            await asyncio.sleep(0)
            await self._room.wait_not_full()
            if self._take_some():
                self._entries_left.clear()

    # --- heartbeats ---

    async def _beat(self) -> None:
        """Send heartbeats, and raise OSError when Redis does not answer."""
        due = 0.0
        while True:
            now = self._clock.running_time()
            if now >= due or self._neighbours.is_behind:
                self._report()
                due = now + self._timing.heartbeat
            # In short steps, because running time may pass more slowly than the loop's.
            poll = self._timing.poll if self._neighbours.is_behind else self._timing.heartbeat / 4
            await asyncio.sleep(poll)
            if self._is_silent():
                await asyncio.sleep(RECHECK_DELAY)  # the process may have been stopped meanwhile
                if self._is_silent():
                    raise ConnectionError(f"no answer for {self._timing.silence:g} s")

    def _is_silent(self) -> bool:
        silent_for = max(self._commands.silent_for, self._reader.silent_for)
        return silent_for > self._timing.silence

    def _next_heartbeat(self) -> str:
        self._counter += 1
        self._reported = self.position
        return f"{self._counter} {self.position} {self._room.floor(self.position)}"

    def _report(self) -> None:
        if not self._report_pending:
            self._report_pending = True
            call = self._scripts.call("heartbeat", self.server, self._next_heartbeat())
            self._commands.send(call, self._on_reported)

    def _on_reported(self, reply: Reply) -> None:
        self._report_pending = False
        self._retry_delay = 0.0
        end, words, dead = reply
        self._end = int(end)
        texts = [word.decode() for word in words]
        beats = dict(zip(texts[::2], texts[1::2], strict=True))
        for server, beat in self._neighbours.update(self.server, self._end, beats):
            LOGGER.warning("server %s is taken for dead", server)
            self._reap(server, beat)
        if dead:
            self._reap(dead.decode())
        self._room.on_behind(self._neighbours.is_behind)

    def _reap(self, server: str, *beat: str) -> None:
        """Free some names of a dead server, and then the next ones."""

        def on_reaped(more: Reply) -> None:
            if more:
                self._reap(server)

        call = self._scripts.call("reap", server, REAP_SLICE, "connection lost", *beat)
        self._commands.send(call, on_reaped)

    # --- the end ---

    async def close(self) -> None:
        """Unregister, unless it is away: then the others will take this server for dead."""
        if self.is_attached and self._task:
            unregistered = asyncio.Event()
            call = self._scripts.call("bye", self.server)
            self._commands.send(call, lambda _: unregistered.set())
            await unregistered.wait()

    def stop(self) -> None:
        """Drop the connections."""
        if self._task:
            self._task.cancel()

    def statistics(self) -> dict[str, int]:
        """Return how many servers there are, and where in the log this one is."""
        return {
            "servers": len(self._neighbours),
            "position": self.position,
            "behind": max(0, self._end - self.position),
        }
