"""TLS: the contexts of both sides, and a connection that is encrypted.

It runs over memory buffers, with the event loop's plain transport beneath. asyncio's own TLS layer
allocates a large read buffer for each connection before its peer has sent anything, and leaves
reference cycles behind; here a connection only costs what OpenSSL allocates.
"""

import asyncio
import contextlib
import ssl
from copy import copy

from ..protocol.handshake import TLS_FIRST_BYTE
from .connection import TIME_SLICE, WRITE_SIZE, Connection, Reading

OLDEST_VERSION = ssl.TLSVersion.TLSv1_2

TLS_READ_AHEAD_LIMIT = 73_728
"""Bytes of input held for one connection, fewer than without TLS by the size of OpenSSL's
buffers."""

PIECE_SIZE = 4_096
"""Bytes of ciphertext decrypted at a time, which bounds the duration of one call: a key update of
27 bytes takes as long as a full record."""

REPLY_LIMIT = 2 * WRITE_SIZE
"""Unsent bytes above which nothing more is decrypted or read: one record, and TLS's own replies (to
key updates, for example)."""

NO_CIPHERTEXT = memoryview(b"")

ALERT = b"\x15\x03"
"""How an unencrypted alert begins; no line of this protocol begins like this."""

PLAIN_PEER_ALERT = ALERT + b"\x01\x00\x02\x02\x46"
"""A fatal alert, protocol_version, for a client that does not use TLS. OpenSSL sends it nothing."""

BROKEN = "the connection was cut off"


class PlainPeerError(ssl.SSLError):
    """The peer does not use TLS."""


def server_context(certificate: str, key: str | None) -> ssl.SSLContext:
    """Return a context for a server; the key may be in the same file. Raises OSError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = OLDEST_VERSION
    context.options |= ssl.OP_NO_RENEGOTIATION  # a client could demand it again and again
    context.load_cert_chain(certificate, key)
    return context


def client_context(authorities: str | None) -> ssl.SSLContext:
    """Return a context for a client; it trusts the system's certificates, unless told others.

    Raises OSError.
    """
    context = ssl.create_default_context(cafile=authorities)
    context.minimum_version = OLDEST_VERSION
    return context


def new_connection(tls: ssl.SSLContext | None, hostname: str | None = None) -> Connection:
    """Return a connection that is not connected yet: a TLSConnection if there is a context."""
    return TLSConnection(tls, hostname) if tls else Connection()


class TLSConnection(Connection):
    """A connection that is encrypted. What is sent before the handshake is complete is dropped.

    `hostname` is the server's, which a client verifies; None makes this the server's side.

        asyncio -> `_ciphertext` -> decrypted -> as without TLS
        as without TLS -> encrypted, a record at a time -> asyncio's buffer

    Reading continues from one of three places. While `_received` has plaintext: in `read_chunk`.
    While there is ciphertext: in a callback of the next iteration, or in `_resume_sending` if the
    peer does not read the replies that TLS requires. Otherwise: when more arrives.
    """

    read_ahead_limit = TLS_READ_AHEAD_LIMIT
    writes_directly = False  # OpenSSL has to encrypt first

    def __init__(self, context: ssl.SSLContext, hostname: str | None = None) -> None:
        super().__init__()
        self._context, self._hostname = context, hostname
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        # A server creates it when the client has sent something: a silent one costs nothing.
        self._tls: ssl.SSLObject | None = None
        self._established = False  # True once the handshake is complete
        self._ciphertext = NO_CIPHERTEXT  # arrived and not decrypted yet

    async def do_handshake(self) -> None:
        """Perform the handshake, without a timeout.

        Raises OSError, of which ssl.SSLError is one, when that fails.
        """
        if self._hostname is not None:
            self._decrypt_piece(NO_CIPHERTEXT)  # a client begins
            self._flush()
        while not self._established:
            if self._reading is Reading.ENDED:
                # A copy: the raised error refers to frames that refer to this, a cycle.
                raise copy(self.lost or ConnectionResetError(BROKEN))
            await self._wait_for_input()

    # --- input ---

    def eof_received(self) -> bool:
        """End the input, and the connection if there was no close_notify, as is often the case.

        From a server, data may be missing then, since ours always sends one.
        """
        if self._reading is not Reading.ENDED:
            if self._established and self._hostname is not None:
                self.lost = self.lost or ssl.SSLEOFError(ssl.SSL_ERROR_EOF, BROKEN)
            self.transport.abort()
        return super().eof_received()

    def _deliver(self, data: bytes) -> None:
        """Decrypt what has arrived, and deliver the plaintext."""
        self._ciphertext = memoryview(data)
        self._decrypt()

    def _decrypt(self) -> None:
        """Decrypt ciphertext, for one time slice, and send the replies that TLS requires.

        It stops while plaintext is not consumed, or the peer does not read the replies.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + TIME_SLICE
        plaintext: list[bytes] = []
        while self._ciphertext and not self._received and self._can_reply:
            piece = self._ciphertext[:PIECE_SIZE]
            # An empty slice would keep the whole buffer in memory.
            self._ciphertext = self._ciphertext[PIECE_SIZE:] or NO_CIPHERTEXT
            plaintext += self._decrypt_piece(piece)
            self._flush()
            if loop.time() > deadline:
                break
        if self._ciphertext:
            self._set_reading(Reading.PAUSED)
        if plaintext:
            super()._deliver(b"".join(plaintext))
        if self._is_waiting:
            self._resume_reading()

    @property
    def _can_reply(self) -> bool:
        return self.transport.get_write_buffer_size() <= REPLY_LIMIT

    def _decrypt_piece(self, piece: memoryview) -> list[bytes]:
        """Pass a piece of ciphertext to OpenSSL; return the plaintext that is now complete."""
        if self._tls is None:
            if self._hostname is None and piece[:1] != TLS_FIRST_BYTE:
                self._outgoing.write(PLAIN_PEER_ALERT)
                self._end_input(PlainPeerError())
                return []
            self._tls = self._context.wrap_bio(
                self._incoming, self._outgoing, self._hostname is None, self._hostname
            )
        self._incoming.write(piece)
        plaintext: list[bytes] = []
        try:
            if not self._established:
                self._tls.do_handshake()
                self._established = True
                self._wake_reader()  # which is `do_handshake`
            while data := self._tls.read(WRITE_SIZE):
                plaintext.append(data)
            self._end_input()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._end_input()
        except ssl.SSLError as error:
            self._end_input(error.with_traceback(None))  # its frames refer to this: a cycle
        return plaintext

    def _end_input(self, error: ssl.SSLError | None = None) -> None:
        """Read nothing more: the peer has sent its close_notify, or has violated the protocol."""
        self.lost = self.lost or error
        self._ciphertext = NO_CIPHERTEXT
        self._set_reading(Reading.ENDED)

    def _resume_reading(self) -> None:
        if not self._ciphertext:
            super()._resume_reading()
        elif self._can_reply:  # otherwise `_resume_sending` continues
            asyncio.get_running_loop().call_soon(self._decrypt)

    async def _read_rest(self) -> bool:
        if not self._ciphertext:
            return await super()._read_rest()
        await asyncio.sleep(0)  # its time slice has run out before a record was complete
        self._decrypt()
        return True

    # --- output ---

    def _resume_sending(self) -> None:
        super()._resume_sending()
        self._decrypt()

    def _write(self, data: memoryview) -> None:
        if self._tls and self._established:  # otherwise the peer would not understand it
            with contextlib.suppress(ssl.SSLError):  # broken: the next read reports it
                self._tls.write(data)
            self._flush()

    def _flush(self) -> None:
        """Send what OpenSSL wants to send: records, a part of the handshake, replies, an alert."""
        if self._outgoing.pending and self._accepts_output:
            self.transport.write(self._outgoing.read())

    def _send_close_notify(self) -> None:
        if self._established and self._tls and self._accepts_output:
            # It raises if the peer has not sent its own yet, or if the session is broken.
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            self._flush()
