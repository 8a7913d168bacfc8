"""Serve one client, from its connection to its disconnection."""

from __future__ import annotations

import asyncio
import enum
import functools
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from .. import protocol
from ..errors import HandshakeError
from ..net.connection import TIME_SLICE, Connection
from ..protocol import Block, LineSplitter, TooLong
from . import dispatcher, handshake
from .budget import budget_key
from .clock import ServingClock
from .handshake import Admission
from .rate import RateLimiter
from .room import Member, Room
from .scope import Scope
from .strangers import Strangers
from .watchdog import watch

LOGGER = logging.getLogger("broadcast")

FAST_PATH_LIMIT = 1024
"""Bytes of a chunk that is handled in the callback that brings it: less than 1 ms, and less than a
batch, however long the name before its lines. A longer one gets a time slice of its own."""


class State(enum.Enum):
    """Where a session is in its life; changed in `Session._enter` alone, always to a later one."""

    HANDSHAKE = enum.auto()
    REFUSED = enum.auto()
    JOINED = enum.auto()
    LEAVING = enum.auto()
    CLOSED = enum.auto()


class LeaveReason(enum.Enum):
    """Why a client goes; the value is what the others and the log are told."""

    LEFT = ""
    LOST = "connection lost"
    TIMED_OUT = "timed out"
    TOO_SLOW = "too slow"
    SHUTDOWN = protocol.SHUTTING_DOWN
    DISPLACED = "too many connections that have not joined"
    CUT_OFF = "did not read in time at the shutdown"


INTERRUPTIONS: dict[State, frozenset[LeaveReason]] = {
    State.HANDSHAKE: frozenset(
        {LeaveReason.TIMED_OUT, LeaveReason.DISPLACED, LeaveReason.SHUTDOWN, LeaveReason.CUT_OFF}
    ),
    State.REFUSED: frozenset({LeaveReason.DISPLACED, LeaveReason.CUT_OFF}),
    State.JOINED: frozenset({LeaveReason.TIMED_OUT, LeaveReason.TOO_SLOW, LeaveReason.SHUTDOWN}),
    # A shutdown has had its effect, or takes effect when the client has gone.
    State.LEAVING: frozenset({LeaveReason.TIMED_OUT, LeaveReason.TOO_SLOW, LeaveReason.CUT_OFF}),
    State.CLOSED: frozenset(),
}
"""Which reasons interrupt a session in which state; others have no effect."""


@dataclass(slots=True)
class Traffic:
    """What came in since the beginning."""

    lines: int = 0
    bytes_in: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """What every session of a server keeps to."""

    timeout: float  # seconds of silence after which a client is gone
    handshake_timeout: float  # seconds until a client has to have joined
    close_timeout: float  # seconds that a client has to read the last of what it is sent
    line_limit: int  # bytes
    rate: RateLimiter | None  # of lines from one client


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a session needs of its server."""

    room: Room
    strangers: Strangers
    admission: Admission
    limits: Limits
    clock: ServingClock
    traffic: Traffic


class Session:
    """One client, from its connection to its disconnection; `run` it once.

    Its life is HANDSHAKE -> JOINED -> LEAVING -> CLOSED, or HANDSHAKE -> REFUSED -> CLOSED. Each
    phase has a fresh scope, which `interrupt` ends early, and a timeout task of its own.
    """

    __slots__ = (
        "__weakref__",
        "_around",
        "_chunks",
        "_connection",
        "_input_ended",
        "_joined_at",
        "_last_activity",
        "_lines",
        "_member",
        "_prefix",
        "_rate_used_until",
        "_scope",
        "_splitter",
        "_state",
        "_unread",
    )  # there may be ten thousand

    def __init__(self, connection: Connection, around: Surroundings) -> None:
        self._connection = connection
        self._around = around
        self._state = State.HANDSHAKE
        self._scope: Scope[LeaveReason] = Scope()  # of the phase that the state names
        self._last_activity = (
            around.clock.reading_time()
        )  # when something was heard, in reading time
        self._unread = (0, 0)  # of a leaving client: its cursor and unsent bytes at the last look
        self._splitter = LineSplitter(around.limits.line_limit)
        self._chunks: list[bytes | TooLong] = []  # whole lines, read and not handled yet
        self._input_ended = False  # once the client's last line is among them
        self._rate_used_until = 0.0  # with a maximum rate: its state there
        # From its joining on.
        self._member: Member | None = None
        self._prefix = b""  # in front of each of its messages
        self._joined_at = 0.0  # in running time
        self._lines = 0  # received
        around.strangers.add(self)

    async def run(self) -> None:
        """Serve the client. All that it had is free when this returns."""
        try:
            member = await self._run_handshake()
            if member:
                timeout = self._around.limits.timeout
                body = self._message_loop(member)
                reason = await self._phase(body, timeout, self._idle_deadline)
                await self._run_leaving(member, reason or LeaveReason.LEFT)
        finally:
            self._enter(State.CLOSED)
            self._around.strangers.discard(self)
            self._connection.on_chunk = None
            if self._member:
                self._around.room.forget(self._member)
                self._member = None  # its subscription refers to this session: a cycle
                if rate := self._around.limits.rate:
                    now = self._around.clock.running_time()
                    rate.leave(budget_key(self._connection.peer), self._rate_used_until, now)
            self._connection.reset()  # without effect after it was closed gracefully

    def interrupt(self, reason: LeaveReason) -> None:
        """End the current phase early, if the reason interrupts it; the first one counts."""
        if reason in INTERRUPTIONS[self._state]:
            self._scope.interrupt(reason)

    def displace(self) -> None:
        """Make room for a newcomer that has not joined either."""
        self.interrupt(LeaveReason.DISPLACED)

    def _enter(self, state: State) -> None:
        self._state = state
        self._scope = Scope()

    async def _phase(
        self, body: Awaitable[LeaveReason | None], timeout: float, deadline: Callable[[], float]
    ) -> LeaveReason | None:
        """Run a phase until it ends or is interrupted, and return why."""
        scope, reason = self._scope, None
        on_expired = functools.partial(scope.interrupt, LeaveReason.TIMED_OUT)
        clock = self._around.clock.reading_time
        watchdog = asyncio.create_task(watch(deadline, clock, timeout, on_expired), name="watchdog")
        try:
            async with scope:
                reason = await body
        finally:
            watchdog.cancel()
        return scope.reason or reason

    # --- HANDSHAKE and REFUSED ---

    async def _run_handshake(self) -> Member | None:
        """Let the client in, or tell it why not."""
        limit = self._around.limits.handshake_timeout
        deadline = self._last_activity + limit
        try:
            reason = await self._phase(self._join(), limit, lambda: deadline)
        except HandshakeError as error:
            await self._refuse(str(error))
        else:
            if self._member is None and reason is LeaveReason.DISPLACED:
                await self._turn_away()
            elif self._member is None and reason:
                timed_out = reason is LeaveReason.TIMED_OUT
                await self._refuse(protocol.HANDSHAKE_TIMED_OUT if timed_out else reason.value)
        return self._member

    async def _join(self) -> None:
        around, connection = self._around, self._connection
        connection.limit_next_read(handshake.READ_SIZE)
        if around.admission.tls is None:
            around.room.check_space()
        connect, rest, size = await handshake.shake_hands(connection, around.admission)
        self._member = await around.room.join(connect.username, connection, self._on_evicted)
        self._enter(State.JOINED)
        around.strangers.discard(self)
        self._prefix = f"{self._member.name}: ".encode()
        self._joined_at = around.clock.running_time()
        self._last_activity = around.clock.reading_time()
        around.traffic.bytes_in += size
        if rest:
            self._split(rest)
        connection.limit_read_ahead(self._splitter.held)
        if around.limits.rate:
            self._rate_used_until = around.limits.rate.enter(
                budget_key(connection.peer), self._joined_at
            )
        else:
            connection.on_chunk = self._try_fast_path
        LOGGER.info("%s in from %s", self._member.name, connection.peer)

    async def _refuse(self, why: str) -> None:
        LOGGER.info("%s refused: %s", self._connection.peer, why)
        self._enter(State.REFUSED)
        if self._is_understood:
            self._send_error(why)
        async with self._scope:
            await self._connection.close_gracefully(self._around.limits.close_timeout)

    async def _turn_away(self) -> None:
        """Close for a newcomer's sake, but not soon, if there is room for that.

        Whoever opens a connection for each that is closed would do so as fast as it could.
        """
        self._enter(State.REFUSED)
        async with self._scope:
            await asyncio.sleep(self._around.limits.close_timeout)
        if self._is_understood:
            self._send_error(protocol.FULL)
        self._connection.close()

    @property
    def _is_understood(self) -> bool:
        """Whether the client would understand what we send: not before TLS is set up."""
        return self._around.admission.tls is None or self._connection.is_encrypted

    def _send_error(self, text: str) -> None:
        self._connection.send(protocol.encode(protocol.error(text)))

    # --- JOINED ---

    def _idle_deadline(self) -> float:
        return self._last_activity + self._around.limits.timeout

    def _on_evicted(self) -> None:
        self.interrupt(LeaveReason.TOO_SLOW)

    async def _message_loop(self, member: Member) -> LeaveReason:
        """Handle what the client sends, in order, until it leaves.

        While something has to wait, all that is kept of the input is the bytes that were read.
        """
        loop = asyncio.get_running_loop()
        while (chunk := await self._next_chunk()) is not None:
            slice_ends = loop.time() + TIME_SLICE
            if isinstance(chunk, TooLong):
                too_long = protocol.line_too_long(self._around.limits.line_limit)
                await self._answer((protocol.encode(too_long),))
                continue
            if self._around.limits.rate:
                allowed = await self._limit_rate(chunk, self._around.limits.rate)
                if allowed is None:
                    return LeaveReason.LOST
                chunk = allowed
            await self._wait_to_publish()
            count, items = protocol.parse(chunk, self._prefix)
            self._count(count)
            for item in items:
                if isinstance(item, Block):
                    self._around.room.publish(member, item)
                elif await self._execute(member, item):
                    return LeaveReason.LEFT
                if loop.time() > slice_ends:
                    await self._yield()
                    slice_ends = loop.time() + TIME_SLICE
                await self._wait_to_publish()  # the next item is made after this
        return LeaveReason.LOST if self._connection.lost else LeaveReason.LEFT

    async def _wait_to_publish(self) -> None:
        if self._around.room.must_wait_to_publish:
            self._connection.pause_reading()
            await self._around.room.wait_to_publish()

    async def _yield(self) -> None:
        """Let others have their time slice."""
        self._connection.pause_reading()
        await asyncio.sleep(0)

    async def _next_chunk(self) -> bytes | TooLong | None:
        """Return the next whole lines that the client has sent, None at the end."""
        while not self._chunks:
            if self._input_ended:
                return None
            data = await self._connection.read_chunk()
            self._around.traffic.bytes_in += len(data)
            self._split(data)
        return self._chunks.pop(0)

    def _split(self, data: bytes) -> None:
        """Split what was read into whole lines; no data is the end of the input."""
        self._input_ended = not data
        if data:
            self._chunks += self._splitter.feed(data)
        elif not self._connection.lost:  # a line that a reset cut off is not whole
            self._chunks += self._splitter.finish()
        self._connection.limit_read_ahead(self._splitter.held)
        if self._chunks:
            self._last_activity = self._around.clock.reading_time()

    def _try_fast_path(self, data: bytes) -> bool:
        """Handle a short chunk of messages, or a heartbeat, in the callback that brings it.

        Returns False where something has to wait. Waking the session's task would cost more.
        """
        member, room = self._member, self._around.room
        if member is None or self._state is not State.JOINED:
            return False
        limit = min(FAST_PATH_LIMIT, self._around.limits.line_limit)
        if len(data) > limit or not self._splitter.is_between_lines:
            return False
        count = 1
        blocks: Iterable[Block | str] = ()
        if data not in protocol.HEARTBEATS:
            if b"\\" in data or not data.endswith(b"\n") or room.must_wait_to_publish:
                return False
            count, blocks = protocol.parse(data, self._prefix)
        self._around.traffic.bytes_in += len(data)
        self._count(count)
        self._last_activity = self._around.clock.reading_time()
        for block in blocks:
            assert isinstance(block, Block)  # a command would have a backslash
            room.publish(member, block)
        return True

    def _count(self, lines: int) -> None:
        self._lines += lines
        self._around.traffic.lines += lines

    async def _limit_rate(self, chunk: bytes, rate: RateLimiter) -> bytes | None:
        """Return the first lines of a chunk, a second's worth at most, when they may be handled.

        The client feels it as backpressure. If its connection breaks meanwhile, this returns None,
        and what it has sent is dropped: otherwise whoever connects, sends and resets would get
        around the limit.
        """
        clock = self._around.clock
        self._connection.pause_reading()
        lines = chunk.split(b"\n", min(rate.most_lines, len(chunk)))
        if rest := lines.pop():
            self._chunks.insert(0, rest)
        self._rate_used_until = rate.use(self._rate_used_until, len(lines), clock.running_time())
        while (left := self._rate_used_until - clock.running_time()) > 0:
            if self._connection.is_closing:
                return None
            self._last_activity = clock.reading_time()  # it is not silent, we do not listen
            await asyncio.sleep(min(left, self._around.limits.timeout / 2))
        return b"\n".join([*lines, b""])

    async def _execute(self, member: Member, line: str) -> bool:
        """Execute a command; return whether the client leaves by it."""
        answer = dispatcher.answer(line, member.name, await self._around.room.roster())
        if not answer.leave:
            await self._answer(answer.pieces)
        return answer.leave

    async def _answer(self, pieces: Iterable[bytes]) -> None:
        """Answer, and wait until it is sent, so a client that never reads only blocks itself."""
        for piece in pieces:
            if self._scope.reason is None:
                self._connection.send(piece)
                self._connection.pause_reading()
                await self._connection.drain()
                await self._yield()  # one that does read delays nobody

    # --- LEAVING ---

    async def _run_leaving(self, member: Member, reason: LeaveReason) -> None:
        """Free the name, tell the others, and close so that the client knows what it got."""
        self._enter(State.LEAVING)
        outcome = reason
        if reason in (LeaveReason.LEFT, LeaveReason.SHUTDOWN):
            told = None if reason is LeaveReason.SHUTDOWN else reason.value
            delivered = self._around.room.leave(member, told)
            timeout = self._around.limits.timeout
            body = self._deliver_rest(delivered)
            outcome = await self._phase(body, timeout, self._reading_deadline) or reason
        else:
            self._around.room.evict(member, reason.value)
            if reason is LeaveReason.TIMED_OUT:
                self._send_error(f"{protocol.TIMED_OUT} {self._around.limits.timeout:g} s")
            elif reason is LeaveReason.TOO_SLOW:
                self._send_error(protocol.TOO_SLOW)
        stayed = self._around.clock.running_time() - self._joined_at
        why = outcome.value or "left"
        LOGGER.info("%s out: %s, after %.1f s, %d lines", member.name, why, stayed, self._lines)
        if outcome is reason and reason is not LeaveReason.LOST:
            await self._connection.close_gracefully(self._around.limits.close_timeout)
        else:
            self._connection.reset()

    async def _deliver_rest(self, delivered: asyncio.Future[None]) -> LeaveReason | None:
        """Return when a leaving client has been sent everything, or why it never will be."""
        await delivered
        await self._connection.drain()
        return LeaveReason.LOST if self._connection.lost else None

    def _reading_deadline(self) -> float:
        """Return when a leaving client has read nothing for too long."""
        assert self._member
        unread = (self._member.subscription.cursor, self._connection.unsent)
        if unread != self._unread:
            self._unread = unread
            self._last_activity = self._around.clock.reading_time()
        return self._last_activity + self._around.limits.timeout
