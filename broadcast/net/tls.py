"""TLS for one connection over memory buffers: ciphertext in, plaintext out, and the reverse.

It uses no socket and no event loop: the connection moves the bytes. asyncio's own TLS layer
allocates a large read buffer for each connection before its peer has sent anything, and leaves
reference cycles behind; here a connection only costs what OpenSSL allocates.
"""

from __future__ import annotations

import contextlib
import enum
import ssl
from dataclasses import dataclass, field

from ..protocol.handshake import TLS_FIRST_BYTE

OLDEST_VERSION = ssl.TLSVersion.TLSv1_2

RECORD_SIZE = 16_384
"""Maximum bytes of plaintext in a TLS record (RFC 8446, 5.1). One record is encrypted at a time,
so that no more than that waits as ciphertext, and the memory buffers stay small."""

PIECE_SIZE = 4_096
"""Bytes of ciphertext decrypted at a time, which bounds the duration of one call: a key update of
27 bytes takes as long as a full record."""


ALERT = b"\x15\x03"
"""The bytes with which an unencrypted alert begins, and no line of ours."""

PLAIN_PEER_ALERT = ALERT + b"\x01\x00\x02\x02\x46"
"""A fatal alert, protocol_version, for a client that does not use TLS. OpenSSL sends it nothing."""


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


class Phase(enum.Enum):
    """The state of a TLS session, which only moves forward."""

    HANDSHAKE = enum.auto()
    OPEN = enum.auto()
    ENDED = enum.auto()
    """The peer has sent its close_notify, or violated the protocol: nothing more can be read."""


@dataclass(slots=True, eq=False)
class TLSLayer:
    """One side of a TLS session.

    `hostname` is the server's, which a client verifies; None makes this the server's side. Pass
    input to `decrypt`; send what `take_output` returns, at first and after every call. When the
    peer violates the protocol, or is not trusted, `error` is the reason and the phase is ENDED.
    """

    context: ssl.SSLContext
    hostname: str | None
    phase: Phase = Phase.HANDSHAKE
    error: ssl.SSLError | None = None
    _incoming: ssl.MemoryBIO = field(default_factory=ssl.MemoryBIO)
    _outgoing: ssl.MemoryBIO = field(default_factory=ssl.MemoryBIO)
    # A server creates it when the client has sent something: a silent one costs nothing.
    _object: ssl.SSLObject | None = None
    _is_closed: bool = False  # by `close`: there is no more output

    def __post_init__(self) -> None:
        if not self.is_server:
            self.decrypt(b"")  # begin the handshake

    @property
    def is_server(self) -> bool:
        """Whether this is the server's side."""
        return self.hostname is None

    def decrypt(self, ciphertext: bytes | memoryview) -> list[bytes]:
        """Add up to PIECE_SIZE bytes of ciphertext; return the plaintext that is now complete."""
        if self._object is None and self.is_server and ciphertext[:1] != TLS_FIRST_BYTE:
            self.phase, self.error = Phase.ENDED, PlainPeerError()
            self._outgoing.write(PLAIN_PEER_ALERT)
            return []
        tls = self._object = self._object or self.context.wrap_bio(
            self._incoming, self._outgoing, self.is_server, self.hostname
        )
        self._incoming.write(ciphertext)
        plaintext: list[bytes] = []
        try:
            if self.phase is Phase.HANDSHAKE:
                tls.do_handshake()
                self.phase = Phase.OPEN
            while data := tls.read(RECORD_SIZE):
                plaintext.append(data)
            self.phase = Phase.ENDED
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.phase = Phase.ENDED
        except ssl.SSLError as error:
            self.phase = Phase.ENDED
            self.error = error.with_traceback(None)  # its frames refer to this object: a cycle
        return plaintext

    def encrypt(self, plaintext: bytes | memoryview) -> bytes:
        """Encrypt up to RECORD_SIZE bytes of plaintext; return nothing if the session is broken."""
        assert self._object
        try:
            self._object.write(plaintext)
        except ssl.SSLError as error:
            self.error = self.error or error.with_traceback(None)
        return self._outgoing.read()

    def take_output(self) -> bytes:
        """Return what must be sent now: a part of the handshake, a reply, or an alert."""
        return b"" if self._is_closed or not self._outgoing.pending else self._outgoing.read()

    def close(self) -> bytes:
        """Return a close_notify, which tells the peer that the stream is complete.

        It is the last output: a second call, or a later `take_output`, returns nothing.
        """
        if self._object and self.phase is not Phase.HANDSHAKE and not self._is_closed:
            # It raises if the peer has not sent its own yet, or if the session is broken.
            with contextlib.suppress(ssl.SSLError):
                self._object.unwrap()
        last, self._is_closed = self.take_output(), True
        return last
