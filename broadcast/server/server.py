"""BroadcastServer: start, accept, stop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import logging
import math
import socket
import ssl
from types import TracebackType
from typing import Self

from .. import protocol
from ..errors import ListenError
from ..net.address import describe_os_error, format_address
from ..net.connection import CLOSE_TIMEOUT, Connection
from .clock import ServingClock
from .handshake import WRONG_TOKEN_DELAY, Admission
from .listen import bind
from .rate import RateLimiter
from .room import Room
from .session import LeaveReason, Limits, Session, Surroundings, Traffic
from .strangers import DEFAULT_MAX_STRANGERS, Strangers

LOGGER = logging.getLogger("broadcast")

DEFAULT_HOST = "127.0.0.1"

DEFAULT_PORT = 8888

DEFAULT_TIMEOUT = 300.0
"""Seconds: ten times the heartbeat of the client, so that a few lost minutes cost nobody the room."""

HANDSHAKE_TIMEOUT = 10.0
"""Seconds: enough to type CONNECT by hand, too short to be worth holding a connection for."""

DEFAULT_BACKLOG = 8 * 1024 * 1024
"""Bytes: eighty thousand messages of a hundred bytes, a second or two of a busy room; a second copy of it costs nobody."""

DEFAULT_GRACE = 5.0
"""Seconds: a person notices a room that stands still for longer; a network that hiccups for less loses nobody."""

SHUTDOWN_TIMEOUT = 5.0
"""Seconds of running time that clients have to read what they are still sent when the server ends."""

CUT_OFF_TIME = 0.2
"""Seconds within which a session that is cut off ends by itself."""

ACCEPTS_PER_ITERATION = 16
"""Connections accepted in an iteration of the event loop: busy senders do not keep newcomers
waiting, and a rush of newcomers does not keep those inside waiting for more than some 2 ms."""

DISPLACED_LOG_INTERVAL = 1.0
"""Seconds between two log lines about strangers that had to make room."""

LISTEN_BACKLOG = 4096
"""Connections that the system keeps until they are accepted: what Linux allows by default."""

SEND_BUFFER = 393_216
"""Bytes that the system may hold for one client, three batches (Linux doubles it, for what it needs itself). Left to itself it takes up to
4 MiB, and 500 stalled readers held 1.5 GB; with this 0.4 GB, at the same speed. With 262,144 readers that are slower than the server
cost it 10 % more a delivery."""

DEFAULT_MAX_CLIENTS = 10_240
"""Clients that have joined, at once: what one core serves well, and some 100 MB."""


class BroadcastServer:
    """A server in this process: `async with BroadcastServer(port=0) as server:` listens on `server.port`.

    `host`: a name or an address; empty means every interface, a name all its addresses. `port`: 0
    takes a free one, the same for all. `timeout`, `handshake_timeout`: seconds of silence after
    which a client is gone, and within which it has to join. `backlog`: bytes kept for slow readers.
    `grace`: seconds for which those of one address may hold up the room. `notices`: whether joins and leaves are
    announced. `line_limit`: bytes. `max_clients`: clients that have joined, at once.
    `max_strangers`: connections that have not, at once; the oldest makes room for one more.
    `max_rate`: lines a second from one client, which is slowed down to it; None for any. `tls`: a
    context with a certificate. `token`: a word that clients have to know; a wrong one is answered
    after `wrong_token_delay` seconds. `shutdown_timeout`, `close_timeout`: seconds that clients
    have to read what they are still sent when the server ends, and a single one when it leaves.

    Raises ValueError for a limit that is not above 0, and ListenError, from `start`, where it
    cannot listen.
    """

    def __init__(
        self,
        host: str = DEFAULT_HOST,
        port: int = DEFAULT_PORT,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        backlog: int = DEFAULT_BACKLOG,
        grace: float = DEFAULT_GRACE,
        notices: bool = True,
        handshake_timeout: float = HANDSHAKE_TIMEOUT,
        line_limit: int = protocol.LINE_LIMIT,
        max_clients: int = DEFAULT_MAX_CLIENTS,
        max_strangers: int = DEFAULT_MAX_STRANGERS,
        max_rate: float | None = None,
        tls: ssl.SSLContext | None = None,
        token: str | None = None,
        wrong_token_delay: float = WRONG_TOKEN_DELAY,
        shutdown_timeout: float = SHUTDOWN_TIMEOUT,
        close_timeout: float = CLOSE_TIMEOUT,
    ) -> None:
        for name, value in {
            "timeout": timeout,
            "backlog": backlog,
            "grace": grace,
            "handshake_timeout": handshake_timeout,
            "line_limit": line_limit,
            "max_clients": max_clients,
            "max_strangers": max_strangers,
            "max_rate": 1 if max_rate is None else max_rate,
            "wrong_token_delay": wrong_token_delay,
            "shutdown_timeout": shutdown_timeout,
            "close_timeout": close_timeout,
        }.items():
            if not value > 0:
                raise ValueError(f"{name} must be above 0, not {value}")
        self.host = host
        self.port = port  # once it listens: the one it listens on
        rate = RateLimiter(max_rate) if max_rate is not None else None
        self._limits = Limits(timeout, handshake_timeout, close_timeout, line_limit, rate)
        token_bytes = token.encode() if token is not None else None
        self._admission = Admission(tls, token_bytes, wrong_token_delay)
        self._backlog = backlog
        self._grace = grace
        self._notices = notices
        self._max_clients = max_clients
        self._max_strangers = max_strangers
        self._shutdown_timeout = shutdown_timeout
        self._began = 0.0  # set when it listens, in the loop's time
        self._around: Surroundings | None = None  # while it listens
        self._listeners: list[asyncio.Server] = []  # while it listens: one an address
        self._sessions: dict[asyncio.Task[None], Session] = {}  # while their tasks run
        self._accepting: set[asyncio.Task[None]] = set()  # between accepting and a session
        self._displaced_logged_at = -math.inf  # the last log line about displaced strangers
        self._displaced_logged = 0  # how many there had been by then

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen; when this returns, clients can connect. Where it raises, nothing is left open."""
        clock = ServingClock()
        self._around = Surroundings(
            room=Room(clock, self._backlog, self._grace, self._notices, self._max_clients),
            strangers=Strangers(self._max_strangers),
            admission=self._admission,
            limits=self._limits,
            clock=clock,
            traffic=Traffic(),
        )
        self._began = asyncio.get_running_loop().time()
        sockets: list[socket.socket] = []
        try:
            sockets = await bind(self.host, self.port)
            for listening in sockets:
                on_accepted = functools.partial(self._on_accepted, listening)
                # asyncio accepts `backlog` connections in a row and, out of descriptors, logs as
                # many errors, ever more often; so it is given 1, and the system more.
                listener = await asyncio.start_server(on_accepted, sock=listening, backlog=1)
                self._listeners.append(listener)
                listening.listen(LISTEN_BACKLOG)
        except (ListenError, OSError) as problem:  # the port may have been taken after `_bind`
            self._around = None
            for listener in self._listeners:
                listener.close()
            self._listeners.clear()
            for listening in sockets:
                listening.close()
            if isinstance(problem, OSError):
                where = format_address((self.host or "*", self.port))
                why = describe_os_error(problem)
                raise ListenError(f"can't listen on {where}: {why}") from None
            raise
        self.port = sockets[0].getsockname()[1]
        for listening in sockets:
            LOGGER.info("listening on %s", format_address(listening.getsockname()))
        clock.start()
        self._warn_of_exposure([listening.getsockname()[0] for listening in sockets])

    def statistics(self) -> dict[str, int | float]:
        """Return what can be said of the server in numbers, while it listens.

        Bytes, seconds, and counts, since it began or as of now.
        """
        if self._around is None:
            return {}
        room, traffic = self._around.room.statistics(), self._around.traffic
        return {
            "clients": room["clients"],
            "connections": len(self._sessions),
            "lagging": room["lagging"],
            "lines in": traffic.lines,
            "bytes in": traffic.bytes_in,
            "deliveries": room["deliveries"],
            "backlog bytes": room["backlog bytes"],
            "dropped": room["dropped"],
            "displaced": self._around.strangers.displaced,
            "uptime": round(asyncio.get_running_loop().time() - self._began, 1),
        }

    def _warn_of_exposure(self, hosts: list[str]) -> None:
        addresses = [ipaddress.ip_address(host.partition("%")[0]) for host in hosts]
        if self._admission.tls or all(address.is_loopback for address in addresses):
            return
        if self._admission.token is None:
            LOGGER.warning(
                "anyone who reaches this port can join, read and speak: "
                "no token is asked for, and nothing is encrypted"
            )
        else:
            LOGGER.warning(
                "the token and all that is said can be read on the way: "
                "nothing is encrypted, there is no TLS"
            )

    # --- accepting ---

    def _on_accepted(
        self, listening: socket.socket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        # A plain function: the task is ours, and asyncio logs no traceback where it is cancelled.
        connection = Connection.accept(writer)
        if self._around is None:
            connection.send(protocol.encode(protocol.error(protocol.SHUTTING_DOWN)))
            connection.close()
            return
        self._begin_session(connection, self._around)
        self._accept_more(listening)

    def _accept_more(self, listening: socket.socket) -> None:
        """Accept those who wait behind the one that asyncio has accepted.

        Out of descriptors, asyncio's own next attempt reports it.
        """
        for _ in range(ACCEPTS_PER_ITERATION - 1):
            try:
                accepted, _ = listening.accept()
            except OSError:
                return
            accepted.setblocking(False)
            task = asyncio.create_task(self._adopt(accepted))
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)

    async def _adopt(self, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.connect_accepted_socket(Connection, accepted)
        except OSError:  # it has gone again
            accepted.close()
            return
        if self._around:
            self._begin_session(connection, self._around)
        else:
            connection.reset()

    def _begin_session(self, connection: Connection, around: Surroundings) -> None:
        connection.limit_send_buffer(SEND_BUFFER)
        session = Session(connection, around)
        task = asyncio.create_task(session.run(), name="session")
        self._sessions[task] = session
        task.add_done_callback(self._forget)
        self._log_displaced(around.strangers.displaced)

    def _log_displaced(self, displaced: int) -> None:
        now = asyncio.get_running_loop().time()
        if (
            displaced > self._displaced_logged
            and now - self._displaced_logged_at >= DISPLACED_LOG_INTERVAL
        ):
            count = displaced - self._displaced_logged
            LOGGER.warning(
                "%d turned away: more than %d connections have not joined",
                count,
                self._max_strangers,
            )
            self._displaced_logged, self._displaced_logged_at = displaced, now

    def _forget(self, task: asyncio.Task[None]) -> None:
        del self._sessions[task]
        if not task.cancelled() and (problem := task.exception()):
            LOGGER.error("a session failed: please report this", exc_info=problem)

    # --- shutting down ---

    async def close(self) -> None:
        """Stop accepting, tell everyone, let them read what they are sent, and close all.

        Whoever has not read it within the shutdown timeout is cut off; if this is cancelled, at
        once.
        """
        if self._around is None:
            return
        around, self._around = self._around, None
        LOGGER.info("stopping with %d clients", around.room.statistics()["clients"])
        # 1. No session is born from here on: `_on_accepted` looks at _around. A connection that
        # asyncio has just accepted needs one more iteration with its server open, or it fails with
        # a traceback on 3.13 and is never closed. (`Server.wait_closed` differs from version to
        # version.)
        for listener in self._listeners:
            for listening in listener.sockets:
                with contextlib.suppress(NotImplementedError):  # Windows
                    asyncio.get_running_loop().remove_reader(listening)
        await asyncio.sleep(0)
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        # 2. Everyone in the room is sent the last line; those in their handshake are refused.
        around.room.close()
        self._interrupt_all(LeaveReason.SHUTDOWN)
        # 3. Their tasks end by themselves, are cut off with the reason, or are cancelled.
        try:
            await self._wait_for_sessions(around.clock)
            self._interrupt_all(LeaveReason.CUT_OFF)
            if self._sessions:
                await asyncio.wait(self._sessions, timeout=CUT_OFF_TIME)
        finally:
            tasks = [*self._sessions, *self._accepting]
            for task in tasks:
                task.cancel()
            around.clock.stop()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _interrupt_all(self, reason: LeaveReason) -> None:
        for session in self._sessions.values():
            session.interrupt(reason)

    async def _wait_for_sessions(self, clock: ServingClock) -> None:
        """Return when all have ended, or the shutdown timeout has passed in running time."""
        deadline = clock.running_time() + self._shutdown_timeout
        while self._sessions and (left := deadline - clock.running_time()) > 0:
            await asyncio.wait(self._sessions, timeout=left)
