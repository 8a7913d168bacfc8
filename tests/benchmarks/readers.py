"""Measure what readers can do to a busy room: `python3 tests/benchmarks/readers.py --help`.

The first row compares servers: one of fifty receivers has stalled, and a sender sends as fast as it
can. The others are attacks on this server: one client floods it, and some read in a way that makes
it wait. Meanwhile an honest client says a line every 50 ms, another reads, and now and then one
joins. Needs Linux, and nothing but Python; a peer that is not installed is left out and named.
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import time
from dataclasses import dataclass
from math import nan
from pathlib import Path

from fanout import explained, machine
from load import Load, stamps
from servers import HOST, LOAD_CORE, Nats, Redis, Server, WithNotices, run

MESSAGES = 100_000
"""Messages of 100 bytes that the sender sends beside a stalled receiver: more than any of the
servers keeps for it."""

LINE_INTERVAL = 0.05
JOIN_INTERVAL = 0.25
"""Seconds between two lines of the honest client, and between two clients that join."""

WARM_UP = 10.0
"""Seconds before the measurement, in which budgets are spent."""

GAP = 0.1
"""Seconds without a message after which the room counts as blocked."""

READ_SIZE = 1 << 18
READ_TIME = 0.2
"""Bytes of one read; seconds for which a client that sleeps reads what it has missed, at most."""

BUFFER = bytearray(READ_SIZE)
TOO_SLOW = b" left (too slow)"


class RedisAsInstalled(Redis):
    output_limit = "32mb 8mb 60"


class NatsAsInstalled(Nats):
    limits = ""


@dataclass(frozen=True)
class Attack:
    """How many clients read badly, and how."""

    title: str
    clients: int = 1
    sleep: float = 0.0  # seconds between two times of reading everything; 0: it never reads
    rate: float = 0.0  # bytes per second that it reads instead; 0: see `sleep`
    eager: bool = False  # whether it joins again once the others are told that it is gone
    addresses: int = 1  # that the clients are spread over


ATTACKS = {
    "none": Attack("nobody who reads badly", 0),
    "rejoin": Attack("1 stalled client that rejoins"),
    "rejoin10": Attack("10 stalled clients that rejoin", 10),
    "eager10": Attack("10 that rejoin as soon as they are dropped", 10, eager=True),
    "smart": Attack("1 that sleeps 4.6 s and reads everything", sleep=4.6),
    "smart10": Attack("10 of these, one address", 10, sleep=4.6),
    "apart10": Attack("10 of these, 10 addresses", 10, sleep=4.6, addresses=10),
    "nap10": Attack("10 that sleep 0.9 s, one address", 10, sleep=0.9),
    "steady": Attack("1 that reads 0.9 MB/s", rate=900_000),
}


class BadReader:
    """A client that reads as its attack demands, and rejoins whenever it is dropped."""

    def __init__(self, attack: Attack, number: int, port: int) -> None:
        self.attack = attack
        self.name = f"bad{number}"
        self.drops = -1
        self._port = port
        self._source = f"127.0.1.{1 + number % attack.addresses}"
        self.socket: socket.socket
        self.join()

    def join(self) -> None:
        if self.drops >= 0:
            self.socket.close()
        self.drops += 1
        self.socket = socket.create_connection((HOST, self._port), source_address=(self._source, 0))
        self.socket.send(f"CONNECT {self.name}\n".encode())
        self.socket.setblocking(False)
        self._wakes_at = time.monotonic() + (self.attack.sleep or float("inf"))
        self._read, self._joined_at = 0, time.monotonic()

    def act(self, is_told: bool) -> None:
        """Read if it is time to; rejoin if told to, or if the connection has ended."""
        now = time.monotonic()
        poller = select.poll()
        poller.register(self.socket, 0)
        if is_told or poller.poll(0):  # the only event: a reset
            self.join()
        elif self.attack.rate:
            while self._read < (time.monotonic() - self._joined_at) * self.attack.rate:
                if not self._receive(16_384):
                    break
        elif now >= self._wakes_at:
            if now >= self._wakes_at + READ_TIME:
                self._wakes_at = now + self.attack.sleep
            for _ in range(8):  # the other clients of this process must read, too
                if not self._receive(READ_SIZE):
                    self._wakes_at = time.monotonic() + self.attack.sleep
                    break

    def _receive(self, size: int) -> int:
        try:
            count = self.socket.recv_into(BUFFER, size, socket.MSG_TRUNC)
        except BlockingIOError:
            return 0
        except OSError:
            count = 0
        if not count:
            self.join()
        self._read += count
        return count


class Room:
    """A flooder, an honest pair and clients that join, driven by hand beside the bad readers."""

    def __init__(self, port: int) -> None:
        self.late: list[float] = []  # seconds, of each honest line
        self.joins: list[float] = []  # seconds that each newcomer waited
        self.still = 0.0  # seconds without anything to read, in stretches longer than GAP
        self.received = 0
        self._dropped: set[str] = set()  # according to the notices
        self._port = port
        self._flooder, self._speaker, self._reader = map(self._join, ("f", "s", "r"))
        self._chunk = memoryview(Server().frame(b"") * 600)
        self._unsent = self._chunk
        self._rest = b""
        self._last_read = self._says_at = self._joins_at = time.monotonic()
        self._newcomer: socket.socket | None = None

    def _join(self, name: str) -> socket.socket:
        joined = socket.create_connection((HOST, self._port), 30)
        joined.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        joined.send(f"CONNECT {name}\n".encode())
        joined.recv(len("SUCCESS\r\n"))
        joined.setblocking(False)
        return joined

    def start_measuring(self) -> None:
        self.late.clear()
        self.joins.clear()
        self.still, self.received, self._last_read = 0.0, 0, time.monotonic()

    def dropped(self) -> set[str]:
        """Return the names of those that were dropped since this was asked last."""
        dropped, self._dropped = self._dropped, set()
        return dropped

    def act(self) -> None:
        """Do what can be done now, which takes a millisecond or two."""
        peers = [self._flooder, self._speaker, self._reader]
        readable, writable, _ = select.select(peers, peers[:1], [], 0.001)
        for peer in readable:
            if peer is self._reader:
                self._read()
            else:
                peer.recv_into(BUFFER, 0, socket.MSG_TRUNC)
        if writable:
            self._unsent = self._unsent[self._flooder.send(self._unsent) :] or self._chunk
        now = time.monotonic()
        if now >= self._says_at:
            self._says_at += LINE_INTERVAL
            self._speaker.send(b"@%019d@\n" % time.monotonic_ns())
        self._try_joining(now)

    def _read(self) -> None:
        text = self._rest + self._reader.recv(READ_SIZE)
        self.received += len(text) - len(self._rest)
        self._rest = text[text.rfind(b"\n") + 1 :]
        text = text[: len(text) - len(self._rest)]
        now, read_before = time.monotonic(), self._last_read
        self._last_read = now
        if now - read_before > GAP:
            self.still += now - read_before
        self.late += [now - stamp / 1e9 for stamp in stamps(text)]
        if TOO_SLOW in text:
            lines = text.split(b"\r\n")
            self._dropped |= {line.split()[1].decode() for line in lines if line.endswith(TOO_SLOW)}

    def _try_joining(self, now: float) -> None:
        if self._newcomer is None and now >= self._joins_at:
            self._joins_at = now
            self._newcomer = socket.create_connection((HOST, self._port))
            self._newcomer.send(b"CONNECT n\n")
            self._newcomer.setblocking(False)
        if self._newcomer and select.select([self._newcomer], [], [], 0)[0]:
            self.joins.append(now - self._joins_at)
            self._joins_at = now + JOIN_INTERVAL
            self._newcomer.close()
            self._newcomer = None


def print_attack(attack: Attack, source: Path, seconds: float) -> None:
    """Run one attack against a server, and print how it affected the honest clients."""
    server = WithNotices()
    server.source = source
    with run(server) as running:
        room = Room(running.port)
        readers = (BadReader(attack, number, running.port) for number in range(attack.clients))
        bad = {reader.name: reader for reader in readers}
        for duration in (WARM_UP, seconds):
            room.start_measuring()
            began, drops = time.monotonic(), sum(client.drops for client in bad.values())
            while time.monotonic() < began + duration:
                room.act()
                dropped = room.dropped()
                for name, client in bad.items():
                    client.act(attack.eager and name in dropped)
            elapsed = time.monotonic() - began
        drops = sum(client.drops for client in bad.values()) - drops
    print(
        f"{attack.title:44}{room.still / elapsed:8.0%}{median(room.late):9.2f}"
        f"{max(room.late, default=nan):9.2f}{median(room.joins):9.2f}"
        f"{max(room.joins, default=nan):9.2f}{room.received / elapsed / 1e6:8.1f}{drops:7}",
        flush=True,
    )


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2] if values else nan


def print_stalled(source: Path, rounds: int) -> None:
    """Send to fifty receivers of which one has stalled, and print how long it took each server."""
    print(f"\n1 sender flat out, {MESSAGES:,} messages of 100 bytes, 50 receivers, 1 stalled")
    print(f"{'':18}{'seconds':>9}{'lost':>9}{'CPU s':>9}")
    ours = Server()
    ours.source = source
    servers: list[Server] = [ours, RedisAsInstalled(), NatsAsInstalled()]
    for server in servers * rounds:
        server.most_messages = MESSAGES
        with explained(server), run(server) as running, Load(server, running) as load:
            receivers = load.join([f"r{number:04}" for number in range(50)])
            senders = load.join(["s0000"], receive=False)
            load.settle()
            load.stall(receivers[0])
            result = load.stream(senders, receivers[1:], 60, None)
            print(f"{server.name:18}{result.seconds:9.2f}{result.lost:9,}{result.cpu:9.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what readers can do to a busy room.")
    rows = ("stalled", *ATTACKS)
    parser.add_argument("--rows", nargs="+", choices=rows, default=rows, metavar="ROW")
    parser.add_argument("--seconds", type=float, default=20, help="of each attack, after a warm-up")
    parser.add_argument("--rounds", type=int, default=1, help="of the comparison of servers")
    here = Path(__file__).parent.parent.parent
    parser.add_argument("--source", type=Path, default=here, help="another checkout to measure")
    options = parser.parse_args()
    print(machine())
    os.sched_setaffinity(0, {LOAD_CORE})
    if "stalled" in options.rows:
        print_stalled(options.source, options.rounds)
    attacks = [attack for name, attack in ATTACKS.items() if name in options.rows]
    if attacks:
        print(f"\nOne client floods; after {WARM_UP:g} s, for {options.seconds:g} s:")
        print(
            f"{'':44}{'still':>8}{'late s':>9}{'at most':>9}{'join s':>9}{'at most':>9}"
            f"{'MB/s':>8}{'drops':>7}"
        )
    for attack in attacks:
        print_attack(attack, options.source, options.seconds)


if __name__ == "__main__":
    main()
