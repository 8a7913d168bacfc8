"""BroadcastServer: asyncio.start_server, accepting, shutting down."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
import ssl
from types import TracebackType
from typing import Self

from . import protocol
from .addresses import Address, reason, resolve, show_address
from .clock import ServingClock
from .fanout import Fanout
from .logger import LOGGER
from .protocol import BroadcastError
from .registry import Registry
from .session import End, Room, Session, Traffic
from .streams import READ_SIZE, Connection

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

SHUTDOWN_TIME = 5.0
"""Seconds that those who are connected have to take what they are owed when the server ends."""

LISTEN_BACKLOG = 4096
"""Connections that the system keeps until they are accepted: what Linux allows by default."""

SEND_BUFFER = 393_216
"""Bytes that the system may hold for one client, three batches (Linux doubles it, for what it needs itself). Left to itself it takes up to
4 MiB, and 500 stalled readers held 1.5 GB; with this 0.4 GB, at the same speed. With 262,144 readers that are slower than the server
cost it 10 % more a delivery."""

DEFAULT_MAX_CLIENTS = 10_240
"""Connections at once, those in their handshake too: what one core serves well, and some 100 MB."""

TURNED_AWAY_LIMIT = 64
"""Connections beyond that at once that are told so, for FAREWELL_TIME each; more are cut off."""

PORT_TRIES = 20
"""How often a free port is tried before it is given up that it is free on all addresses of a host."""


class ListenError(BroadcastError):
    """The server cannot listen where it was told to."""


class BroadcastServer:
    """A server in this process: `async with BroadcastServer(port=0) as server:` listens while the body runs, on `server.port`.

    `host`: a name or an address; empty means every interface, a name all its addresses. `port`: 0 takes a free one, the same for all.
    `timeout`, `handshake_timeout`: seconds of silence after which a client is gone. `backlog`: bytes kept for slow readers. `grace`:
    seconds for which they may hold up the room. `notices`: whether joining and leaving is told. `line_limit`: bytes. `max_clients`:
    connections at once. `max_rate`: lines a second from one client, which is slowed down to it; None for any. `tls`: a context with a
    certificate. `token`: a word that clients have to know.

    Raises ValueError for a limit that is not above 0, and ListenError, from `start`, where it cannot listen.
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
        max_rate: float | None = None,
        tls: ssl.SSLContext | None = None,
        token: str | None = None,
    ) -> None:
        for name, value in {
            "timeout": timeout,
            "backlog": backlog,
            "grace": grace,
            "handshake_timeout": handshake_timeout,
            "line_limit": line_limit,
            "max_clients": max_clients,
            "max_rate": 1 if max_rate is None else max_rate,
        }.items():
            if not value > 0:
                raise ValueError(f"{name} must be above 0, not {value}")
        self.host = host
        self.port = port  # once it listens: the one it listens on
        self._timeout = timeout
        self._backlog = backlog
        self._grace = grace
        self._notices = notices
        self._handshake_timeout = handshake_timeout
        self._line_limit = line_limit
        self._max_clients = max_clients
        self._max_rate = max_rate
        self._tls = tls
        self._token = token.encode() if token is not None else None
        self._began = 0.0  # set when it listens, in the loop's time
        self._buffer = memoryview(bytearray(READ_SIZE))  # what all connections read into, one at a time
        self._room: Room | None = None  # while it listens
        self._listeners: list[asyncio.Server] = []  # while it listens: one an address
        self._sessions: dict[asyncio.Task[None], Session] = {}  # while their tasks run
        self._turned_away: set[asyncio.Task[None]] = set()  # likewise

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exception: BaseException | None, traceback: TracebackType | None) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen; when this returns, clients can connect. Where it raises, nothing is left open."""
        clock = ServingClock()
        self._room = Room(
            registry=Registry(),
            fanout=Fanout(clock, self._backlog, self._grace),
            clock=clock,
            timeout=self._timeout,
            handshake_timeout=self._handshake_timeout,
            line_limit=self._line_limit,
            max_rate=self._max_rate,
            notices=self._notices,
            tls=self._tls,
            token=self._token,
            traffic=Traffic(),
        )
        self._began = asyncio.get_running_loop().time()
        sockets: list[socket.socket] = []
        try:
            sockets = await _bind(self.host, self.port)
            for listening in sockets:
                # asyncio accepts `backlog` connections in a row and, out of descriptors, logs as many errors; so give it 1, and the system more.
                self._listeners.append(await asyncio.start_server(self._accept, sock=listening, backlog=1))
                listening.listen(LISTEN_BACKLOG)
        except (ListenError, OSError) as problem:  # another program may have taken the port after it was bound
            self._room = None
            for listener in self._listeners:
                listener.close()
            self._listeners.clear()
            for listening in sockets:
                listening.close()
            if isinstance(problem, OSError):
                where = show_address((self.host or "*", self.port))
                raise ListenError(f"can't listen on {where}: {reason(problem)}") from None
            raise
        self.port = sockets[0].getsockname()[1]
        for listening in sockets:
            LOGGER.info("listening on %s", show_address(listening.getsockname()))
        clock.start()
        self._warn_of_exposure([listening.getsockname()[0] for listening in sockets])

    def statistics(self) -> dict[str, int | float]:
        """Return what can be said of the server in numbers, while it listens: bytes, seconds, and counts since it began or as of now."""
        if self._room is None:
            return {}
        fanout, traffic = self._room.fanout, self._room.traffic
        return {
            "clients": len(self._room.registry),
            "lagging": fanout.lagging,
            "lines in": traffic.lines,
            "bytes in": traffic.octets,
            "deliveries": fanout.deliveries,
            "backlog bytes": fanout.backlog,
            "dropped": fanout.dropped,
            "uptime": round(asyncio.get_running_loop().time() - self._began, 1),
        }

    def _warn_of_exposure(self, hosts: list[str]) -> None:
        if self._tls or all(ipaddress.ip_address(host.partition("%")[0]).is_loopback for host in hosts):
            return
        if self._token is None:
            LOGGER.warning("anyone who reaches this port can join, read and speak: no token is asked for, and nothing is encrypted")
        else:
            LOGGER.warning("the token and all that is said can be read on the way: nothing is encrypted, there is no TLS")

    async def close(self) -> None:
        """Stop accepting, tell everyone, give them SHUTDOWN_TIME to take what they are owed, and return when all is closed.

        Cancelled meanwhile, it cuts them off at once.
        """
        if self._room is None:
            return
        room, self._room = self._room, None
        LOGGER.info("stopping with %d clients", len(room.registry))
        # 1. No session is born from here on: `_accept` looks at _room. (asyncio.Server.wait_closed differs from version to version.) A connection
        # that asyncio has just accepted needs one more turn with its server open, or it fails with a traceback on 3.13 and is never closed.
        for listener in self._listeners:
            for listening in listener.sockets:
                with contextlib.suppress(NotImplementedError):  # Windows
                    asyncio.get_running_loop().remove_reader(listening)
        await asyncio.sleep(0)
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        # 2. Everyone in the room gets the last line behind what they are owed; those at the door are refused.
        room.fanout.close(protocol.encode(protocol.notice(protocol.SHUTTING_DOWN)))
        for session in self._sessions.values():
            session.interrupt(End.SHUTDOWN)
        # 3. Their tasks end by themselves, or are ended.
        try:
            if self._sessions:
                await asyncio.wait(self._sessions, timeout=SHUTDOWN_TIME)
        finally:
            tasks = [*self._sessions, *self._turned_away]
            for task in tasks:
                task.cancel()
            room.clock.stop()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A plain function: the task is ours, and asyncio logs no traceback where it is cancelled.
        if self._room is None:
            writer.write(protocol.encode(protocol.error(protocol.SHUTTING_DOWN)))
            writer.close()
            return
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        connection = Connection.accept(writer, self._buffer)
        if len(self._sessions) >= self._max_clients:
            self._turn_away(connection)
            return
        session = Session(connection, self._room)
        task = asyncio.create_task(session.run())
        self._sessions[task] = session
        task.add_done_callback(self._forget)

    def _turn_away(self, connection: Connection) -> None:
        LOGGER.info("%s refused: %s", connection.peer, protocol.FULL)
        if self._tls or len(self._turned_away) >= TURNED_AWAY_LIMIT:
            connection.reset()
            return
        connection.write(protocol.encode(protocol.error(protocol.FULL)))
        task = asyncio.create_task(connection.end_in_order())
        self._turned_away.add(task)
        task.add_done_callback(self._turned_away.discard)

    def _forget(self, task: asyncio.Task[None]) -> None:
        del self._sessions[task]
        if not task.cancelled() and (problem := task.exception()):
            LOGGER.error("a session failed: please report this", exc_info=problem)


async def _bind(host: str, port: int) -> list[socket.socket]:
    """Return a bound socket for each address of `host`, all on one port; raise ListenError with the reason."""
    where = show_address((host or "*", port))
    try:
        addresses = await resolve(host, port, flags=socket.AI_PASSIVE)
    except OSError as problem:
        raise ListenError(f"can't listen on {where}: {reason(problem)}") from None
    for _ in range(PORT_TRIES):
        with contextlib.ExitStack() as opened:
            sockets: list[socket.socket] = []
            try:
                for address in addresses:
                    free = sockets[0].getsockname()[1] if sockets else port
                    if bound := _bind_one(address, free):
                        sockets.append(opened.enter_context(bound))
            except OSError as problem:
                if port == 0 and problem.errno == errno.EADDRINUSE:
                    continue  # free on one address, taken on another
                raise ListenError(f"can't listen on {where}: {reason(problem)}") from None
            if not sockets:
                raise ListenError(f"can't listen on {where}: {os.strerror(errno.EADDRNOTAVAIL)}")
            opened.pop_all()
            return sockets
    raise ListenError(f"can't listen on {where}: no port is free on all its addresses")


def _bind_one(address: Address, port: int) -> socket.socket | None:
    """Return a socket bound to an address, None where the system has no such address (IPv6 switched off, say)."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    bound: socket.socket | None = None
    try:
        bound = socket.socket(family, socket.SOCK_STREAM)
        if os.name == "posix":  # elsewhere the option would let two programs share a port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((address[0], port, *address[2:]))
    except OSError as problem:
        if bound:
            bound.close()
        if problem.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            return None
        raise
    return bound
