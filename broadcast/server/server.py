"""BroadcastServer: listen, accept connections, and shut down."""

import asyncio
import contextlib
import enum
import functools
import ipaddress
import logging
import math
import socket
from collections.abc import AsyncIterator, Coroutine
from typing import Self

from ..errors import ListenError
from ..net.address import Address, describe_os_error, format_address
from ..net.connection import Connection
from ..protocol.commands import HEARTBEAT_INTERVAL
from ..protocol.notices import client_count
from ..states import follow
from .accept import open_connection, take_over
from .clock import ServingClock
from .history import History
from .listen import LISTEN_BACKLOG, listen
from .rate import RateLimiter
from .reasons import LeaveReason
from .room import LocalRoom, Room
from .session import ServerContext
from .sessions import Sessions
from .settings import Settings
from .strangers import Strangers

LOGGER = logging.getLogger("broadcast")

UNREAD_TIMEOUT = 0.2
"""Seconds that sessions have to end by themselves after the shutdown timeout."""

ITERATIONS_TO_ACCEPT = 2
"""Iterations of the event loop from asyncio's accepting a connection to its calling back."""

ACCEPTS_PER_ITERATION = 16
"""Connections accepted in one iteration of the event loop: enough that busy senders do not delay
new connections, and few enough that many of these do not delay messages."""


class ServerState(enum.Enum):
    """The state of a server; changed only in `BroadcastServer._enter`."""

    CLOSED = enum.auto()
    """It may be started, also once more."""
    STARTING = enum.auto()
    RUNNING = enum.auto()
    """It listens; only now are connections served."""
    CLOSING = enum.auto()


NEXT_STATES = {
    ServerState.CLOSED: (ServerState.STARTING,),
    ServerState.STARTING: (ServerState.RUNNING, ServerState.CLOSING, ServerState.CLOSED),
    ServerState.RUNNING: (ServerState.CLOSING, ServerState.CLOSED),
    ServerState.CLOSING: (ServerState.CLOSED,),
}
"""The states that may follow each state."""


class BroadcastServer(Settings):
    """A broadcast server: `async with BroadcastServer(port=0) as server:` listens on `server.port`.

    Its arguments are the fields of `Settings`, of which `host` and `port` may be positional.
    `start` raises ListenError or ClusterError with the reason.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._started_at = 0.0  # in the loop's time
        self._state = ServerState.CLOSED
        self._closed = asyncio.Event()  # set while it is
        self._closed.set()
        self._context: ServerContext  # since `start`
        self._lifetime = contextlib.AsyncExitStack()  # of `_serving`, from `start` to `close`
        self._listeners: list[asyncio.Server] = []  # while it listens: one for each address
        self._sessions: Sessions  # since `start`

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
        addresses = await self._lifetime.enter_async_context(self._serving())
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

    @contextlib.asynccontextmanager
    async def _serving(self) -> AsyncIterator[list[Address]]:
        """Hold all that a running server needs; what was opened first is closed last."""
        context = self._context = self._make_context()
        self._started_at = asyncio.get_running_loop().time()
        self._enter(ServerState.STARTING)
        self._closed.clear()
        try:
            with context.clock:
                async with context.room.open(), Sessions(context) as self._sessions:
                    try:
                        yield await self._listen()
                        await self._end_sessions()
                    finally:
                        await self._stop_accepting()
        finally:
            self._enter(ServerState.CLOSED)
            self._closed.set()

    def _enter(self, state: ServerState) -> None:
        self._state = follow(NEXT_STATES, self._state, state)

    def _make_context(self) -> ServerContext:
        clock = ServingClock()
        history = History(self.history, self.history_bytes) if self.history else None
        room = self._make_room(clock, history)
        max_rate = self.max_rate or math.inf
        rate = RateLimiter(max_rate) if math.isfinite(max_rate) else None
        return ServerContext(self, room, Strangers(self.max_strangers), rate, clock)

    def _make_room(self, clock: ServingClock, history: History | None) -> Room:
        if self.cluster is None:
            return LocalRoom(clock, self, history)
        from ..cluster.link import LinkedRoom  # a server alone loads nothing of it

        return LinkedRoom(clock, self, history)

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
                listener = await asyncio.start_server(
                    on_accepted, sock=listening, backlog=1, start_serving=False
                )
                self._listeners.append(listener)
            if self._state is ServerState.STARTING:
                self._enter(ServerState.RUNNING)
            for listener, listening in zip(self._listeners, sockets, strict=True):
                await listener.start_serving()
                listening.listen(LISTEN_BACKLOG)
            if not self._is_running:
                raise RuntimeError("the server was closed while it was starting")
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
        self._start_session(take_over(writer, self.tls))
        for _ in range(ACCEPTS_PER_ITERATION - 1):
            try:
                accepted, _ = listening.accept()
            except OSError:
                return  # none is queued; asyncio's next attempt reports any other error
            self._start_session(open_connection(accepted, self.tls))

    def _start_session(self, opening: Coroutine[None, None, Connection]) -> None:
        """Serve a connection, or refuse it if the server is closing already."""
        session = self._sessions.start(opening)
        if not self._is_running:
            session.interrupt(LeaveReason.SHUTDOWN)

    # --- shutting down ---

    async def close(self) -> None:
        """Stop accepting, notify all clients, let them read the rest of their data, and close.

        A client that does not read it within the shutdown timeout is cut off. If this method is
        cancelled, all clients are cut off at once. While it runs, or `start` does, which fails
        then, another call waits for the same end.
        """
        if self._state in (ServerState.STARTING, ServerState.RUNNING):
            self._enter(ServerState.CLOSING)  # no more sessions begin
            LOGGER.info("stopping with %s", client_count(len(self._context.room)))
            await self._lifetime.aclose()
        await self._closed.wait()

    async def _end_sessions(self) -> None:
        """Let all sessions end by themselves, and interrupt those that do not in time."""
        room, clock = self._context.room, self._context.clock
        await self._stop_accepting()
        await room.finish()
        # Clients that have joined are sent the last line; those in their handshake are refused.
        room.close()
        self._sessions.interrupt(LeaveReason.SHUTDOWN)
        deadline = clock.running_time() + self.shutdown_timeout
        while self._sessions and (left := deadline - clock.running_time()) > 0:
            await self._sessions.wait(left)
        self._sessions.interrupt(LeaveReason.UNREAD)
        await self._sessions.wait(UNREAD_TIMEOUT)

    async def _stop_accepting(self) -> None:
        """Stop listening, after asyncio has dealt with the connections that it has accepted.

        Otherwise these fail with a traceback on 3.13 and are never closed. `Server.wait_closed`
        would not help: it behaves differently from version to version.
        """
        for listener in self._listeners:
            for listening in listener.sockets:
                with contextlib.suppress(NotImplementedError):  # Windows
                    asyncio.get_running_loop().remove_reader(listening)
        try:
            for _ in range(ITERATIONS_TO_ACCEPT if self._listeners else 0):
                await asyncio.sleep(0)
        finally:
            for listener in self._listeners:
                listener.close()
            self._listeners.clear()
