"""The load on a server: many connections in this process, which cost it less than the server.

What a client must receive is known in advance, to the byte, so most clients only count bytes,
which the kernel discards without copying them here (MSG_TRUNC). One client in ten, spread evenly
over the order of joining, reads its messages and measures their age.
"""

from __future__ import annotations

import re
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Self

from servers import HOST, Running, Server

PATIENCE = 10.0
"""Seconds without any progress after which a server counts as stalled."""

BLOCK = 65_536
"""Bytes that a sender at full speed sends at a time; the first message has a time stamp."""

SEND_BUFFER = 262_144
"""Bytes that the system may hold for a sender, which a row waits for at its end."""

GROUP = 8
"""Clients that join together; ncat lets at most 10 connections wait."""

STAMP = re.compile(rb"@(\d{19})@")
STAMP_SIZE = 21

BUFFER = memoryview(bytearray(1 << 20))

Handler = Callable[["Peer", memoryview], None]


class StalledError(Exception):
    """A server made no progress for PATIENCE."""


class Peer:
    """One connection."""

    def __init__(self, port: int, name: str) -> None:
        self.name = name
        self.socket = socket.create_connection((HOST, port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self.socket.setblocking(False)
        self.handler: Handler | None = self.keep  # gets what arrives; None: it is only counted
        self.kept = bytearray()  # received while `keep` is the handler, or the start of a stamp
        self.received = 0  # bytes
        self.unsent = memoryview(b"")
        self.sent = 0  # messages, those in `unsent` included
        self.gone = False  # once the server has closed it

    def keep(self, peer: Peer, data: memoryview) -> None:
        self.kept += data


@dataclass
class Stream:
    """The result of a stream of messages."""

    deliveries: int = 0
    seconds: float = 0.0  # from the first byte sent to the last received
    cpu: float = 0.0  # seconds of CPU that the server used meanwhile
    latencies: list[int] = field(default_factory=list)  # nanoseconds
    peak: int = 0  # bytes
    lost: int = 0
    dropped: int = 0
    stalled: bool = False

    @property
    def cost(self) -> float:
        """Microseconds of CPU per delivery."""
        return self.cpu * 1e6 / self.deliveries if self.deliveries else float("nan")

    def percentile(self, percent: int) -> float:
        """Milliseconds within which `percent` of the messages arrived."""
        ordered = sorted(self.latencies)
        return ordered[len(ordered) * percent // 100] / 1e6 if ordered else float("nan")


class Load:
    """All connections to one server, which the context manager closes."""

    def __init__(self, server: Server, running: Running) -> None:
        self.server = server
        self.running = running
        self.peers: dict[int, Peer] = {}  # by file descriptor
        self.received = 0  # bytes, by all
        self._progress = time.monotonic()  # when anything last arrived
        self._epoll = select.epoll()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for peer in self.peers.values():
            peer.socket.close()
        self._epoll.close()

    # --- receiving ---

    def poll(self, timeout: float = 1.0) -> list[Peer]:
        """Receive once what has arrived, and return which of the waiting senders can send.

        Raise StalledError if nothing has arrived for PATIENCE.
        """
        able = []
        for descriptor, event in self._epoll.poll(timeout):
            peer = self.peers[descriptor]
            if event & ~select.EPOLLOUT:
                self._receive(peer)
            if event & select.EPOLLOUT and not peer.gone:
                able.append(peer)
        if time.monotonic() - self._progress > PATIENCE:
            raise StalledError
        return able

    def _receive(self, peer: Peer) -> None:
        try:
            size = peer.socket.recv_into(BUFFER, 0, 0 if peer.handler else socket.MSG_TRUNC)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if not size:
            peer.gone = True
            self._epoll.unregister(peer.socket)
            return
        self.received += size
        peer.received += size
        self._progress = time.monotonic()
        if peer.handler:
            peer.handler(peer, BUFFER[:size])

    def until(self, condition: Callable[[], bool]) -> None:
        """Receive until a condition is true; raise StalledError after PATIENCE."""
        start = self._progress = time.monotonic()
        while not condition():
            self.poll(0.02)
            if time.monotonic() > start + PATIENCE:
                raise StalledError

    # --- joining ---

    def join(self, names: Sequence[str], receive: bool = True, group: int = GROUP) -> list[Peer]:
        """Connect clients, a group at a time, and return them once the server has all of them."""
        joined: list[Peer] = []
        for start in range(0, len(names), group):
            files = self.running.open_files() if not self.server.answers else 0
            newcomers = [self._connect(name, receive) for name in names[start : start + group]]
            self.until(partial(self._in, newcomers, files))
            joined += newcomers
        return joined

    def _in(self, newcomers: Sequence[Peer], files: int) -> bool:
        if not self.server.answers:  # counted by its file descriptors; it had `files` before
            return self.running.open_files() >= files + len(newcomers)
        return all(peer.gone or self.server.is_in(peer.kept) for peer in newcomers)

    def _connect(self, name: str, receive: bool) -> Peer:
        peer = Peer(self.running.port, name)
        self.peers[peer.socket.fileno()] = peer
        self._epoll.register(peer.socket, select.EPOLLIN)
        peer.socket.send(self.server.hello(name, receive))
        return peer

    def settle(self) -> None:
        """Wait until the server sends nothing more."""
        time.sleep(self.server.late_greeting or 0.5)
        for peer in self.peers.values():
            if self.server.late_answer and not peer.gone:
                peer.socket.send(self.server.late_answer)
        self._progress = time.monotonic()
        while self._epoll.poll(0):
            self.poll()

    def stall(self, peer: Peer) -> None:
        """Stop reading from a client, and leave it connected."""
        self._epoll.unregister(peer.socket)

    # --- a stream of messages ---

    def stream(
        self, senders: Sequence[Peer], receivers: Sequence[Peer], seconds: float, rate: int | None
    ) -> Stream:
        """Send for a time, wait until everything has arrived, and return the result.

        The speed is `rate` messages a second, or as fast as possible.
        """
        result = Stream()
        for peer in self.peers.values():
            peer.handler, peer.received = None, 0
            peer.kept.clear()
        for peer in receivers[min(5, len(receivers) // 2) :: max(1, len(receivers) // 10)]:
            peer.handler = lambda peer, data: _note_ages(peer, data, result.latencies)
        for peer in senders if rate is None else ():
            self._epoll.modify(peer.socket, select.EPOLLIN | select.EPOLLOUT)
        most = self.server.most_messages if rate is None else None
        plain = self.server.frame(b"")
        count = 1 if rate else min(BLOCK // len(plain), (most or BLOCK) // len(senders))
        cpu, start = self.running.cpu(), time.monotonic()
        self._progress = start
        try:
            over = False
            while not over or any(peer.unsent for peer in senders):
                over = (
                    over
                    or time.monotonic() >= start + seconds
                    or bool(most and sum(peer.sent for peer in senders) >= most)
                )
                able = self.poll(0 if rate else 1)
                if rate:
                    able = [
                        peer
                        for peer in senders
                        if peer.unsent or time.monotonic() >= start + peer.sent / rate
                    ]
                for peer in able:
                    if not peer.unsent and not over:
                        peer.unsent = memoryview(
                            self.server.frame(b"@%019d@" % time.monotonic_ns())
                            + plain * (count - 1)
                        )
                        peer.sent += count
                    self._send(peer)
            for peer in senders:
                if not peer.gone:
                    self._epoll.modify(peer.socket, select.EPOLLIN)
            expected = {peer: self._expected(peer, senders) for peer in receivers}
            while any(peer.received < expected[peer] and not peer.gone for peer in receivers):
                self.poll()
        except StalledError:
            result.stalled = True
        result.seconds = self._progress - start
        result.cpu = self.running.cpu() - cpu
        result.peak = self.running.memory("VmHWM")
        size = self.server.delivered(senders[0].name)
        result.deliveries = sum(peer.received // size for peer in receivers)
        result.lost = (
            sum(self._expected(peer, senders) // size for peer in receivers) - result.deliveries
        )
        result.dropped = sum(peer.gone for peer in self.peers.values())
        return result

    def _send(self, peer: Peer) -> None:
        try:
            peer.unsent = peer.unsent[peer.socket.send(peer.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            peer.unsent = memoryview(b"")  # it counts as sent, and therefore as lost

    def _expected(self, receiver: Peer, senders: Sequence[Peer]) -> int:
        """Bytes that a client must receive for what has been sent."""
        return sum(
            peer.sent * self.server.delivered(peer.name) for peer in senders if peer is not receiver
        )


def stamps(text: bytes) -> Iterator[int]:
    """Yield the time stamps in a text."""
    # `find` is much faster than a regular expression, which was a third of the load's CPU.
    start = text.find(b"@")
    while start >= 0:
        if stamp := STAMP.match(text, start):
            yield int(stamp[1])
        start = text.find(b"@", start + 1)


def _note_ages(peer: Peer, data: memoryview, latencies: list[int]) -> None:
    now = time.monotonic_ns()
    text = bytes(peer.kept + data) if peer.kept else bytes(data)
    peer.kept.clear()
    latencies.extend(now - stamp for stamp in stamps(text))
    if (cut := text.rfind(b"@", max(0, len(text) - STAMP_SIZE + 1))) >= 0:
        peer.kept += text[cut:]  # a stamp may continue in the next chunk
