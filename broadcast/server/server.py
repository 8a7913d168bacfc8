"""BroadcastServer: listen, accept connections, and shut down."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import ipaddress
import logging
import math
import re
import socket
import ssl
from collections.abc import Coroutine, Iterator
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Self

from ..errors import ListenError
from ..net.address import Address, describe_os_error, format_address
from ..net.connection import CLOSE_TIMEOUT, Connection
from ..protocol.commands import HEARTBEAT_INTERVAL
from ..protocol.framing import LINE_LIMIT
from ..protocol.handshake import DEFAULT_HOST, DEFAULT_PORT
from ..protocol.notices import client_count
from .accept import open_connection, take_over
from .admission import HANDSHAKE_TIMEOUT, WRONG_TOKEN_DELAY, Admission
from .clock import ServingClock
from .history import DEFAULT_HISTORY_BYTES, History
from .listen import LISTEN_BACKLOG, listen
from .rate import RateLimiter
from .room import LocalRoom, Room, RoomOptions
from .session import LeaveReason, Limits, ServerContext, Session
from .strangers import DEFAULT_MAX_STRANGERS, Strangers

if TYPE_CHECKING:
    from ..cluster.timing import ClusterTiming

LOGGER = logging.getLogger("broadcast")

DEFAULT_TIMEOUT = 300.0
"""Seconds: ten times the client's heartbeat, so that a short network failure disconnects nobody."""

DEFAULT_BACKLOG = 8 * 1024 * 1024
"""Bytes: a second or two of heavy traffic."""

DEFAULT_GRACE = 5.0
"""Seconds: more than most network interruptions last, and short enough that users tolerate it."""

SHUTDOWN_TIMEOUT = 5.0
"""Seconds of running time that clients have to read the rest of their data at a shutdown."""

UNREAD_TIMEOUT = 0.2
"""Seconds that sessions have to end by themselves after the shutdown timeout."""

ACCEPTS_PER_ITERATION = 16
"""Connections accepted in one iteration of the event loop: enough that busy senders do not delay
new connections, and few enough that many of these do not delay messages."""

DEFAULT_ROOM = "main"

DEFAULT_MAX_CLIENTS = 10_240
"""Clients that have joined, at once: as many as one core serves well."""

MAY_BE_ZERO = ("port", "history")
"""The numbers among the arguments of a server that need not be above 0."""


class ServerState(enum.Enum):
    """The state of a server, which may be started again once it is closed."""

    CLOSED = enum.auto()
    RUNNING = enum.auto()
    """It has been started; only now are connections served."""
    CLOSING = enum.auto()


@dataclass(eq=False, repr=False)
class BroadcastServer:
    """A broadcast server: `async with BroadcastServer(port=0) as server:` listens on `server.port`.

    `host`: a name or an address; empty for every interface. It listens on all addresses of a name.
    `port`: 0 for any free one, the same for all addresses.
    `timeout`: seconds of silence after which a client is disconnected.
    `backlog`: bytes kept for slow readers.
    `grace`: seconds for which slow readers of one address may keep input paused.
    `notices`: whether joins and leaves are announced.
    `handshake_timeout`: seconds within which a client must join.
    `line_limit`: bytes in a line.
    `history`: messages that a client is sent when it joins; 0 for none.
    `history_bytes`: the most memory that they take up.
    `max_clients`: clients that have joined, at once.
    `max_strangers`: connections that have not joined, at once; one more displaces the oldest.
    `max_rate`: lines per second; a client that sends faster is slowed down; None for no limit.
    `tls`: a context with a certificate; None for plain TCP.
    `token`: a secret that clients must present; None for none.
    `wrong_token_delay`: seconds until a wrong token is refused.
    `shutdown_timeout`: seconds that clients have to read the rest of their data at a shutdown.
    `close_timeout`: seconds that one client has to do so when it leaves.
    `cluster`: the URL of a Redis, of which all servers with the same `room` are one room; None for
    a room of this server alone.
    `cluster_timing`: when such a server is away, and when it is taken for dead.
    `reuse_port`: whether several processes may listen on the port.

    Raises ValueError for a limit that is not above 0, a negative `history`, a `port` that does not
    exist, or a bad `room`; `start` raises ListenError or ClusterError with the reason.
    """

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT  # after `start`, the port that it listens on
    _: KW_ONLY
    timeout: float = DEFAULT_TIMEOUT
    backlog: int = DEFAULT_BACKLOG
    grace: float = DEFAULT_GRACE
    notices: bool = True
    history: int = 0
    history_bytes: int = DEFAULT_HISTORY_BYTES
    handshake_timeout: float = HANDSHAKE_TIMEOUT
    line_limit: int = LINE_LIMIT
    max_clients: int = DEFAULT_MAX_CLIENTS
    max_strangers: int = DEFAULT_MAX_STRANGERS
    max_rate: float | None = None
    tls: ssl.SSLContext | None = None
    token: str | None = None
    wrong_token_delay: float = WRONG_TOKEN_DELAY
    shutdown_timeout: float = SHUTDOWN_TIMEOUT
    close_timeout: float = CLOSE_TIMEOUT
    cluster: str | None = None
    room: str = DEFAULT_ROOM
    cluster_timing: ClusterTiming | None = None
    reuse_port: bool = False

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            is_limit = type(value) in (int, float) and name not in MAY_BE_ZERO
            if is_limit and not value > 0:
                raise ValueError(f"{name} must be above 0, not {value}")
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port must be from 0 to 65535, not {self.port}")
        if self.history < 0:
            raise ValueError(f"history must be 0 or more, not {self.history}")
        check_room(self.room)
        self._started_at = 0.0  # in the loop's time
        self._state = ServerState.CLOSED
        self._context: ServerContext  # since `start`
        self._opened = contextlib.AsyncExitStack()  # all that it holds, from `start` to `close`
        self._listeners: list[asyncio.Server] = []  # while it listens: one for each address
        self._sessions: dict[asyncio.Task[None], Session] = {}  # while their tasks run

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen; when this returns, clients can connect. If it raises, nothing is left open.

        Raises RuntimeError if the server is running or closing.
        """
        if self._state is not ServerState.CLOSED:
            raise RuntimeError("the server has been started already")
        self._context = self._make_context()
        async with contextlib.AsyncExitStack() as opened:
            opened.enter_context(self._running())
            opened.enter_context(self._context.clock)
            await opened.enter_async_context(self._context.room)
            opened.push_async_callback(self._cancel_sessions)
            opened.callback(self._stop_listening)
            addresses = await self._listen()
            self._opened = opened.pop_all()
        self.port = addresses[0][1]
        for address in addresses:
            LOGGER.info("listening on %s", format_address(address))
        if self.timeout < 2 * HEARTBEAT_INTERVAL:
            LOGGER.warning(
                "the timeout of %g s is short: an idle client sends a heartbeat every %g s",
                self.timeout,
                HEARTBEAT_INTERVAL,
            )
        self._warn_of_exposure([host for host, *_ in addresses])

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        self._started_at = asyncio.get_running_loop().time()
        self._state = ServerState.RUNNING
        try:
            yield
        finally:
            self._state = ServerState.CLOSED

    def _make_context(self) -> ServerContext:
        clock = ServingClock()
        history = History(self.history, self.history_bytes) if self.history else None
        room = self._make_room(clock, history)
        token = None if self.token is None else self.token.encode()
        admission = Admission(self.tls, token, self.wrong_token_delay)
        max_rate = self.max_rate or math.inf
        limits = Limits(
            timeout=self.timeout,
            handshake_timeout=self.handshake_timeout,
            close_timeout=self.close_timeout,
            line_limit=self.line_limit,
            rate=RateLimiter(max_rate) if math.isfinite(max_rate) else None,
        )
        return ServerContext(room, Strangers(self.max_strangers), admission, limits, clock)

    def _make_room(self, clock: ServingClock, history: History | None) -> Room:
        where = None if self.cluster is None else (self.cluster, self.room, self.cluster_timing)
        options = RoomOptions(self.backlog, self.grace, self.notices, self.max_clients, where)
        if where is None:
            return LocalRoom(clock, options, history)
        from ..cluster.link import LinkedRoom  # a server alone loads nothing of it

        return LinkedRoom(clock, options, history)

    async def _listen(self) -> list[Address]:
        """Accept connections on every address of the host, and return these addresses.

        `asyncio.start_server` accepts them, but the streams that it makes are not used: sessions
        have a protocol of their own.
        """
        sockets: list[socket.socket] = []
        try:
            sockets = await listen(self.host, self.port, self.reuse_port)
            for listening in sockets:
                on_accepted = functools.partial(self._on_accepted, listening)
                # asyncio accepts `backlog` connections in a row and, without free descriptors, logs
                # as many errors; so it is given 1, and the system more.
                listener = await asyncio.start_server(on_accepted, sock=listening, backlog=1)
                self._listeners.append(listener)
                listening.listen(LISTEN_BACKLOG)
            if not self._is_running:
                raise RuntimeError("the server has been closed while it was starting")
        except OSError as problem:
            where = format_address((self.host or "*", self.port))
            why = describe_os_error(problem)
            raise ListenError(f"can't listen on {where}: {why}") from None
        finally:
            for listening in sockets[len(self._listeners) :]:
                listening.close()
        return [listening.getsockname() for listening in sockets]

    @property
    def _is_running(self) -> bool:
        return self._state is ServerState.RUNNING

    def statistics(self) -> dict[str, int | float]:
        """Return counts, bytes and seconds since the start or as of now; empty if not listening."""
        if not self._is_running:
            return {}
        return {
            "clients": len(self._context.room),
            "connections": len(self._sessions),
            **self._context.room.statistics(),
            "displaced": self._context.strangers.displaced,
            "uptime": round(asyncio.get_running_loop().time() - self._started_at, 1),
        }

    def _warn_of_exposure(self, hosts: list[str]) -> None:
        addresses = [ipaddress.ip_address(host.partition("%")[0]) for host in hosts]
        if self.tls or all(address.is_loopback for address in addresses):
            return
        if self.token is None:
            LOGGER.warning(
                "anyone who reaches this port can join, read and speak: "
                "no token is asked for, and nothing is encrypted"
            )
        else:
            LOGGER.warning("traffic, including the token, can be intercepted: there is no TLS")

    # --- accepting ---

    def _on_accepted(
        self,
        listening: socket.socket,
        _reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Serve the connection that asyncio has accepted, and those that are queued after it.

        Only its socket is used, with a protocol of our own instead of asyncio's streams.
        """
        # Not a coroutine: asyncio would log a traceback when its task is cancelled.
        transport = writer.transport
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()  # what arrives is for the session
        self._start_session(take_over(writer))
        for _ in range(ACCEPTS_PER_ITERATION - 1):
            try:
                accepted, _ = listening.accept()
            except OSError:
                return  # none is queued; asyncio's next attempt reports any other error
            self._start_session(open_connection(accepted))

    def _start_session(self, opening: Coroutine[None, None, Connection]) -> None:
        """Serve a connection, once it is open, in a task that owns it until it is closed."""
        session = Session(self._context)
        task = asyncio.create_task(session.run(opening), name="session")
        self._sessions[task] = session
        task.add_done_callback(self._forget)
        if not self._is_running:
            session.interrupt(LeaveReason.SHUTDOWN)

    def _forget(self, task: asyncio.Task[None]) -> None:
        del self._sessions[task]
        if not task.cancelled() and (problem := task.exception()):
            LOGGER.error("a session failed: please report this", exc_info=problem)

    # --- shutting down ---

    async def close(self) -> None:
        """Stop accepting, notify all clients, let them read the rest of their data, and close.

        A client that does not read it within the shutdown timeout is cut off. If this method is
        cancelled, all clients are cut off at once. While it runs, another call returns at once.
        """
        if not self._is_running:
            return
        self._state = ServerState.CLOSING  # no more sessions begin
        context = self._context
        LOGGER.info("stopping with %s", client_count(len(context.room)))
        async with self._opened:  # which then closes what is left
            await self._stop_accepting()
            # Clients that have joined are sent the last line; those in their handshake are refused.
            context.room.close()
            self._interrupt_all(LeaveReason.SHUTDOWN)
            deadline = context.clock.running_time() + self.shutdown_timeout
            while self._sessions and (left := deadline - context.clock.running_time()) > 0:
                await asyncio.wait(self._sessions, timeout=left)
            self._interrupt_all(LeaveReason.UNREAD)
            if self._sessions:
                await asyncio.wait(self._sessions, timeout=UNREAD_TIMEOUT)

    async def _cancel_sessions(self) -> None:
        """Cancel all sessions that have not ended by themselves, without a word to the others."""
        self._context.room.close()
        for task in self._sessions:
            # Not at once: a task that is cancelled before it has begun can't close what it owns.
            asyncio.get_running_loop().call_soon(task.cancel)
        await asyncio.gather(*self._sessions, return_exceptions=True)

    def _stop_listening(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    async def _stop_accepting(self) -> None:
        """Stop listening, after asyncio has dealt with the connections that it has accepted.

        Otherwise these fail with a traceback on 3.13 and are never closed. `Server.wait_closed`
        would not help: it behaves differently from version to version.
        """
        for listener in self._listeners:
            for listening in listener.sockets:
                with contextlib.suppress(NotImplementedError):  # Windows
                    asyncio.get_running_loop().remove_reader(listening)
        await asyncio.sleep(0)
        self._stop_listening()

    def _interrupt_all(self, reason: LeaveReason) -> None:
        for session in self._sessions.values():
            session.interrupt(reason)


def check_room(name: str) -> str:
    """Return a room's name if it is allowed; otherwise raise ValueError."""
    if not re.fullmatch(r"[^\s{}]{1,64}", name) or not name.isprintable():
        raise ValueError("a room's name has 1 to 64 characters, no white space and no braces")
    return name
