"""One client's stay at the server: handshake, reading, its timeout task, its leaving."""

from __future__ import annotations

import asyncio
import enum
import hmac
import math
import ssl
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass

from . import commands, protocol
from .clock import ServingClock, passed
from .fanout import Fanout, Receiver
from .logger import LOGGER
from .protocol import Block, HandshakeError, LineCutter, TooLong
from .registry import Registry
from .streams import Connection

SHORT = 1024
"""Bytes of a chunk that is handled in the turn in which it came: less than 1 ms, and one batch at most, however long the name before its lines.
A longer one gets a turn of its own."""

TURN_TIME = 0.002
"""Seconds that one client may keep the others waiting before they get their turn."""


@dataclass(slots=True)
class Traffic:
    """What came in since the beginning."""

    lines: int = 0
    octets: int = 0


@dataclass(frozen=True, slots=True)
class Room:
    """What the sessions of one server share, and the limits they keep."""

    registry: Registry
    fanout: Fanout
    clock: ServingClock
    timeout: float  # seconds of silence after which a client is gone
    handshake_timeout: float  # seconds for the first line
    line_limit: int  # bytes
    max_rate: float | None  # lines a second from one client
    notices: bool  # whether joining and leaving is told
    tls: ssl.SSLContext | None
    token: bytes | None  # what a client has to know
    traffic: Traffic


class End(enum.Enum):
    """Why a stay ends; the value is the reason that the others are told."""

    LEFT = ""
    LOST = "connection lost"
    TIMED_OUT = "timed out"
    TOO_SLOW = "too slow"
    SHUTDOWN = protocol.SHUTTING_DOWN


class Session:
    """One client, from its connection to its end; `run` it once."""

    __slots__ = (
        "__weakref__",
        "_began",
        "_connection",
        "_cutter",
        "_heard_at",
        "_input_ended",
        "_interruption",
        "_is_in",
        "_lines",
        "_may_send_at",
        "_may_speak",
        "_name",
        "_owed",
        "_patience",
        "_phase",
        "_prefix",
        "_receiver",
        "_room",
        "_runs",
        "_watching",
    )  # there may be ten thousand

    def __init__(self, connection: Connection, room: Room) -> None:
        self._connection = connection
        self._room = room
        self._cutter = LineCutter(room.line_limit)
        self._runs: list[bytes | TooLong] = []  # received and not handled yet; few, with the usual limit of a line
        self._input_ended = False  # once the client's last line is in _runs
        self._heard_at = room.clock.reading()  # the last sign of life; blank lines in place of a CONNECT are none
        self._patience = room.handshake_timeout  # from its SUCCESS on: room.timeout
        self._owed = (0, 0)  # while it leaves: the batch it gets next, bytes of the one before; as of the last look
        self._may_speak = room.tls is None  # whether what we write would be understood
        self._may_send_at = -math.inf  # with a maximum rate: until when its lines have used that up, in the time awake
        self._name = ""  # set at its SUCCESS
        self._prefix = b""  # likewise: what stands before each of its messages
        self._is_in = False  # from its SUCCESS until its stay ends: the name is its own
        self._receiver: Receiver | None = None  # from its SUCCESS on
        self._began = room.clock.awake()
        self._lines = 0  # received since its SUCCESS
        self._watching: asyncio.Task[None] | None = None  # while it runs: the timeout task, of the handshake and then of the stay
        self._phase: asyncio.Timeout | None = None  # while something runs that `interrupt` may cut short
        self._interruption: End | None = None  # set by `interrupt`; a shutdown's is taken back once the leaving begins

    async def run(self) -> None:
        """Serve the client to its end. What it had, its name, its place in the fan-out, its connection, is free when this returns."""
        self._replace_watch(asyncio.create_task(self._watch()))
        try:
            end = await self._unless_interrupted(self._stay())
            end = self._interruption or end  # it may have come in the very turn in which the stay ended by itself
            if self._receiver is None:
                raise HandshakeError(protocol.HANDSHAKE_TIMED_OUT if end is End.TIMED_OUT else end.value)
            await self._leave(self._receiver, end)
        except HandshakeError as problem:
            LOGGER.info("%s refused: %s", self._connection.peer, problem)
            if self._may_speak:
                self._complain(str(problem))
                await self._connection.end_in_order()
        finally:
            self._replace_watch(None)
            self._connection.on_chunk = None
            if self._receiver:
                self._room.fanout.drop(self._receiver)
                self._receiver = None
            self._free_name()
            self._connection.reset()  # without effect after an end in order

    def interrupt(self, why: End) -> None:
        """Cut the stay short, or a leaving that waits for the client to read; the first call counts. A shutdown cuts no leaving short."""
        is_leaving = self._receiver is not None and not self._is_in
        if self._interruption is None and not (is_leaving and why is End.SHUTDOWN):
            self._interruption = why
            if self._phase:
                self._phase.reschedule(asyncio.get_running_loop().time())

    def _be_too_slow(self) -> None:
        self.interrupt(End.TOO_SLOW)

    async def _unless_interrupted(self, phase: Awaitable[End]) -> End:
        """Return how `phase` ended: by itself, or by `interrupt`, which cancels it."""
        try:
            async with asyncio.timeout(None if self._interruption is None else 0) as self._phase:
                return await phase
        except TimeoutError:
            if self._interruption is None:
                raise
            return self._interruption
        finally:
            self._phase = None

    def _replace_watch(self, watch: asyncio.Task[None] | None) -> None:
        if self._watching:
            self._watching.cancel()
        self._watching = watch

    async def _watch(self) -> None:
        """The timeout task."""
        await passed(self._deadline, self._room.clock.reading, self._room.timeout)
        self.interrupt(End.TIMED_OUT)

    def _deadline(self) -> float:
        """When its silence will have been too long. Once it leaves no line is due: then its taking of what it is owed is the sign of life."""
        if self._receiver and not self._is_in:
            owed = (self._receiver.cursor, self._connection.unsent)
            if owed != self._owed:
                self._owed = owed
                self._heard_at = self._room.clock.reading()
        return self._heard_at + self._patience

    # --- the stay ---

    async def _stay(self) -> End:
        if self._room.tls:
            try:
                await self._connection.start_tls(self._room.tls, 2 * self._room.handshake_timeout)  # `_watch` comes first
            except OSError as problem:
                raise HandshakeError(f"TLS failed: {problem.strerror or problem}") from None
            self._may_speak = True
        connect = protocol.parse_connect(await self._first_line())
        if self._room.token is not None and not hmac.compare_digest(self._room.token, (connect.token or "").encode()):
            raise HandshakeError(protocol.NOT_AUTHORISED)
        await self._room.fanout.until_released()
        if self._interruption:  # it came in this very turn: the fan-out may be closed by now
            return self._interruption
        self._join(connect.username)
        return await self._converse()

    async def _first_line(self) -> str:
        while (run := await self._next_run()) is not None and run is not TooLong.LINE:
            line, _, rest = run.partition(b"\n")
            if rest:
                self._runs.insert(0, rest)
            if text := protocol.clean(line.removesuffix(b"\r")):
                return text
        raise HandshakeError(End.LOST.value if self._connection.lost else protocol.EXPECTED_CONNECT)

    def _join(self, asked: str) -> None:
        name = self._name = self._room.registry.claim(asked)
        self._prefix = f"{name}: ".encode()
        self._is_in = True
        self._connection.write(protocol.encode(protocol.SUCCESS))
        if name != asked:
            self._connection.write(protocol.encode(protocol.taken(asked, name)))
        self._receiver = self._room.fanout.join(self._connection, self._be_too_slow)
        if self._room.max_rate is None:
            self._connection.on_chunk = self._handle_at_once
        self._patience = self._room.timeout
        # One that first looked when the handshake would have timed out woke ten thousand quiet clients once more: a quarter of their CPU then.
        self._replace_watch(asyncio.create_task(self._watch()))
        self._heard_at = self._room.clock.reading()
        self._tell_others(f"{name} joined")
        LOGGER.info("%s in from %s", name, self._connection.peer)

    async def _converse(self) -> End:
        """Handle what the client sends, in order, until it leaves."""
        fanout = self._room.fanout
        loop = asyncio.get_running_loop()
        while (run := await self._next_run()) is not None:
            began = loop.time()
            if isinstance(run, TooLong):
                await self._answer((protocol.line_too_long(self._room.line_limit),))
                continue
            if self._room.max_rate:
                run = await self._slow_down(run, self._room.max_rate)
            count, items = protocol.parse(run, self._prefix)
            self._count(count)
            for item in items:
                await fanout.until_released()
                if isinstance(item, Block):
                    fanout.publish(self._receiver, item.data, item.lines)
                else:
                    answer = commands.answer(item, self._name, self._room.registry.roster)
                    if answer.leave:
                        return End.LEFT
                    await self._answer(answer.lines)
                if loop.time() - began > TURN_TIME:
                    await asyncio.sleep(0)
                    began = loop.time()
        return End.LOST if self._connection.lost else End.LEFT

    def _handle_at_once(self, chunk: bytes) -> bool:
        """Handle a short chunk of messages, or a heartbeat, in the turn in which it came; return False where something has to wait.

        To wake the session's task for it would cost a quiet room a tenth more CPU, and a message to one receiver a quarter, to ten 6 %.
        """
        if len(chunk) > min(SHORT, self._room.line_limit) or not self._is_in or not self._cutter.is_between_lines:
            return False
        count = 1
        blocks: Iterable[Block | str] = ()
        if chunk not in protocol.HEARTBEATS:
            if b"\\" in chunk or not chunk.endswith(b"\n") or self._room.fanout.is_awaited:
                return False
            count, blocks = protocol.parse(chunk, self._prefix)
        self._room.traffic.octets += len(chunk)
        self._count(count)
        self._heard_at = self._room.clock.reading()
        for block in blocks:
            assert isinstance(block, Block)  # a command would have a backslash
            self._room.fanout.publish(self._receiver, block.data, block.lines)
        return True

    def _count(self, lines: int) -> None:
        self._lines += lines
        self._room.traffic.lines += lines

    async def _next_run(self) -> bytes | TooLong | None:
        """Return the next of what the client sent, None at the end."""
        while not self._runs:
            if self._input_ended:
                return None
            chunk = await self._connection.read_chunk()
            self._room.traffic.octets += len(chunk)
            if not self._is_in and self._cutter.is_between_lines and chunk.startswith(protocol.TLS_FIRST_BYTE):
                raise HandshakeError(protocol.NO_TLS_HERE)
            self._input_ended = not chunk
            if chunk:
                self._runs.extend(self._cutter.feed(chunk))
            elif not self._connection.lost:  # a line that a reset cut off is not whole
                self._runs.extend(self._cutter.finish())
            if self._runs and self._is_in:
                self._heard_at = self._room.clock.reading()
        return self._runs.pop(0)

    async def _slow_down(self, run: bytes, rate: float) -> bytes:
        """Return the beginning of a run, a second's worth at most, when its lines may go on; its client feels it as backpressure."""
        lines = run.split(b"\n", min(math.ceil(rate), len(run)))
        if rest := lines.pop():
            self._runs.insert(0, rest)
        now = self._room.clock.awake()
        self._may_send_at = max(self._may_send_at, now - 1) + len(lines) / rate
        while (left := self._may_send_at - self._room.clock.awake()) > 0 and not self._connection.is_closing:
            self._heard_at = self._room.clock.reading()  # it is not silent, we do not listen
            await asyncio.sleep(min(left, self._patience / 2))
        return b"\n".join([*lines, b""])

    async def _answer(self, lines: tuple[str, ...]) -> None:
        """Answer and wait until it is taken: a client that asks and never reads stops only itself."""
        if lines and self._interruption is None:
            self._connection.write(protocol.encode(*lines))
            await self._connection.drain()
            await asyncio.sleep(0)  # one that does read delays nobody

    def _tell_others(self, text: str) -> None:
        if self._room.notices:
            self._room.fanout.publish(self._receiver, protocol.encode(protocol.notice(text)), can_wait=True)

    # --- the end ---

    async def _leave(self, receiver: Receiver, end: End) -> None:
        """Free the name, tell the others, and end the connection so that the client has all it is owed or knows that it has not."""
        self._free_name()
        if end in (End.LEFT, End.SHUTDOWN):
            served = self._room.fanout.leave(receiver)
            self._tell_of_leaving(end)
            outcome = await self._until_served(served, end)
        else:
            self._room.fanout.drop(receiver)
            self._tell_of_leaving(end)
            outcome = end
            if end is End.TIMED_OUT:
                self._complain(f"{protocol.TIMED_OUT} {self._room.timeout:g} s")
            elif end is End.TOO_SLOW:
                self._complain(protocol.TOO_SLOW)
        stayed = self._room.clock.awake() - self._began
        LOGGER.info("%s out: %s, after %.1f s, %d lines", self._name, outcome.value or "left", stayed, self._lines)
        if outcome is end and end is not End.LOST:
            await self._connection.end_in_order()
        else:
            self._connection.reset()

    async def _until_served(self, served: asyncio.Future[None], end: End) -> End:
        """Return `end` when a leaver's connection has taken all it is owed, or why it never will."""

        async def wait() -> End:
            await served
            await self._connection.until_sent()
            return End.LOST if self._connection.lost else end

        self._interruption = None  # a shutdown has had its effect; what comes now, too slow or silent too long, cuts the leaving short
        return await self._unless_interrupted(wait())

    def _free_name(self) -> None:
        if self._is_in:
            self._room.registry.release(self._name)
            self._is_in = False

    def _tell_of_leaving(self, end: End) -> None:
        if end is not End.SHUTDOWN:
            self._tell_others(f"{self._name} left ({end.value})" if end.value else f"{self._name} left")

    def _complain(self, text: str) -> None:
        self._connection.write(protocol.encode(protocol.error(text)))
