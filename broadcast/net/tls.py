"""TLS for one connection over memory buffers: ciphertext in, plaintext out, and the reverse.

No socket and no event loop: the connection moves the bytes. asyncio's own TLS layer keeps a read
buffer of 256 KiB for each connection, from before its peer has said anything, and leaves reference
cycles behind; here a peer costs what OpenSSL keeps, from its first bytes on.
"""

from __future__ import annotations

import contextlib
import enum
import ssl

RECORD_SIZE = 16_384
"""Bytes of plaintext in a TLS record at most (RFC 8446, 5.1). What is encrypted at once is one
record, so that no more than this is waiting as ciphertext, and the memory buffers stay small."""

PIECE_SIZE = 4_096
"""Bytes of ciphertext decrypted at once: a bound on the time that one call can take, since a
key update of 27 bytes costs as much as a record full of data."""


class Phase(enum.Enum):
    """Where a TLS session is in its life; it only moves forward."""

    HANDSHAKE = enum.auto()
    OPEN = enum.auto()
    ENDED = enum.auto()
    """The peer has sent its close_notify, or broken the protocol: nothing more can be read."""


class TLSLayer:
    """One side of a TLS session.

    `hostname` is the server's, which a client verifies; None makes this the server's side. Feed it
    with `decrypt`, and send what `take_output` returns after every call. When the peer breaks the
    protocol, or is not trusted, `error` says why and the phase is ENDED.
    """

    __slots__ = ("_context", "_hostname", "_incoming", "_object", "_outgoing", "error", "phase")

    def __init__(self, context: ssl.SSLContext, hostname: str | None) -> None:
        self._context = context
        self._hostname = hostname
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        # A server's is made when its client has sent something: a silent one costs nothing.
        self._object: ssl.SSLObject | None = None
        self.phase = Phase.HANDSHAKE
        self.error: ssl.SSLError | None = None

    @property
    def is_server(self) -> bool:
        """Whether this is the server's side."""
        return self._hostname is None

    def start(self) -> ssl.SSLObject:
        """Begin the handshake; a client has something to send afterwards."""
        self._object = self._context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=self.is_server,
            server_hostname=self._hostname,
        )
        self._advance(self._object)
        return self._object

    def decrypt(self, ciphertext: bytes | memoryview) -> list[bytes]:
        """Take ciphertext, PIECE_SIZE at most, and return the plaintext that is complete by now."""
        self._incoming.write(ciphertext)
        return self._advance(self._object or self.start())

    def _advance(self, tls: ssl.SSLObject) -> list[bytes]:
        plaintext: list[bytes] = []
        try:
            if self.phase is Phase.HANDSHAKE:
                tls.do_handshake()
                self.phase = Phase.OPEN
            while self.phase is Phase.OPEN:
                if data := tls.read(RECORD_SIZE):
                    plaintext.append(data)
                else:
                    self.phase = Phase.ENDED
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.phase = Phase.ENDED
        except ssl.SSLError as error:
            self.phase = Phase.ENDED
            self.error = error.with_traceback(None)  # its frames hold this object: a cycle
        return plaintext

    def encrypt(self, plaintext: bytes | memoryview) -> bytes:
        """Return plaintext, RECORD_SIZE at most, as ciphertext; empty when the session is broken."""
        assert self._object
        try:
            self._object.write(plaintext)
        except ssl.SSLError as error:
            self.error = self.error or error.with_traceback(None)
        return self._outgoing.read()

    def take_output(self) -> bytes:
        """Return what has to be sent now: a part of the handshake, a reply, an alert."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def close(self) -> bytes:
        """Return a close_notify, which tells the peer that nothing was cut off."""
        if self._object and self.phase is not Phase.HANDSHAKE:
            # It waits for the peer's, or the session is broken: there is nothing more to send.
            with contextlib.suppress(ssl.SSLError):
                self._object.unwrap()
        return self.take_output()
