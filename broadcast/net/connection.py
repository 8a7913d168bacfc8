"""One connection, for either side: chunks in, bytes out, closed gracefully or reset."""

import asyncio
import contextlib
import enum
import os
import select
import socket
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import ClassVar, Self

from .address import format_address

READ_AHEAD_LIMIT = 114_688
"""Bytes of input held for one connection: the unfinished line, and what was read after it. With
some 8 KB for the connection, its session and their tasks, a client takes up less than 128 KB."""

SMALLEST_READ = 4_096
"""Minimum number of bytes read at once, however long the unfinished line is."""

NO_DIRECT_FD = -1
"""Stored when there is no descriptor to write to directly; writing to it raises OSError."""

SEND_BUFFER = 393_216
"""Bytes that the system may buffer for one client (Linux doubles it, for its own overhead): three
batches. Without this bound, stalled readers use several times the memory, and with two batches,
clients that read slowly cost more per delivery."""

WRITE_SIZE = 16_384
"""Bytes given to asyncio's transport at once, of which it keeps what the system does not accept (on
3.11, a copy). Under TLS they become one record (RFC 8446, 5.1)."""

CLOSE_TIMEOUT = 1.0
"""Seconds that the peer has to read the rest of its data, and to end its side, when a connection is
closed gracefully; after that it is reset."""

TIME_SLICE = 0.002
"""Seconds for which one connection may occupy the event loop before others are served."""


class Reading(enum.Enum):
    """Whether the transport reads; changed only in `_set_reading`.

    FLOWING and PAUSED alternate until ENDED, which is final.
    """

    FLOWING = enum.auto()
    PAUSED = enum.auto()
    """It does not read until the data that has arrived is consumed."""
    ENDED = enum.auto()
    """Nothing more will arrive."""


class Writing(enum.Enum):
    """What a write does; changed only in `_set_writing`.

    READY and BLOCKED alternate until ENDED, which is final.
    """

    READY = enum.auto()
    """It goes to the file descriptor, or through asyncio's transport: nothing is pending."""
    BLOCKED = enum.auto()
    """It goes to the end of the queue: earlier data is pending, or nothing is connected yet."""
    ENDED = enum.auto()
    """Nothing: the output has ended, or the connection is closed."""


@dataclass(slots=True, eq=False, repr=False)
class Connection(asyncio.Protocol):
    """One connection: chunks in, bytes out, closed gracefully or reset. `TLSConnection` encrypts.

        the system -> asyncio -> `on_chunk`, or `_received` -> `read_chunk`
        `send` -> `_queue` -> asyncio's buffer -> the system

    While nothing is queued, a write goes directly to the system. It is an asyncio protocol, not a
    pair of streams, because a StreamReader raises a reset's exception before it returns the data
    that arrived before the reset.

    `lost` is the exception that broke the connection; None while it is intact, or after it has
    ended gracefully. `write_pending` is True while written data is unsent; `on_drained` is called
    whenever all of it has been sent, and when the connection is lost. While `read_chunk` is
    waiting, data that arrives is passed to `on_chunk` first: if that returns True, the data is
    handled and the wait continues.

    Memory is bounded: nothing is read from the socket before the last chunk is consumed, and a
    chunk has at most `read_ahead_limit` bytes. A reader that holds a chunk while it waits for
    something else calls `pause_reading` first.

    Whoever owns a connection closes it, even if it is lost; `with` resets it at the end, unless it
    has been closed.
    """

    # How a connection of this class works.
    read_ahead_limit: ClassVar[int] = READ_AHEAD_LIMIT
    writes_directly: ClassVar[bool] = os.name == "posix"  # elsewhere, a socket has no descriptor

    # Declared as slots, which saves memory: there may be thousands of connections.
    transport: asyncio.Transport = field(init=False)  # set in `connection_made`, as is the socket
    _socket: socket.socket = field(init=False)
    peer: str = ""  # the peer's host:port; set in `connection_made`
    lost: Exception | None = None
    on_chunk: Callable[[bytes], bool] | None = None
    on_drained: Callable[[], None] | None = None
    # Reading.
    _reading: Reading = Reading.FLOWING
    _received: bytes = b""  # the chunk that has arrived and is not consumed yet
    _reader: asyncio.Future[None] | None = None  # while `_wait_for_input` is waiting
    _post_reset_socket: socket.socket | None = None  # holds what arrived before a reset
    # Writing.
    _writing: Writing = Writing.BLOCKED
    _direct_fd: int = NO_DIRECT_FD  # the file descriptor while it may be written to
    _queue: list[bytes | memoryview] = field(default_factory=list)  # not in the transport yet
    _drained: asyncio.Event | None = None  # while `drain` is waiting

    # --- called by asyncio: input ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._socket = transport.get_extra_info("socket")
        self.peer = format_address(transport.get_extra_info("peername"))
        transport.set_write_buffer_limits(high=0)  # pause writing as soon as anything is pending
        self.limit_read_ahead(0)
        self._set_writing(Writing.READY)

    def data_received(self, data: bytes) -> None:
        """Deliver what arrived, unless the input has ended, as it has after a close of ours."""
        if self._reading is not Reading.ENDED:
            self._deliver(data)

    def eof_received(self) -> bool:
        """End the input, and keep the other direction open."""
        self._set_reading(Reading.ENDED)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """End both directions, and keep what had arrived."""
        if exc:
            self.lost = exc.with_traceback(None)  # its frames refer to the transport: a cycle
            # When a write meets a reset, earlier input is still in the kernel, and asyncio is about
            # to close the socket.
            if self._reading is not Reading.ENDED:
                with contextlib.suppress(OSError):
                    self._post_reset_socket = self._socket.dup()
        self._set_writing(Writing.ENDED)
        self._set_reading(Reading.ENDED)
        self._notify_drained()

    def _deliver(self, data: bytes) -> None:
        """Pass data to `on_chunk`, or keep it for `read_chunk` and read no more until then."""
        if self._is_waiting and self.on_chunk and self.on_chunk(data):
            return
        self._received += data
        # No need to pause for a reader: its wake-up is queued before the next read callback.
        if not self._wake_reader():
            self._set_reading(Reading.PAUSED)

    @property
    def _is_waiting(self) -> bool:
        """Whether a reader waits and has not been woken."""
        return self._reader is not None and not self._reader.done()

    def _wake_reader(self) -> bool:
        """Wake a reader that waits, and return whether there is one."""
        if self._reader is None or self._reader.done():
            return False
        self._reader.set_result(None)
        return True

    def _set_reading(self, state: Reading) -> None:
        """Change the reading state; no effect once it has ended."""
        if self._reading is Reading.ENDED or state is self._reading:
            return
        self._reading = state
        if state is Reading.PAUSED:
            self.transport.pause_reading()
        elif state is Reading.FLOWING:
            self.transport.resume_reading()
        else:
            self._wake_reader()

    # --- called by asyncio: output ---

    def pause_writing(self) -> None:
        """Note that the system accepts no more for now."""
        self._set_writing(Writing.BLOCKED)

    def resume_writing(self) -> None:
        """Continue to send in the next iteration."""
        # Not at once: asyncio is in the middle of a write, and if a write of ours met a reset now,
        # it would call `connection_lost` twice.
        asyncio.get_running_loop().call_soon(self._resume_sending)

    def _resume_sending(self) -> None:
        if self.is_closing or self.transport.get_write_buffer_size():
            return  # `connection_lost` has been called or will be, or `resume_writing` again
        self._set_writing(Writing.READY)
        queue, self._queue = self._queue, []
        for data in queue:
            self.send(data)  # queues up again behind one of which only a part was sent
        if not self.write_pending:
            self._notify_drained()

    def _set_writing(self, state: Writing) -> None:
        """Change the writing state; no effect once it has ended.

        The file descriptor is written to directly only while nothing is pending, and is forgotten
        before the socket can be closed.
        """
        if self._writing is Writing.ENDED:
            return
        self._writing = state
        is_direct = state is Writing.READY and self.writes_directly
        self._direct_fd = self._socket.fileno() if is_direct else NO_DIRECT_FD
        if state is Writing.ENDED:
            self._queue.clear()

    def _notify_drained(self) -> None:
        if self._drained:
            self._drained.set()
            self._drained = None
        if self.on_drained:
            self.on_drained()

    # --- reading ---

    def limit_read_ahead(self, held: int) -> None:
        """Bound the size of the next reads, given that the reader still holds `held` bytes."""
        self.set_read_size(max(self.read_ahead_limit - held, SMALLEST_READ))

    def set_read_size(self, size: int) -> None:
        """Bound each read from now on to `size` bytes."""
        # asyncio's selector transports pass this to `recv`; others have no such bound.
        setattr(self.transport, "max_size", size)  # noqa: B010 (unknown to mypy)

    def pause_reading(self) -> None:
        """Read nothing from the socket until `read_chunk` is called again.

        A reader calls this before it waits for anything else, so that its memory is bounded.
        """
        self._set_reading(Reading.PAUSED)

    @property
    def was_reset(self) -> bool:
        """Whether the peer has reset the connection; known even while nothing is read from it."""
        if self.is_closing or not hasattr(select, "poll"):  # on Windows, only reading tells
            return self.is_closing
        poll = select.poll()
        poll.register(self._socket, 0)  # asks for nothing, but an error is always reported
        return bool(poll.poll(0))

    async def read_chunk(self) -> bytes:
        """Return data that has arrived, or nothing at the end; `lost` is set if that was a reset.

        All data that arrived before a reset is returned first.
        """
        while not self._received:
            if self._reading is not Reading.ENDED:
                await self._wait_for_input()
            elif not await self._read_rest():
                return b""
        chunk, self._received = self._received, b""
        return chunk

    async def _wait_for_input(self) -> None:
        self._resume_reading()
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    def _resume_reading(self) -> None:
        self._set_reading(Reading.FLOWING)

    async def _read_rest(self) -> bool:
        """Read what arrived before a reset that a write met; return whether there was anything."""
        data = b""
        if self._post_reset_socket:
            with contextlib.suppress(OSError):  # the reset itself, once all data is read
                data = self._post_reset_socket.recv(READ_AHEAD_LIMIT)
            self._deliver(data)
        return bool(data)

    # --- writing ---

    @property
    def is_closing(self) -> bool:
        """Whether the connection is closed, or will be as soon as asyncio has closed the socket."""
        return self.transport.is_closing()

    @property
    def write_pending(self) -> bool:
        """Whether written data has not all been sent to the system yet."""
        return self._writing is Writing.BLOCKED

    @property
    def unsent(self) -> int:
        """Bytes that have not been sent to the system yet, as plaintext or as ciphertext."""
        return self.transport.get_write_buffer_size() + sum(map(len, self._queue))

    def send(self, data: bytes | memoryview) -> bool:
        """Write `data` after all that was written before; return False if anything is pending now.

        Until it has been sent, `data` is kept, not copied. Once the output has ended or the
        connection is closing, this has no effect.
        """
        return not send_to_all((self,), data)

    def _send_indirectly(self, data: bytes | memoryview, sent: int) -> bool:
        """Write what could not go to the descriptor, after the first `sent` bytes; see `send`.

        That is anything while earlier data is pending, under TLS, or on Windows.
        """
        rest = memoryview(data)[sent:]
        while rest and self._accepts_output:
            if self.write_pending:
                self._queue.append(rest)
                break
            self._write(rest[:WRITE_SIZE])
            rest = rest[WRITE_SIZE:]
        return not self.write_pending

    @property
    def _accepts_output(self) -> bool:
        return not self.is_closing and self._writing is not Writing.ENDED

    def _write(self, data: memoryview) -> None:
        self.transport.write(data)

    def limit_send_buffer(self, size: int) -> None:
        """Bound the bytes that the system may buffer for the peer."""
        with contextlib.suppress(OSError):  # the connection has ended: the next read reports it
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    async def drain(self) -> None:
        """Wait until everything written has been sent to the system, or the connection is lost."""
        if self.write_pending or self.unsent:  # a close_notify, if the output has ended
            self._drained = self._drained or asyncio.Event()
            await self._drained.wait()

    # --- opening and closing ---

    async def do_handshake(self) -> None:
        """Set up TLS: nothing, without it."""

    async def close_gracefully(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Close so that the peer gets everything: drain, end the output, read until the input ends.

        Closing with unread input would make the system send a reset, which destroys what the peer
        has not read yet. A peer that does not read everything within `timeout` seconds is reset, so
        that its stream does not appear complete.
        """
        try:
            async with asyncio.timeout(timeout):
                await self.drain()
                if not self.is_closing:
                    assert not self._queue  # it would be lost
                    self._send_close_notify()
                    self.transport.write_eof()  # once asyncio's buffer is empty
                    self._set_writing(Writing.ENDED)
                await self.drain()
                while await self.read_chunk():
                    pass
        except OSError:  # a timeout is one
            pass  # what follows depends on whether everything was sent in time
        finally:
            if self._writing is Writing.ENDED and not self.transport.get_write_buffer_size():
                self.close()
            else:
                self.reset()

    def _send_close_notify(self) -> None:
        """Say within the stream that it is complete, where it can: under TLS."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.reset()

    def reset(self) -> None:
        """Abort the connection, which the peer sees as an error; no effect if it is closed."""
        if not self.is_closing:
            with contextlib.suppress(OSError):
                # struct linger {on, seconds}: with 0 seconds, closing sends a reset.
                linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.abort()
        self.close()

    async def aclose(self) -> None:
        """Close like `close`, and give asyncio the iteration in which it closes the socket."""
        self.close()
        await asyncio.sleep(0)  # otherwise the event loop might end first

    def close(self) -> None:
        """Close without waiting for the peer; pending data may be lost."""
        if self.unsent:  # otherwise the transport would wait for the peer to read it
            self.transport.abort()
        self._send_close_notify()
        self._set_writing(Writing.ENDED)
        self._set_reading(Reading.ENDED)
        self.transport.close()
        break_cycle(self.transport)
        if self._post_reset_socket:
            self._post_reset_socket.close()


def break_cycle(transport: asyncio.WriteTransport) -> None:
    """Let a transport that has been closed be freed without the garbage collector on 3.11.

    Later versions of asyncio drop this reference, a bound method of the transport, when it closes.
    """
    if hasattr(transport, "_read_ready_cb"):
        setattr(transport, "_read_ready_cb", None)  # noqa: B010 (unknown to mypy)


def send_to_all(connections: Iterable[Connection], data: bytes | memoryview) -> list[Connection]:
    """Send the same bytes to each connection; return those on which something is pending now.

    It writes to the file descriptors: `transport.write`, or any method called for each connection,
    would cost more per delivery. Where that is not possible, `_direct_fd` is NO_DIRECT_FD, to which
    `os.write` fails, and the connection's own method follows.
    """
    behind = []
    write, size = os.write, len(data)
    for connection in connections:
        try:
            sent = write(connection._direct_fd, data)
        except OSError:
            sent = 0
        if sent != size and not connection._send_indirectly(data, sent):
            behind.append(connection)
    return behind
