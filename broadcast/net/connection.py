"""One connection, for the client and the server: read chunks, write bytes, close or reset it."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import os
import select
import socket
import ssl
import struct
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass, field
from typing import Self

from .address import format_address
from .tls import PIECE_SIZE, RECORD_SIZE, Phase, TLSLayer

READ_AHEAD_LIMIT = 114_688
"""Bytes of input held for one connection: the unfinished line, and what was read after it. With
some 8 KB for the connection, its session and their tasks, a client takes up less than 128 KB."""

TLS_READ_AHEAD_LIMIT = 73_728
"""The limit under TLS, lower by the size of OpenSSL's buffers."""

SMALLEST_READ = 4_096
"""Minimum number of bytes read at once, however long the unfinished line is."""

NO_DIRECT_FD = -1
"""Stored when there is no descriptor to write to directly; writing to it raises OSError."""

SEND_BUFFER = 393_216
"""Bytes that the system may buffer for one client (Linux doubles it, for its own overhead): three
batches. Without this bound, stalled readers use several times the memory, and with two batches,
clients that read slowly cost more per delivery."""

CLOSE_TIMEOUT = 1.0
"""Seconds that the peer has to read the rest of its data, and to end its side, when a connection is
closed gracefully; after that it is reset."""

TLS_REPLY_LIMIT = 2 * RECORD_SIZE
"""Bytes that may wait for the peer to read them: a record of data and TLS's own replies, such as to
key updates. Above this limit nothing is read from the peer."""

TIME_SLICE = 0.002
"""Seconds for which one connection may occupy the event loop before others are served."""

NO_CIPHERTEXT = memoryview(b"")

CUT_OFF = "the connection was cut off"


class _Writing(enum.Enum):
    """Where a write goes; changed only in `_set_writing`."""

    READY = enum.auto()
    """To the file descriptor, or through asyncio's transport under TLS: nothing is pending."""
    BLOCKED = enum.auto()
    """To the end of a queue: earlier data is pending."""
    ENDED = enum.auto()
    """Nowhere: the output has ended, and a write has no effect. Input may still arrive."""
    CLOSED = enum.auto()
    """Nowhere: the connection is closed."""


class _Reading(enum.Enum):
    """Whether the transport reads; changed only in `_set_reading`."""

    FLOWING = enum.auto()
    PAUSED = enum.auto()
    """It does not read until the data that has arrived is consumed."""
    ENDED = enum.auto()
    """Nothing more will arrive."""


@dataclass(slots=True, eq=False, repr=False)
class Connection(asyncio.Protocol):
    """One connection, plain or TLS: chunks in, bytes out, closed gracefully or reset.

    It is an asyncio protocol, not a pair of streams, because a StreamReader raises a reset's
    exception before it returns the data that arrived before the reset.

    `lost` is the exception that broke the connection; None while it is intact, or after it has
    ended gracefully. `write_pending` is True while written data is unsent; `on_drained` is called
    once all is sent or the connection is lost. While `read_chunk` is waiting, data that arrives
    is passed to `on_chunk` first: if that returns True, the data is handled and the wait continues.

    Memory is bounded: nothing is read from the socket before the last chunk is consumed, and a
    chunk has at most READ_AHEAD_LIMIT bytes (under TLS, TLS_READ_AHEAD_LIMIT). A reader that holds
    a chunk while it waits for something else calls `pause_reading` first.
    """

    # Declared as slots, which saves memory: there may be thousands of connections.
    transport: asyncio.Transport = field(init=False)  # set in `connection_made`, as is the socket
    _socket: socket.socket = field(init=False)
    peer: str = ""  # the peer's host:port; set in `connection_made`
    lost: Exception | None = None
    on_chunk: Callable[[bytes], bool] | None = None
    on_drained: Callable[[], None] | None = None
    # Reading.
    _reading: _Reading = _Reading.FLOWING
    _received: bytes = b""  # the chunk that has arrived and is not consumed yet
    _reader: asyncio.Future[None] | None = None  # while `read_chunk` or `start_tls` is waiting
    _post_reset_socket: socket.socket | None = None  # holds what arrived before a reset
    # Writing.
    _writing: _Writing = _Writing.READY
    _direct_fd: int = NO_DIRECT_FD  # the file descriptor while it may be written to
    _unsent: list[bytes | memoryview] = field(default_factory=list)  # not in the transport yet
    _drained: asyncio.Event | None = None  # while `drain` is waiting
    # TLS, after `start_tls` is called.
    _tls: TLSLayer | None = None
    _ciphertext: memoryview = NO_CIPHERTEXT  # arrived and not decrypted yet

    # --- called by asyncio: input ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._socket = transport.get_extra_info("socket")
        self.peer = format_address(transport.get_extra_info("peername"))
        transport.set_write_buffer_limits(high=0)  # pause writing as soon as anything is pending
        self.limit_read_ahead(0)
        self._set_writing(_Writing.READY)

    def data_received(self, data: bytes) -> None:
        """Deliver what arrived, or decrypt it first."""
        if self._reading is _Reading.ENDED:
            return  # after a close_notify or our own close, input is discarded
        if self._tls is None:
            self._deliver(data)
        else:
            self._ciphertext = memoryview(data)
            self._decrypt(self._tls)

    def eof_received(self) -> bool:
        """End the input, and keep the other direction open."""
        tls = self._tls
        if tls and tls.phase is not Phase.ENDED:
            # The peer has closed its socket without a close_notify, as clients often do. From a
            # server, data may be missing, since ours always sends one.
            if tls.phase is Phase.OPEN and not tls.is_server:
                self.lost = self.lost or ssl.SSLEOFError(ssl.SSL_ERROR_EOF, CUT_OFF)
            self.transport.abort()
        self._set_reading(_Reading.ENDED)
        return True  # keep the other direction open

    def connection_lost(self, exc: Exception | None) -> None:
        """End both directions, and keep what had arrived."""
        if exc:
            self.lost = exc.with_traceback(None)  # its frames refer to the transport: a cycle
            # When a write meets a reset, earlier input is still in the kernel, and asyncio is about
            # to close the socket.
            if self._reading is not _Reading.ENDED:
                with contextlib.suppress(OSError):
                    self._post_reset_socket = self._socket.dup()
        self._set_writing(_Writing.CLOSED)
        self._set_reading(_Reading.ENDED)
        self._notify_drained()

    def _deliver(self, data: bytes) -> None:
        """Pass data to `on_chunk`, or keep it for `read_chunk` and read no more until then."""
        waiting = self._reader is not None and not self._reader.done()
        if waiting and self.on_chunk and self.on_chunk(data):
            return
        self._received = self._received + data if self._received else data
        # No need to pause for a reader: its wake-up is queued before the next read callback.
        if waiting:
            self._wake_reader()
        else:
            self._set_reading(_Reading.PAUSED)

    def _wake_reader(self) -> None:
        if self._reader and not self._reader.done():
            self._reader.set_result(None)

    def _set_reading(self, state: _Reading) -> None:
        """Change the reading state: FLOWING and PAUSED alternate until ENDED, which is final."""
        if self._reading is _Reading.ENDED or state is self._reading:
            return
        self._reading = state
        if state is _Reading.PAUSED:
            self.transport.pause_reading()
        elif state is _Reading.FLOWING:
            self.transport.resume_reading()
        else:
            self._wake_reader()

    # --- called by asyncio: output ---

    def pause_writing(self) -> None:
        """Note that the system takes no more for now."""
        self._set_writing(_Writing.BLOCKED)

    def resume_writing(self) -> None:
        """Continue to send in the next iteration."""
        # Not at once: asyncio is in the middle of a write, and if a write of ours met a reset now,
        # it would call `connection_lost` twice.
        asyncio.get_running_loop().call_soon(self._resume_sending)

    def _resume_sending(self) -> None:
        if self.is_closing or self.transport.get_write_buffer_size():
            return  # `connection_lost` has been called or will be, or `resume_writing` again
        self._set_writing(_Writing.READY)
        unsent, self._unsent = self._unsent, []
        for data in unsent:
            self.send(data)  # queues up again behind one of which only a part was sent
        if not self.write_pending:
            self._notify_drained()
        self._continue_decrypting()

    def _set_writing(self, state: _Writing) -> None:
        """Change the writing state: READY and BLOCKED alternate until ENDED or CLOSED.

        Only CLOSED follows ENDED, and nothing follows CLOSED. The file descriptor is written to
        directly only while nothing is pending, and is forgotten before the socket can be closed.
        """
        if self._writing in (_Writing.ENDED, _Writing.CLOSED) and state is not _Writing.CLOSED:
            return
        self._writing = state
        self._update_direct_fd()
        if state is _Writing.CLOSED:
            self._unsent.clear()

    def _update_direct_fd(self) -> None:
        # TLS has to encrypt first; outside POSIX, a socket is not a file descriptor.
        is_direct = self._writing is _Writing.READY and not self._tls and os.name == "posix"
        self._direct_fd = self._socket.fileno() if is_direct else NO_DIRECT_FD

    def _notify_drained(self) -> None:
        if self._drained:
            self._drained.set()
            self._drained = None
        if self.on_drained:
            self.on_drained()

    # --- TLS ---

    async def start_tls(self, context: ssl.SSLContext, hostname: str | None = None) -> None:
        """Perform the TLS handshake, and encrypt from then on; a client passes the `hostname`.

        Raises OSError, of which ssl.SSLError is one, when that fails. It has no timeout.
        """
        tls = self._tls = TLSLayer(context, hostname)
        self._update_direct_fd()
        self.transport.write(tls.take_output())
        arrived, self._received = self._received, b""
        self._ciphertext = memoryview(arrived)
        self._continue_decrypting()
        while tls.phase is Phase.HANDSHAKE and self._reading is not _Reading.ENDED:
            await self._wait_for_input()
        if tls.phase is not Phase.OPEN and (self.lost or not self._received):
            if self.lost is None:
                raise ConnectionResetError(CUT_OFF)
            # A copy: the raised error refers to frames that refer to this connection, a cycle.
            raise copy(self.lost)

    @property
    def is_encrypted(self) -> bool:
        """Whether TLS is set up, so that data sent now is encrypted."""
        return self._tls is not None and self._tls.phase is Phase.OPEN

    def _decrypt(self, tls: TLSLayer) -> None:
        """Decrypt what has arrived, for one time slice, and send the replies that TLS requires.

        It stops while the peer does not read these replies.
        """
        loop = asyncio.get_running_loop()
        deadline, phase = loop.time() + TIME_SLICE, tls.phase
        plaintext: list[bytes] = []
        while self._ciphertext and self.transport.get_write_buffer_size() <= TLS_REPLY_LIMIT:
            plaintext += tls.decrypt(self._ciphertext[:PIECE_SIZE])
            # An empty slice would keep the whole buffer in memory.
            self._ciphertext = self._ciphertext[PIECE_SIZE:] or NO_CIPHERTEXT
            if (reply := tls.take_output()) and not self.is_closing:
                self.transport.write(reply)
            if tls.phase is Phase.ENDED:
                self._ciphertext = NO_CIPHERTEXT
            if loop.time() > deadline:
                break
        if plaintext:
            self._deliver(b"".join(plaintext))
        if tls.phase is not phase:
            self._wake_reader()  # for `start_tls`
        self._update_reading(tls)

    def _update_reading(self, tls: TLSLayer) -> None:
        """Read on, or not, after a change in the TLS session's phase or buffers."""
        if tls.phase is Phase.ENDED:
            self.lost = self.lost or tls.error
            self._set_reading(_Reading.ENDED)
        elif self._ciphertext:
            self._set_reading(_Reading.PAUSED)
            # Above the limit, `_resume_sending` continues.
            if self.transport.get_write_buffer_size() <= TLS_REPLY_LIMIT:
                asyncio.get_running_loop().call_soon(self._continue_decrypting)
        elif self._reader:
            self._set_reading(_Reading.FLOWING)

    def _continue_decrypting(self) -> None:
        if self._tls and self._ciphertext and not self._received:
            self._decrypt(self._tls)

    # --- reading ---

    def limit_read_ahead(self, held: int) -> None:
        """Bound the size of the next reads; `held` is the bytes that the reader still holds."""
        limit = TLS_READ_AHEAD_LIMIT if self._tls else READ_AHEAD_LIMIT
        self.set_read_size(max(limit - held, SMALLEST_READ))

    def set_read_size(self, size: int) -> None:
        """Bound each read from now on to `size` bytes."""
        # asyncio's selector transports pass this to `recv`; others have no such bound.
        setattr(self.transport, "max_size", size)  # noqa: B010 (unknown to mypy)

    def pause_reading(self) -> None:
        """Read nothing from the socket until `read_chunk` is called again.

        A reader calls this before it waits for anything else, so that its memory is bounded.
        """
        self._set_reading(_Reading.PAUSED)

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
        self._continue_decrypting()
        while not self._received:
            if self._reading is not _Reading.ENDED:
                await self._wait_for_input()
            elif self._ciphertext:
                await asyncio.sleep(0)  # its time slice has run out before a record was complete
            elif not self._read_post_reset():
                return b""
            self._continue_decrypting()
        chunk, self._received = self._received, b""
        return chunk

    async def _wait_for_input(self) -> None:
        if not self._ciphertext:
            self._set_reading(_Reading.FLOWING)
        self._reader = asyncio.get_running_loop().create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    def _read_post_reset(self) -> bool:
        """Read data that arrived before a reset that a write met; return whether there was any."""
        data = b""
        if self._post_reset_socket:
            with contextlib.suppress(OSError):  # the reset itself, once all data is read
                data = self._post_reset_socket.recv(READ_AHEAD_LIMIT)
        if self._tls:
            self._ciphertext = memoryview(data)
        else:
            self._received = data
        return bool(data)

    # --- writing ---

    @property
    def is_closing(self) -> bool:
        """Whether the connection is closed, or will be as soon as asyncio has closed the socket."""
        return self.transport.is_closing()

    @property
    def write_pending(self) -> bool:
        """Whether written data has not all been sent to the system yet."""
        return self._writing is _Writing.BLOCKED

    @property
    def unsent(self) -> int:
        """Bytes that have not been sent to the system yet, as plaintext or as ciphertext."""
        return self.transport.get_write_buffer_size() + sum(map(len, self._unsent))

    def send(self, data: bytes | memoryview) -> bool:
        """Write `data` after all that was written before; return False if anything is pending now.

        Until it has been sent, `data` is kept, not copied. Once the connection is closing, this has
        no effect.
        """
        return not send_to_all((self,), data)

    def _send_indirectly(self, data: bytes | memoryview, sent: int) -> bool:
        """Write what could not be sent directly.

        Nothing can be while earlier data is pending, under TLS and on Windows. Returns the same as
        `send`.
        """
        rest = memoryview(data)[sent:]
        while rest and not self.is_closing and self._writing is not _Writing.ENDED:
            if self.write_pending:
                self._unsent.append(rest)
                break
            # One record at a time: the transport holds ciphertext and, on 3.11, a copy of it.
            record, rest = rest[:RECORD_SIZE], rest[RECORD_SIZE:]
            self.transport.write(self._tls.encrypt(record) if self._tls else record)
        return not self.write_pending

    def limit_send_buffer(self, size: int) -> None:
        """Bound the bytes that the system may buffer for the peer."""
        with contextlib.suppress(OSError):  # the connection has ended: the next read reports it
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    async def drain(self) -> None:
        """Wait until everything written has been sent to the system, or the connection is lost."""
        if self.write_pending:
            self._drained = self._drained or asyncio.Event()
            await self._drained.wait()

    # --- closing ---

    async def close_gracefully(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Close so that the peer gets everything: drain, end the output, read until the input ends.

        Closing with unread input would make the system send a reset, which destroys what the peer
        has not read yet. A peer that does not read everything within `timeout` seconds is reset, so
        that its stream does not appear complete.
        """
        complete = False
        try:
            async with asyncio.timeout(timeout):
                await self.drain()
                self._send_close_notify()
                await self.drain()
                if not self.is_closing:
                    self.transport.write_eof()
                    self._set_writing(_Writing.ENDED)
                    complete = True
                while await self.read_chunk():
                    pass
        except (TimeoutError, OSError):
            pass  # `complete` says whether the output ended in time
        finally:
            if complete and not self.transport.get_write_buffer_size():
                self.close()
            else:
                self.reset()

    def _send_close_notify(self) -> None:
        if self._tls and not self.is_closing and (last := self._tls.close()):
            self.transport.write(last)

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
        """Close like `close`; when this returns, asyncio has closed the socket as well."""
        self.close()
        await asyncio.sleep(0)  # the event loop itself may end after this

    def close(self) -> None:
        """Close without waiting for the peer; pending data may be lost."""
        if self.write_pending:  # otherwise the transport would wait for the peer to read it
            self.transport.abort()
        self._send_close_notify()
        self._set_writing(_Writing.CLOSED)
        self._set_reading(_Reading.ENDED)
        self._ciphertext = NO_CIPHERTEXT
        self.transport.close()
        break_cycle(self.transport)
        if self._post_reset_socket:
            self._post_reset_socket.close()
            self._post_reset_socket = None


def break_cycle(transport: asyncio.WriteTransport) -> None:
    """Let a transport that has been closed be freed without the garbage collector on 3.11.

    Later versions of asyncio drop this reference, a bound method of the transport, when it closes.
    """
    if hasattr(transport, "_read_ready_cb"):
        setattr(transport, "_read_ready_cb", None)  # noqa: B010 (unknown to mypy)


def send_to_all(connections: Iterable[Connection], data: bytes | memoryview) -> list[Connection]:
    """Send the same bytes to each connection; return those on which something is pending now.

    While nothing is pending, it writes to the file descriptors: `transport.write`, or any method
    called for each connection, would cost more per delivery.
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
