"""Keep a server busy, and check it: `python3 tests/benchmarks/soak.py --minutes 30`.

Hundreds of clients come, talk, stall, misbehave and leave at random, while a few well-behaved
ones check that no message is lost, duplicated or out of order. In the end, the server must hold
what it held after a warm-up. The exit status is 0 only if everything was right. The program needs
Linux, and nothing but Python. It checks as follows:

* A *talker* numbers its messages. A *checker* expects them without a gap: from 1, or from where
  it joined itself.
* At intervals the *conductor* sends `sync <number>` and waits until all checkers have seen it. By
  then they must have seen the same messages in the same order (a checksum over all lines, garbage
  too), and every message of each talker that left gracefully.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import IO, NamedTuple

from sockets import connect_to, reset_on_close
from storm import nasty

TOP = Path(__file__).parent.parent.parent
PROGRAM = """
import ctypes, gc, signal, sys
from broadcast.cli import main_server

trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)

def account(*_):
    gc.collect()
    trim(0)
    print(sys.getallocatedblocks(), flush=True)

signal.signal(signal.SIGUSR2, account)
sys.exit(main_server())
"""
"""The server, with a signal at which it reports how many blocks of memory Python holds, and makes
the C library return free memory to the system. Both keep some free memory for later, so that
resident memory alone does not show a leak."""

OPTIONS = (
    "--port",
    "0",
    "--log-level",
    "WARNING",
    "--grace",
    "2",
    "--timeout",
    "20",
    "--backlog",
    "2000000",
)
"""A short grace and timeout and a small backlog, so that clients are dropped all the time."""

PATIENCE = 30.0
"""Seconds that an action of the server may take, with a margin for a busy machine."""

SYNC_PAUSE = 2.0
CHECKERS = 5
CHECKER_STAY = 60
"""Seconds; how many; and how many syncs a checker stays on average."""

BLOCKS_LIMIT = 1000
"""Blocks of memory that Python may hold more at the end than after the warm-up, in an empty room.
The number varies by a hundred; one object leaked by each client would be ten thousand in half an
hour."""

GROWTH_LIMIT = 10 * 2**20
"""Bytes of resident memory, likewise, for fragments of free memory: 2 MiB in half an hour."""

LAGGING_BUFFER = 32_768
"""Bytes of receive buffer of a checker, so that it lags often and is never dropped."""

MOODS = {"quiet": 8.0, "calm": 2.0, "lively": 0.5, "busy": 0.1, "flat out": 0.5}
"""Seconds between two messages of a talker, on average; one in twenty may send at full speed."""

BUFFER = bytearray(2**18)
"""The buffer of all clients; a chunk is handled before the next one is read."""


class Account(NamedTuple):
    """What the server holds: resident memory, Python's blocks of memory, open files, clients."""

    memory: int
    blocks: int
    files: int
    clients: int


class Server:
    """The server as a process: its port, and what it holds."""

    def __init__(self, log: IO[bytes]) -> None:
        self.log = log
        command = [sys.executable, "-c", PROGRAM, *OPTIONS]
        self.process = subprocess.Popen(
            command, cwd=TOP, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
        )
        deadline = time.monotonic() + PATIENCE
        while not (port := self._listening()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the server did not start")
            time.sleep(0.02)
        self.port = port

    def _listening(self) -> int | None:
        """Return its port, found in /proc, because it is not logged at this level."""
        files = self._files()
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in files:
                return int(local.partition(":")[2], 16)
        return None

    def _files(self) -> list[str]:
        links = []
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(f"/proc/{self.process.pid}/fd"):
                with contextlib.suppress(FileNotFoundError):
                    links.append(os.readlink(entry))
        return links

    def open_files(self) -> int:
        return len(self._files())

    def memory(self) -> int:
        """Return its resident memory in bytes."""
        with contextlib.suppress(FileNotFoundError):
            return (
                int(
                    Path(f"/proc/{self.process.pid}/status")
                    .read_text()
                    .partition("VmRSS:")[2]
                    .split()[0]
                )
                * 1024
            )
        return 0

    def blocks(self) -> int:
        """Return how many blocks of memory Python holds, after free memory was returned."""
        assert self.process.stdout
        self.process.send_signal(signal.SIGUSR2)
        return int(self.process.stdout.readline())

    def stop(self) -> int | None:
        """Stop it; return its exit status, or None if it did not end."""
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(PATIENCE)
        return None

    def logged(self) -> list[str]:
        self.log.seek(0)
        return self.log.read(100_000).decode(errors="replace").splitlines()


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """Run a server while the body runs."""
    with tempfile.TemporaryFile() as log:
        server = Server(log)
        try:
            yield server
        finally:
            if server.process.poll() is None:
                server.process.kill()
            server.process.wait()


class Client(asyncio.BufferedProtocol):
    """A connection that discards what it reads, except the first line and the last bytes."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.answered = (
            asyncio.get_running_loop().create_future()
        )  # done with the first line, or nothing where there was none
        self.ended = asyncio.Event()
        self.in_order = (
            False  # whether the server ended the stream, and gave no error as the reason
        )
        self.last_words = b""
        self._writable = asyncio.Event()
        self._writable.set()

    def get_buffer(self, sizehint: int) -> bytearray:
        return BUFFER

    def buffer_updated(self, size: int) -> None:
        if self.answered.done():
            self.take(memoryview(BUFFER)[:size])
            return
        answer, ending, rest = (self.last_words + BUFFER[:size]).partition(b"\r\n")
        self.last_words = b"" if ending else answer
        if ending:
            self.answered.set_result(answer)
            self.admitted()
            self.take(memoryview(rest))

    def admitted(self) -> None:
        """Handle the first line before what follows it."""

    def take(self, chunk: memoryview) -> None:
        self.last_words = (
            bytes(chunk[-150:]) if len(chunk) >= 150 else (self.last_words + chunk)[-150:]
        )

    def eof_received(self) -> None:
        self.in_order = (
            self.last_words[-2:] in (b"", b"\r\n") and b"\nERROR t" not in b"\n" + self.last_words
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()
        self._writable.set()
        if not self.answered.done():
            self.answered.set_result(b"")

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        if not self.ended.is_set():
            self._writable.set()

    async def send(self, data: bytes) -> None:
        """Send, and wait until it is written; no effect once the connection is closing."""
        if not self.transport.is_closing():
            self.transport.write(data)
            await self._writable.wait()

    def reset(self) -> None:
        if not self.transport.is_closing():
            reset_on_close(self.transport.get_extra_info("socket"))
        self.transport.abort()

    async def connect(self, port: int, receive_buffer: int = 0) -> None:
        connected = await connect_to(port, receive_buffer)
        loop = asyncio.get_running_loop()
        self.transport, _ = await loop.create_connection(lambda: self, sock=connected)


class Checker(Client):
    """A client that reads and checks everything."""

    def __init__(self, soak: Soak) -> None:
        super().__init__()
        self.soak = soak
        self.checksum = 0  # of all messages since the last sync
        self.synced: int | None = None  # the last one
        self.clients: int | None = None  # as in the last notice
        self.shut_down = False
        self._rest = b""
        self._seen: dict[bytes, int] = {}  # talker -> the number of its last message
        self._before: dict[
            bytes, int
        ] = {}  # talker -> how much it had said, at most, when this one joined
        self._newcomers = 0  # the number of the first talker that joined after this one

    def admitted(self) -> None:
        self._before = {talker.name: talker.said for talker in self.soak.talkers.values()}
        self._newcomers = self.soak.next_talker

    def take(self, chunk: memoryview) -> None:
        super().take(chunk)
        *lines, self._rest = (self._rest + chunk).split(b"\r\n")
        for line in lines:
            if line.startswith((b"* ", b"ERROR ")):
                self.told(line)
                continue
            self.checksum = zlib.crc32(line, self.checksum)
            name, _, text = line.partition(b": ")
            last = self._seen.get(name)
            if last is not None and text.startswith(b"%d " % (last + 1)):
                self._seen[name] = last + 1
                self.soak.counts["checked"] += 1
            elif re.fullmatch(rb"t\d+", name):
                self._check(name, int(text.split(b" ")[0]), last)
            elif name == b"conductor":
                self._sync(int(text.removeprefix(b"sync ")))
            else:
                self.soak.counts["garbage"] += 1

    def told(self, line: bytes) -> None:
        """Handle a notice or an error."""
        if line.startswith(b"ERROR "):
            self.soak.fail(f"a checker was told {line!r}")
        elif line == b"* server is shutting down":
            self.shut_down = True
        elif match := re.fullmatch(rb"\* (\d+) clients?", line):
            self.clients = int(match[1])

    def _check(self, name: bytes, number: int, last: int | None) -> None:
        """Check a talker's first message here, or report one that is not the next."""
        self.soak.counts["checked"] += 1
        if last is not None:
            self.soak.fail(f"{name.decode()}: {number} after {last}")
        elif number > self._said_before(name) + 1:
            self.soak.fail(
                f"{name.decode()}: began with {number}, owed from {self._said_before(name) + 1} on"
            )
        self._seen[name] = number

    def _said_before(self, name: bytes) -> int:
        return 0 if int(name[1:]) >= self._newcomers else self._before.get(name, -1)

    def _sync(self, number: int) -> None:
        if self.synced is not None:
            if number != self.synced + 1:
                self.soak.fail(f"sync {number} after {self.synced}")
            self.soak.checksums.add(self.checksum)
        self.synced, self.checksum = number, 0
        for talker in self.soak.settled:
            seen = self._seen.pop(talker.name, None)
            if talker.left_in_order and talker.said > (
                self._said_before(talker.name) if seen is None else seen
            ):
                self.soak.fail(
                    f"{talker.name.decode()} said {talker.said} and left in order; seen: {seen}"
                )
            self._before.pop(talker.name, None)


class Conductor(Checker):
    """Sends the syncs, and records who left and why."""

    def told(self, line: bytes) -> None:
        super().told(line)
        if match := re.fullmatch(rb"\* (\S+) left(?: \((.*)\))?", line):
            self.soak.counts[(match[2] or b"left").decode()] += 1
            if talker := self.soak.talkers.get(match[1]):
                talker.announced = True


class Talker(Client):
    """A client that numbers its messages."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.name = b"t%d" % number
        self.said = 0
        self.announced = False  # whether everyone has been told that it left
        self.left_in_order = False
        self.done_at: float | None = None

    async def say(self, count: int, random: Random) -> None:
        lines = []
        for _ in range(count):
            self.said += 1
            filler = "é" if random.random() < 0.05 else "."
            lines.append(
                f"{self.said} {filler * random.randint(1, random.choice([40, 40, 400]))}\n".encode()
            )
        await self.send(b"".join(lines))


class Soak:
    """A run: its clients, its counters and what was wrong."""

    def __init__(self, server: Server, clients: int, seed: int) -> None:
        self.server = server
        self.size = clients
        self.random = Random(seed)
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []  # the first of them
        self.talkers: dict[
            bytes, Talker
        ] = {}  # all that the checkers may still receive messages of
        self.next_talker = 0
        self.settled: list[Talker] = []  # those whose leaving was published before the current sync
        self.checksums: set[int] = set()  # of the checkers at the current sync: one, if they agree
        self.checkers: list[Checker] = []
        self.syncs = 0
        self.worst_sync = 0.0
        self.mood = "calm"
        self.present = 0
        self.until = 0.0  # when the clients have to leave
        self.started = time.monotonic()

    def fail(self, what: str) -> None:
        self.counts["failures"] += 1
        if len(self.failures) < 20:
            self.failures.append(what)
            print(f"WRONG: {what}", flush=True)

    # --- those who check ---

    async def join(self, client: Client, name: bytes, receive_buffer: int = 0) -> None:
        await client.connect(self.server.port, receive_buffer)
        await client.send(b"CONNECT %b\n" % name)
        async with asyncio.timeout(PATIENCE):
            if (answer := await client.answered) != b"SUCCESS":
                raise ConnectionError(f"{name.decode()} was answered {answer!r}")

    async def conduct(self) -> None:
        """Let the checkers compare what they saw at intervals, and replace one now and then."""
        self.conductor = Conductor(self)
        await self.join(self.conductor, b"conductor")
        while True:
            while len(self.checkers) < CHECKERS:
                checker = Checker(self)
                await self.join(checker, b"checker", self.random.choice([0, LAGGING_BUFFER]))
                self.checkers.append(checker)
            await self.sync()
            if self.random.random() < CHECKERS / CHECKER_STAY:
                leaver = self.checkers.pop(0)
                await leaver.send(b"\\exit\n")
                await self.end_of(leaver, "a checker")
            await asyncio.sleep(SYNC_PAUSE)

    async def sync(self) -> None:
        self.settled = [
            talker for talker in self.talkers.values() if talker.done_at and talker.announced
        ]
        for talker in self.settled:
            del self.talkers[talker.name]
        for talker in self.talkers.values():
            if talker.done_at and time.monotonic() > talker.done_at + 6 * PATIENCE:
                talker.announced = True
                self.fail(f"{talker.name.decode()} is gone and nobody was told")
        self.checksums.clear()
        self.syncs += 1
        start = time.monotonic()
        await self.conductor.send(b"sync %d\n" % self.syncs)
        for checker in self.checkers:
            await checker.send(b"\\ping\n")
        while any(checker.synced != self.syncs for checker in self.checkers):
            if time.monotonic() > start + PATIENCE or any(
                checker.ended.is_set() for checker in [self.conductor, *self.checkers]
            ):
                raise ConnectionError(
                    f"sync {self.syncs} did not reach all checkers in "
                    f"{time.monotonic() - start:.0f} s"
                )
            await asyncio.sleep(0.01)
        self.worst_sync = max(self.worst_sync, time.monotonic() - start)
        if len(self.checksums) > 1:
            self.fail(
                f"sync {self.syncs}: the checkers saw different messages, or in a different order"
            )

    async def end_of(self, client: Client, who: str) -> None:
        """Wait until the server closes a client that left, which may take the whole timeout."""
        try:
            async with asyncio.timeout(6 * PATIENCE):
                await client.ended.wait()
        except TimeoutError:
            self.fail(f"{who} left, and its connection was not closed")
            client.reset()

    # --- those who come and go ---

    async def moods(self) -> None:
        """Change the mood at random; full speed first, so that the warm-up includes the worst."""
        self.mood = "flat out"
        await asyncio.sleep(10)
        while True:
            self.mood = self.random.choice(list(MOODS))
            await asyncio.sleep(self.random.uniform(3, 20))

    async def pause(self, average: float) -> None:
        await asyncio.sleep(
            max(0.0, min(self.random.expovariate(1 / average), 8.0, self.until - time.monotonic()))
        )

    async def live(self) -> None:
        """Be one client after another until it is time to leave."""
        random = self.random
        while time.monotonic() < self.until:
            self.present += 1
            stay = random.choices(
                [self.talk, self.stall, self.misbehave, self.dawdle], [60, 15, 20, 5]
            )[0]
            try:
                await stay(min(self.until, time.monotonic() + random.expovariate(1 / 20)))
            except (OSError, ConnectionError) as problem:
                self.fail(f"{stay.__name__}: {problem!r}")
            finally:
                self.present -= 1
            await self.pause(1)

    async def talk(self, until: float, stall: float = 0.0) -> None:
        """Behave, or stall for a while, and leave somehow."""
        random = self.random
        talker = Talker(self.next_talker)
        self.next_talker += 1
        self.talkers[talker.name] = talker
        try:
            await self.join(talker, talker.name, 4096 if stall else 0)
            stalls, loud = stall > 0, random.random() < 0.05
            while time.monotonic() < until and not talker.ended.is_set():
                if loud and self.mood == "flat out":
                    await talker.say(random.randint(20, 500), random)
                    await asyncio.sleep(0)
                else:
                    await talker.say(random.choice([0, 1, 1, 1, 3]), random)
                    await talker.send(b"\\ping\n")
                    await self.pause(MOODS[self.mood])
                if stall:
                    talker.transport.pause_reading()
                    await self.pause(stall)
                    talker.transport.resume_reading()
                    stall *= random.random() < 0.7
            if talker.ended.is_set() and not stalls:
                self.fail(
                    f"{talker.name.decode()} was dropped though it read and spoke: "
                    f"{talker.last_words!r}"
                )
            await self.leave(talker)
        finally:
            talker.done_at = time.monotonic()

    async def leave(self, talker: Talker) -> None:
        way = self.random.choice(["exit", "exit", "half-close", "close", "reset"])
        self.counts[way] += 1
        if way in ("exit", "half-close"):
            if not talker.transport.is_closing():
                if way == "exit":
                    talker.transport.write(b"\\exit\n")
                else:
                    talker.said += 1
                    talker.transport.write(b"%d last" % talker.said)
                    with contextlib.suppress(OSError):  # it was reset just now
                        talker.transport.write_eof()
                await self.end_of(talker, talker.name.decode())
                talker.left_in_order = talker.in_order
        elif way == "close":
            talker.transport.close()
        else:
            talker.reset()

    async def stall(self, until: float) -> None:
        """Stop reading, for a while or forever."""
        if self.random.random() < 0.5:
            await self.talk(until, stall=self.random.uniform(1, 8))
            return
        stalled = Client()
        await self.join(stalled, b"stalled", 4096)
        stalled.transport.pause_reading()
        while time.monotonic() < until and not stalled.transport.is_closing():
            stalled.transport.write(b"\\ping\n\\clients\n" if self.random.random() < 0.5 else b"")
            await self.pause(4)
        stalled.reset()

    async def misbehave(self, until: float) -> None:
        """Send garbage until it is refused, or until it is time to leave."""
        vandal = Client()
        await vandal.connect(self.server.port)
        while time.monotonic() < until and not vandal.ended.is_set():
            for piece in nasty(self.random):
                await vandal.send(piece)
                await self.pause(0.05)
            await self.pause(5)
        vandal.reset() if self.random.random() < 0.5 else vandal.transport.close()

    async def dawdle(self, until: float) -> None:
        """Keep a handshake incomplete."""
        dawdler = Client()
        await dawdler.connect(self.server.port)
        await dawdler.send(self.random.choice([b"", b"CONN", b"CONNECT "]))
        while time.monotonic() < until and not dawdler.ended.is_set():
            await self.pause(3)
        dawdler.reset()

    # --- the run ---

    async def crowd(self, seconds: float) -> None:
        """Keep the room full for a time, then let everyone leave."""
        self.until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(self.size):
                group.create_task(self.live())

    async def measure(self) -> Account:
        """Return what the server holds once the conductor and the checkers are alone."""
        deadline = time.monotonic() + PATIENCE
        while True:
            await asyncio.sleep(1)
            self.conductor.clients = None
            await self.conductor.send(b"\\clients\n")
            await asyncio.sleep(1)
            if (
                self.conductor.clients == 1 + CHECKERS and len(self.checkers) == CHECKERS
            ) or time.monotonic() > deadline:
                blocks = self.server.blocks()
                return Account(
                    self.server.memory(),
                    blocks,
                    self.server.open_files(),
                    self.conductor.clients or 0,
                )

    def report(self, checked_before: int) -> int:
        print(
            f"{(time.monotonic() - self.started) / 60:6.1f} min  {self.mood:9} "
            f"{self.present:4} clients"
            f"  {(self.counts['checked'] - checked_before) / 60:9,.0f} messages/s checked"
            f"  {self.server.memory() / 2**20:6.1f} MiB  {self.server.open_files():4} files",
            flush=True,
        )
        return self.counts["checked"]

    async def progress(self) -> None:
        checked = 0
        while True:
            await asyncio.sleep(60)
            checked = self.report(checked)

    async def run(self, seconds: float) -> None:
        async with asyncio.TaskGroup() as group:
            watching = [
                group.create_task(job()) for job in (self.conduct, self.moods, self.progress)
            ]
            warm_up = min(60.0, max(15.0, seconds / 10), seconds / 2)
            await self.crowd(warm_up)
            first = await self.measure()
            await self.crowd(seconds - warm_up)
            last = await self.measure()
            for task in watching:
                task.cancel()
        await self.sync()
        self.judge(first, last)
        stopping = asyncio.create_task(asyncio.to_thread(self.server.stop))
        for checker in [self.conductor, *self.checkers]:
            await self.end_of(checker, "a checker")
            if not (checker.shut_down and checker.in_order):
                self.fail("a checker was not told of the shutdown")
        if (status := await stopping) != 0:
            self.fail(f"the server ended with {status}")

    def judge(self, first: Account, last: Account) -> None:
        if last.memory > first.memory + GROWTH_LIMIT or last.blocks > first.blocks + BLOCKS_LIMIT:
            self.fail("the server has grown")
        if (
            last.files != first.files
            or first.clients != last.clients
            or last.clients != 1 + CHECKERS
        ):
            self.fail("the server holds open files or clients of those who left")
        counts = self.counts
        ends = ("exit", "half-close", "close", "reset")
        ways = ", ".join(f"{counts[way]:,} by {way}" for way in ends)
        reasons = ("left", "connection lost", "timed out", "too slow")
        told = ", ".join(f"{counts[reason]:,} {reason}" for reason in reasons)
        print(
            f"{(time.monotonic() - self.started) / 60:.1f} min, {self.size} clients at once; "
            f"{counts['checked']:,} messages checked for order,"
            f" loss and duplicates ({counts['garbage']:,} lines of garbage passed by), "
            f"{self.syncs:,} syncs, the slowest {self.worst_sync:.1f} s\n"
            f"left: {ways}; as the server told it: {told}"
        )
        for title, account in (("after warm-up", first), ("at the end", last)):
            print(
                f"empty room {title:14} {account.memory / 2**20:6.1f} MiB, {account.blocks:,} "
                "blocks of Python's,"
                f" {account.files} open files, {account.clients} clients"
            )


def main() -> int:
    parser = argparse.ArgumentParser(description="Keep a room busy and watch it.")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--clients", type=int, default=300, help="at once")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with serving() as server:
        soak = Soak(server, options.clients, options.seed)

        async def begin() -> None:
            await soak.run(options.minutes * 60)

        try:
            asyncio.run(begin())
        except* (TimeoutError, OSError) as problems:
            for problem in problems.exceptions:
                soak.fail(repr(problem))
        for line in server.logged()[:20]:
            soak.fail(f"the server logged: {line}")
    print(
        "all right" if not soak.counts["failures"] else f"{soak.counts['failures']:,} things WRONG"
    )
    return 1 if soak.counts["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
