"""Serve one client from its connection to its disconnection."""

import asyncio
import enum
import logging
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field

from ..errors import HandshakeError
from ..net.address import network_of
from ..net.connection import TIME_SLICE, Connection
from ..protocol import messages
from ..protocol.blocks import Block, has_messages, parse
from ..protocol.commands import Command, is_command, parse_heartbeat
from ..protocol.framing import LineSplitter, TooLong, encode
from ..protocol.handshake import FULL, HANDSHAKE_TIMED_OUT
from ..states import follow
from . import dispatcher
from .admission import READ_SIZE, shake_hands
from .clock import ServingClock
from .rate import RateLimiter
from .reasons import LeaveReason
from .room import Member, Room
from .scope import Scope
from .settings import Settings
from .strangers import Strangers
from .watchdog import watch_deadline

LOGGER = logging.getLogger("broadcast")

FAST_PATH_LIMIT = 1024
"""Bytes in a chunk that may be handled in the callback that receives it: this takes less than a
time slice, and yields less than a batch, however long the client's name is."""


class State(enum.Enum):
    """The state of a session; changed only in `Session._enter`."""

    HANDSHAKE = enum.auto()
    JOINED = enum.auto()
    LEAVING = enum.auto()
    """It is sent what was published before it left."""
    CLOSING = enum.auto()
    """It has been refused or has left, and has a short time to read the rest."""
    CLOSED = enum.auto()


NEXT_STATES = {
    State.HANDSHAKE: {State.JOINED, State.LEAVING, State.CLOSING, State.CLOSED},
    State.JOINED: {State.LEAVING, State.CLOSING, State.CLOSED},
    State.LEAVING: {State.CLOSING, State.CLOSED},
    State.CLOSING: {State.CLOSED},
    State.CLOSED: set[State](),
}
"""The states that may follow each state."""

INTERRUPTS = {
    LeaveReason.TIMED_OUT: {State.HANDSHAKE, State.JOINED, State.LEAVING},
    # The room may have added a client whose handshake ends only in the next iteration.
    LeaveReason.TOO_SLOW: {State.HANDSHAKE, State.JOINED, State.LEAVING},
    LeaveReason.OUT_OF_SYNC: {State.HANDSHAKE, State.JOINED, State.LEAVING},
    LeaveReason.DISPLACED: {State.HANDSHAKE, State.CLOSING},
    # A shutdown does not interrupt a client that is already being sent its last data.
    LeaveReason.SHUTDOWN: {State.HANDSHAKE, State.JOINED},
    LeaveReason.UNREAD: {State.HANDSHAKE, State.LEAVING, State.CLOSING},
}
"""The states that each reason interrupts; in others it has no effect."""


@dataclass(frozen=True, slots=True)
class ServerContext:
    """What the sessions of a server share."""

    settings: Settings
    room: Room
    strangers: Strangers
    rate: RateLimiter | None  # None for no limit
    clock: ServingClock


@dataclass(slots=True, weakref_slot=True, eq=False, repr=False)  # there may be thousands
class Session:
    """Serves one client from its connection to its disconnection; call `run` once.

    Its states are HANDSHAKE -> JOINED -> LEAVING -> CLOSING -> CLOSED, of which some are skipped.
    Each state has a scope of its own, which `interrupt` cancels, and most have a watchdog. A state
    is entered by the method that runs its body, never while another state's body runs.
    """

    _context: ServerContext
    _connection: Connection = field(init=False)  # set in `run`
    _state: State = State.HANDSHAKE
    _scope: Scope[LeaveReason] = field(default_factory=Scope)  # of the current state
    _last_activity: float = field(init=False)  # of the client
    _splitter: LineSplitter = field(init=False)
    _chunks: list[bytes | TooLong] = field(default_factory=list)  # whole lines, not handled yet
    _input_ended: bool = False  # once the client's last line is in `_chunks`
    _displacements: int = 0  # calls of `_displace`
    # After it has joined.
    _member: Member | None = None
    _prefix: bytes = b""  # precedes each of its messages
    _lines: int = 0  # received
    _rate_used_until: float = 0.0  # its state in the rate limiter, if there is one
    _last_progress: tuple[int, int] = (0, 0)  # while LEAVING: its position and unsent bytes

    def __post_init__(self) -> None:
        self._last_activity = self._context.clock.reading_time()
        self._splitter = LineSplitter(self._context.settings.line_limit)

    async def run(self, opening: Awaitable[Connection]) -> None:
        """Serve the client of a connection that is being opened.

        When this returns, the connection is closed, and everything else that it used is released.
        """
        try:
            self._connection = await opening
        except OSError:
            return  # the peer has disconnected
        del opening  # it would stay in memory until the end
        with self._connection:
            try:
                with self._context.strangers.holding(self._displace):
                    reason = await self._run_handshake()
                if member := self._member:
                    if reason is None:
                        reason = await self._run_state(State.JOINED, self._message_loop(member))
                    await self._disconnect(member, reason or LeaveReason.LEFT)
            finally:
                self._release()

    def _release(self) -> None:
        """Let another client have this one's place, and forget what refers to the session."""
        self._enter(State.CLOSED)
        self._connection.on_chunk = None
        member, self._member = self._member, None  # its subscription refers to this session
        if member:
            self._context.room.release_place(member)
            if rate := self._context.rate:
                now = self._context.clock.running_time()
                rate.leave(network_of(self._connection.peer), self._rate_used_until, now)

    def interrupt(self, reason: LeaveReason) -> None:
        """End the current state early if this reason interrupts it; only the first one counts."""
        if self._state in INTERRUPTS[reason]:
            self._scope.interrupt(reason)

    def _displace(self) -> None:
        """Close to make room for another connection; when called again, at once."""
        self._displacements += 1
        self.interrupt(LeaveReason.DISPLACED)

    def _enter(self, state: State) -> None:
        """Change the state, and give the new one a scope of its own."""
        self._state, self._scope = follow(NEXT_STATES, self._state, state), Scope()

    async def _run_state(
        self, state: State, body: Awaitable[LeaveReason | None], *, watched: bool = True
    ) -> LeaveReason | None:
        """Enter a state, and run its body until it ends, is interrupted or misses its deadline.

        Returns why. The deadline counts only if the state is watched.
        """
        if state is not self._state:  # otherwise it may have been interrupted already
            self._enter(state)
        if not watched:
            return await self._scope.run(body)
        watching = watch_deadline(self._check_time_left, self._timeout, self._on_expired)
        watchdog = asyncio.create_task(watching, name="watchdog")
        try:
            return await self._scope.run(body)
        finally:
            watchdog.cancel()  # not awaited: that would delay each change of state by an iteration

    @property
    def _timeout(self) -> float:
        """Seconds for which the client may be inactive in this state."""
        is_joining = self._state is State.HANDSHAKE
        settings = self._context.settings
        return settings.handshake_timeout if is_joining else settings.timeout

    def _on_expired(self) -> None:
        self.interrupt(LeaveReason.TIMED_OUT)

    def _check_time_left(self) -> float:
        """Note whether a client that is leaving has read, and return the seconds that are left."""
        if self._member and self._state is State.LEAVING:
            self._note_progress(self._member)
        return self._last_activity + self._timeout - self._context.clock.reading_time()

    def _note_progress(self, member: Member) -> None:
        """Count a client that is leaving as active if it has read something since the last call."""
        progress = (member.position, self._connection.unsent)
        if progress != self._last_progress:
            self._last_progress = progress
            self._last_activity = self._context.clock.reading_time()

    # --- HANDSHAKE ---

    async def _run_handshake(self) -> LeaveReason | None:
        """Let the client join, which sets `_member`, or refuse it and close.

        Returns why it has to leave at once, if it has joined and was interrupted as it did.
        """
        try:
            reason = await self._run_state(State.HANDSHAKE, self._join())
        except HandshakeError as refusal:
            await self._refuse(str(refusal))
            return None
        if self._member:
            # It is no stranger any more: what ends only a handshake came too late.
            return None if reason in (LeaveReason.TIMED_OUT, LeaveReason.DISPLACED) else reason
        if reason is LeaveReason.DISPLACED:
            await self._close_slowly()
        elif reason is LeaveReason.TIMED_OUT:
            await self._refuse(HANDSHAKE_TIMED_OUT)
        elif reason:
            await self._refuse(reason.value)
        return None

    async def _join(self) -> None:
        context, connection = self._context, self._connection
        connection.set_read_size(READ_SIZE)
        if context.settings.tls is None:  # with TLS, it can't be told before the handshake
            context.room.check_space()
        connect, rest, size = await shake_hands(connection, context.settings)
        self._member = await context.room.join(connect.username, connection, self.interrupt)
        self._prefix = f"{self._member.name}: ".encode()
        self._last_activity = context.clock.reading_time()
        self._count(0, size)
        if rest:
            self._split(rest)
        connection.limit_read_ahead(self._splitter.held)
        if rate := context.rate:
            self._rate_used_until = rate.enter(network_of(connection.peer), self._member.joined_at)
        else:
            connection.on_chunk = self._try_fast_path
        LOGGER.info("%s in from %s", self._member.name, connection.peer)

    async def _refuse(self, why: str) -> None:
        LOGGER.info("%s refused: %s", self._connection.peer, why)
        self._send_error(why)
        await self._close_gracefully()

    async def _close_slowly(self) -> None:
        """Close a displaced connection after a delay, unless it is displaced again.

        Otherwise a peer that replaces each closed connection could do so at full speed.
        """
        if self._displacements == 1:  # the next one may have come before this method was reached
            delay = asyncio.sleep(self._context.settings.close_timeout)
            await self._run_state(State.CLOSING, delay, watched=False)
        self._send_error(FULL)
        self._connection.close()

    def _send_error(self, text: str) -> None:
        self._connection.send(encode(messages.error(text)))

    # --- JOINED ---

    async def _message_loop(self, member: Member) -> LeaveReason:
        """Handle what the client sends, in order, until it leaves.

        While this waits, it keeps only the bytes that were read, nothing parsed from them.
        """
        while (chunk := await self._next_chunk()) is not None:
            if rate := self._context.rate:
                count = 1
                if not isinstance(chunk, TooLong):
                    chunk, count = self._take_lines(chunk, rate.most_lines)
                if not await self._wait_for_rate(count, rate):
                    return LeaveReason.LOST
            if isinstance(chunk, TooLong):
                self._count(1, 0)
                too_long = messages.line_too_long(self._context.settings.line_limit)
                await self._answer((encode(too_long),))
            elif await self._handle_lines(chunk, member):
                return LeaveReason.LEFT
        return LeaveReason.LOST if self._connection.lost else LeaveReason.LEFT

    async def _handle_lines(self, chunk: bytes, member: Member) -> bool:
        """Publish the messages and answer the commands; return whether the client leaves."""
        loop = asyncio.get_running_loop()
        waits_for_turn = has_messages(chunk)
        await self._wait_to_handle(waits_for_turn)
        slice_ends = loop.time() + TIME_SLICE
        count, items = parse(chunk, self._prefix)
        self._count(count, 0)
        for item in items:
            if isinstance(item, Block):
                self._context.room.publish(member, item)
            elif is_command(item, Command.EXIT):
                return True
            else:
                roster = await self._context.room.roster()
                await self._answer(dispatcher.answer(item, member.name, roster))
            if loop.time() > slice_ends:
                await self._yield()
                slice_ends = loop.time() + TIME_SLICE
            await self._wait_to_handle(waits_for_turn)  # before `parse` makes the next item
        return False

    async def _wait_to_handle(self, waits_for_turn: bool) -> None:
        """Wait while input is paused; a chunk of commands only waits for the readers."""
        gate = self._context.room.gate
        if waits_for_turn and gate.must_wait:
            self._connection.pause_reading()
            await gate.wait_turn()
        elif gate.is_backlogged:
            self._connection.pause_reading()
            await gate.wait_for_readers()

    async def _yield(self) -> None:
        """Let the event loop serve others."""
        self._connection.pause_reading()
        await asyncio.sleep(0)

    async def _next_chunk(self) -> bytes | TooLong | None:
        """Return the next whole lines from the client, or None at the end of its input."""
        while not self._chunks:
            if self._input_ended:
                return None
            data = await self._connection.read_chunk()
            self._count(0, len(data))
            self._split(data)
        return self._chunks.pop(0)

    def _split(self, data: bytes) -> None:
        """Split what was read into whole lines; empty data is the end of the input."""
        self._input_ended = not data
        if data:
            self._chunks += self._splitter.feed(data)
        elif not self._connection.lost:  # after a reset, the last line may be incomplete
            self._chunks += self._splitter.finish()
        self._connection.limit_read_ahead(self._splitter.held)
        if self._chunks:
            self._last_activity = self._context.clock.reading_time()

    def _try_fast_path(self, data: bytes) -> bool:
        """Handle a short chunk of messages, or a heartbeat, in the callback that receives it.

        This is cheaper than waking the session's task. Returns False if handling it may have to
        wait, and the chunk is left to the task.
        """
        limit = min(FAST_PATH_LIMIT, self._context.settings.line_limit)
        if self._member is None or self._state is not State.JOINED or len(data) > limit:
            return False
        if not self._splitter.is_between_lines:
            return False
        if data.startswith(b"\\"):
            lines = self._try_heartbeat(data)
        else:
            lines = self._try_messages(data, self._member)
        if lines:
            self._count(lines, len(data))
            self._last_activity = self._context.clock.reading_time()
        return lines > 0

    def _try_heartbeat(self, data: bytes) -> int:
        word = parse_heartbeat(data)
        if word is None or (word and self._connection.write_pending):
            return 0
        if word:
            self._connection.send(encode(messages.pong(word.decode())))
        return 1

    def _try_messages(self, data: bytes, member: Member) -> int:
        room = self._context.room
        if b"\\" in data or not data.endswith(b"\n") or room.gate.must_wait:
            return 0
        count, blocks = parse(data, self._prefix)
        for block in blocks:
            assert isinstance(block, Block)  # a command would contain a backslash
            room.publish(member, block)
        return count

    def _count(self, lines: int, size: int) -> None:
        self._lines += lines
        self._context.room.count_input(lines, size)

    def _take_lines(self, chunk: bytes, most: int) -> tuple[bytes, int]:
        """Return the first lines of a chunk, and how many they are; keep the rest for later."""
        lines = chunk.split(b"\n", min(most, len(chunk)))
        if rest := lines.pop():
            self._chunks.insert(0, rest)
        return b"\n".join([*lines, b""]), len(lines)

    async def _wait_for_rate(self, lines: int, rate: RateLimiter) -> bool:
        """Wait until that many lines may be handled, which the client experiences as backpressure.

        Returns False if its connection breaks meanwhile. Its lines are dropped then: otherwise
        connecting, sending and resetting again and again would circumvent the limit.
        """
        clock = self._context.clock
        self._connection.pause_reading()
        self._rate_used_until = rate.use(self._rate_used_until, lines, clock.running_time())
        while (left := self._rate_used_until - clock.running_time()) > 0:
            self._last_activity = clock.reading_time()  # it is not idle: we are not reading
            await asyncio.sleep(min(left, self._context.settings.timeout / 2))
            if self._connection.was_reset:
                return False
        return True

    async def _answer(self, pieces: Iterable[bytes]) -> None:
        """Send an answer, and wait so that a client that never reads only blocks itself."""
        for piece in pieces:
            if self._scope.reason is not None:  # it is to be sent nothing more
                return
            self._connection.send(piece)
            self._connection.pause_reading()
            await self._connection.drain()
            await self._yield()  # a client that reads quickly must not delay others

    # --- LEAVING and CLOSING ---

    async def _disconnect(self, member: Member, reason: LeaveReason) -> None:
        """Leave the room and close, gracefully only if the client gets everything sent to it."""
        outcome = reason
        if reason in (LeaveReason.LEFT, LeaveReason.SHUTDOWN):
            # After a shutdown this is not announced: the room is closed.
            leaving = self._leave(member, reason)
            outcome = await self._run_state(State.LEAVING, leaving) or reason
        else:
            self._context.room.remove(member, reason.value)
            if reason is LeaveReason.TIMED_OUT:
                self._send_error(f"{messages.TIMED_OUT} {self._context.settings.timeout:g} s")
            elif reason is LeaveReason.TOO_SLOW:
                self._send_error(messages.TOO_SLOW)
        self._log_leave(member, outcome)
        if outcome is LeaveReason.OUT_OF_SYNC:
            self._send_error(messages.OUT_OF_SYNC)
            await self._close_gracefully()
        elif outcome is reason and reason is not LeaveReason.LOST:
            await self._close_gracefully()
        else:
            self._connection.reset()

    async def _close_gracefully(self) -> None:
        closing = self._connection.close_gracefully(self._context.settings.close_timeout)
        await self._run_state(State.CLOSING, closing, watched=False)

    async def _leave(self, member: Member, reason: LeaveReason) -> LeaveReason | None:
        """Leave the room, and send the client the rest; return why it does not get all of it."""
        if not await self._context.room.leave(member, reason.value):
            return LeaveReason.TOO_SLOW  # overruled by the reason of an interruption, if any
        await self._connection.drain()
        return LeaveReason.LOST if self._connection.lost else None

    def _log_leave(self, member: Member, reason: LeaveReason) -> None:
        why = reason.value or "left"
        duration = self._context.clock.running_time() - member.joined_at
        lines = f"{self._lines} line{'' if self._lines == 1 else 's'}"
        LOGGER.info("%s out: %s, after %.1f s, %s", member.name, why, duration, lines)
