"""A server's link to the Redis of its room: attach, follow the log, notice an outage, attach again.

The life of an outage: a connection breaks, or Redis does not answer in time, or it answers with an
error. Whatever it is, both connections are dropped and the link is AWAY; what was written and has
not come back is kept. After a delay, which grows until Redis has executed something, the link
connects again and asks `heartbeat.lua` whether Redis has the room as this server knows it: the
epoch, its registration, the last entry that it took. Then all that was kept is sent again, of which
Redis executes what it had not, and the log is read on from that entry: clients notice a pause.

If Redis does not have it, or an entry is missing in what is read, the link is CUT_OFF: something
may have been said that this server's clients will never get. They are told and disconnected before
anything else is delivered, and the server begins anew under another ID (`hello.lua`).
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import random
import re
import secrets
import time
from collections import deque
from typing import TYPE_CHECKING

from ..errors import BroadcastError, ClusterError
from ..net.dial import connect
from ..server.batch import BATCH_SIZE
from ..server.clock import ServingClock
from ..server.watchdog import RECHECK_DELAY
from .entries import Write, parse_entry
from .neighbours import Neighbours
from .resp import LostError, RedisConnection, RedisError, Reply, encode
from .scripts import Scripts
from .timing import ClusterTiming
from .url import RedisURL

if TYPE_CHECKING:
    from .room import ClusterRoom

LOGGER = logging.getLogger("broadcast")

ENTRIES_PER_READ = 32
"""Entries, each of a batch at most, that are read at once: 4 MB."""

REPORT_SIZE = 2 * 1024 * 1024
"""Bytes taken after which a server tells its position before the next heartbeat is due."""

REAP_SLICE = 100
"""Names freed at once: 10,000 would block Redis for 70 ms."""

SHORTEST_DELAY = 0.05
"""Seconds before the second attempt to attach, and between two heartbeats while senders wait for
the slowest server."""


class LinkState(enum.Enum):
    """Whether this server takes part in the room; changed only in `Link._enter`."""

    ATTACHED = enum.auto()
    AWAY = enum.auto()
    """Clients stay, senders wait, and newcomers are refused after a while."""
    CUT_OFF = enum.auto()
    """The same, but those who were there have been disconnected, and the server has no ID."""


NEXT_STATES = {
    LinkState.ATTACHED: {LinkState.AWAY, LinkState.CUT_OFF},
    LinkState.AWAY: {LinkState.ATTACHED, LinkState.CUT_OFF},
    LinkState.CUT_OFF: {LinkState.ATTACHED},
}


class Link:
    """Writes to the log for a room, and has the room take what comes back."""

    def __init__(
        self,
        url: RedisURL,
        name: str,
        timing: ClusterTiming,
        clock: ServingClock,
        grace: float,
        room: ClusterRoom,
    ) -> None:
        self._url, self._timing, self._clock, self._room = url, timing, clock, room
        self._scripts = Scripts(name)
        self._state = LinkState.AWAY
        self._away_since = 0.0  # in the loop's time
        self._retry_delay = 0.0  # seconds before the next attempt to attach
        self._task: asyncio.Task[None] | None = None
        self.server = ""  # this server's ID; empty if it has none
        self._former: list[str] = []  # IDs that it had, or may have, and has to unregister
        self._epoch = ""
        self._position = 0  # of the last entry that was taken
        self._end = 0  # of the log, at the last heartbeat
        self._neighbours = Neighbours(clock, timing.dead_after, grace + timing.behind)
        # While it is attached.
        self._commands: RedisConnection
        self._reader: RedisConnection
        self._entries: deque[Reply] = deque()  # read, and not taken
        self._entries_left = asyncio.Event()  # set while `_take_rest` has to take them
        self._beat = ""  # the last heartbeat
        self._beats = 0
        self._reported = 0  # the position in it
        self._report_pending = False

    def _enter(self, state: LinkState, reason: str = "") -> None:
        assert state in NEXT_STATES[self._state], (self._state, state)
        before, self._state = self._state, state
        if before is LinkState.ATTACHED:
            self._away_since = asyncio.get_running_loop().time()
            self._room.on_attached(False)
        if state is LinkState.ATTACHED:
            self._room.on_attached(True)
        elif state is LinkState.AWAY:
            LOGGER.warning("away from %s: %s", self._url, reason)
        else:
            LOGGER.warning("cut off: %s", reason)
            self._former.append(self.server)
            self.server = ""
            self._room.on_cut_off()

    # --- attaching ---

    async def start(self) -> None:
        """Attach. Raises ClusterError with the reason if that fails."""
        try:
            await self._attach()
        except (OSError, BroadcastError) as problem:
            raise ClusterError(f"can't use Redis at {self._url}: {problem}") from None
        self._task = asyncio.create_task(self._run(), name="cluster link")

    async def _run(self) -> None:
        while True:
            try:
                if self._state is not LinkState.ATTACHED:
                    await asyncio.sleep(self._retry_delay * random.uniform(0.5, 1))
                    longer = max(SHORTEST_DELAY, 2 * self._retry_delay)
                    self._retry_delay = min(longer, self._timing.retry)
                    await self._attach()
                await self._follow()
            except LostError as problem:
                self._enter(LinkState.CUT_OFF, str(problem).removeprefix("LOST "))
            except (OSError, BroadcastError) as problem:
                if self._state is LinkState.ATTACHED:
                    self._enter(LinkState.AWAY, str(problem))
            except Exception as problem:
                LOGGER.error("the cluster failed: please report this", exc_info=problem)
                if self.server:
                    self._enter(LinkState.CUT_OFF, "an error in this server")

    async def _attach(self) -> None:
        """Connect, and go on where this server was, or begin anew."""
        async with contextlib.AsyncExitStack() as opened:
            commands, reader = [await self._open(opened) for _ in range(2)]
            await self._scripts.load(commands)
            is_new = not self.server
            if is_new:
                server = secrets.token_hex(4)
                self._former.append(server)  # until all of this is done
                hello = ("hello", server, secrets.token_hex(8), *self._former[:-1])
                epoch, position = await commands.ask(self._scripts.call(*hello))
                self._epoch, self._position = epoch.decode(), int(position)
                keys = self._scripts.names, self._scripts.log
                await self._room.load(commands, *keys, self._position)
                self.server = server
                self._former.clear()
            self._neighbours.forget()
            report = await commands.ask(self._heartbeat())
            opened.pop_all()
        self._commands, self._reader = commands, reader
        self._entries.clear()
        self._entries_left.clear()
        if is_new:
            LOGGER.info("attached to %s as server %s", self._url, self.server)
        else:
            away = asyncio.get_running_loop().time() - self._away_since
            LOGGER.info("attached again after %.1f s", away)
        self._enter(LinkState.ATTACHED)
        self._on_reported(report)
        for write in self._room.writes:
            self._commands.send(write.command, self._on_written)

    async def _open(self, opened: contextlib.AsyncExitStack) -> RedisConnection:
        url, timeout = self._url, self._timing.silence
        connection = await connect(url.host, url.port, timeout, url.tls)
        redis = RedisConnection(connection, self._clock, timeout)
        opened.callback(redis.close)
        if url.password is not None:
            await redis.ask(encode("AUTH", *filter(None, [url.user]), url.password))
        found = re.search(rb"redis_version:((\d+)\.(\d+)\S*)", await redis.ask(encode("INFO")))
        if found and (int(found[2]), int(found[3])) < (6, 2):
            raise RedisError(f"its version is {found[1].decode()}, and 6.2 is needed")
        await redis.ask(encode("SELECT", url.database))
        return redis

    # --- while it is attached ---

    async def _follow(self) -> None:
        """Write, read and send heartbeats until something fails."""
        commands, reader = self._commands, self._reader
        self._read_on()
        parts = (commands.receive(), reader.receive(), self._take_rest(), self._send_heartbeats())
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            commands.close()
            reader.close()

    def write(self, write: Write) -> None:
        """Send a write; while this server is away, it is sent when it attaches again."""
        arguments = (write.number, int(time.time()), *write.words())
        write.command = self._scripts.call("write", self.server, *arguments)
        if self._state is LinkState.ATTACHED:
            self._commands.send(write.command, self._on_written)

    def _on_written(self, _reply: Reply) -> None:
        self._retry_delay = 0.0  # only now is it certain that Redis takes writes

    def _read_on(self) -> None:
        wait = int(self._timing.silence * 400)  # milliseconds, after which Redis answers anyway
        where = ("STREAMS", self._scripts.log, f"{self._position}-0")
        command = encode("XREAD", "COUNT", ENTRIES_PER_READ, "BLOCK", wait, *where)
        self._reader.send(command, self._on_entries)

    def _on_entries(self, reply: Reply) -> None:
        """Take what was read at once, if it is little."""
        if reply:
            self._entries.extend(reply[0][1])
        if not self._take_some():
            self._entries_left.set()

    async def _take_rest(self) -> None:
        """Take what was left, a batch in each iteration, and none while the backlog is full."""
        while True:
            await self._entries_left.wait()
            await asyncio.sleep(0)
            await self._room.wait_not_full()
            if self._take_some():
                self._entries_left.clear()

    def _take_some(self) -> bool:
        """Take entries of about a batch; return whether none is left."""
        start = self._position
        while self._entries:
            if self._position - start >= BATCH_SIZE or self._room.is_full:
                return False
            entry = parse_entry(self._entries.popleft())
            if entry.before != self._position:
                raise LostError("Redis does not have any more what was said before")
            self._room.take(entry)
            self._position = entry.position
            if not entry.server or self._position - self._reported >= REPORT_SIZE:
                self._report()  # a server has come or gone, or waits until this one has taken more
        self._read_on()
        return True

    # --- heartbeats ---

    async def _send_heartbeats(self) -> None:
        """Send heartbeats, and raise OSError when Redis does not answer in time."""
        due = 0.0
        while True:
            now, interval = self._clock.running_time(), self._timing.heartbeat
            if now >= due or self._neighbours.is_behind:
                self._report()
                due = now + interval
            await asyncio.sleep(SHORTEST_DELAY if self._neighbours.is_behind else interval / 4)
            if self._is_silent:
                await asyncio.sleep(RECHECK_DELAY)  # this process may have been stopped
                if self._is_silent:
                    raise ConnectionError(f"no answer for {self._timing.silence:g} s")

    @property
    def _is_silent(self) -> bool:
        silent_for = max(self._commands.silent_for, self._reader.silent_for)
        return silent_for > self._timing.silence

    def _report(self) -> None:
        if not self._report_pending:
            self._commands.send(self._heartbeat(), self._on_reported)

    def _heartbeat(self) -> bytes:
        self._report_pending = True
        self._beats += 1
        self._reported = self._position
        self._beat = f"{self._beats} {self._position} {self._room.floor(self._position)}"
        known = (self._epoch, self._position, self._beat)
        return self._scripts.call("heartbeat", self.server, *known)

    def _on_reported(self, reply: Reply) -> None:
        self._report_pending = False
        end, words, dead = reply
        self._end = int(end)
        texts = [word.decode() for word in words]
        beats = dict(zip(texts[::2], texts[1::2], strict=True))
        for server in self._neighbours.update(self._end, beats):
            if server != self.server:
                LOGGER.warning("server %s is taken for dead", server)
                self._reap(server, beats[server])
        if dead:
            self._reap(dead.decode())
        self._room.pause_or_resume(self._neighbours.is_behind, "behind")

    def _reap(self, server: str, *beat: str) -> None:
        """Free some names of a dead server, and then the next ones."""
        call = self._scripts.call("reap", server, REAP_SLICE, "connection lost", *beat)
        self._commands.send(call, lambda more: self._reap(server) if more else None)

    # --- the end ---

    async def unregister(self) -> None:
        """Take this server for dead, which has no clients any more, unless it is away."""
        if self._task and self._state is LinkState.ATTACHED:
            done = asyncio.Event()
            call = self._scripts.call("reap", self.server, REAP_SLICE, "", self._beat)
            self._commands.send(call, lambda _: done.set())
            await done.wait()

    async def stop(self) -> None:
        """Drop the connections."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def statistics(self) -> dict[str, int]:
        """Return the number of servers, where in the log this one is, and how far from its end."""
        behind = max(0, self._end - self._position)
        return {"servers": len(self._neighbours), "position": self._position, "behind": behind}
