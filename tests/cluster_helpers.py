"""Helpers for servers in a cluster: Redis, servers and a proxy as processes, and their clients."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from itertools import combinations
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

import pytest
from helpers import PATIENCE, TOP, Program, until, wait_until
from sockets import connect_to, reset_on_close

from broadcast.cluster.resp import RedisConnection

REDIS_MEMORY_LIMIT = 64 * 1024 * 1024
"""Bytes that Redis may use at most in any test of a cluster."""

OUTAGE_PATIENCE = 30.0
"""Seconds that a room may take to be whole again after a fault, on a busy machine."""

SHUTDOWN = "* server is shutting down"

LOG_KEY, TOP_KEY, NAMES_KEY = (f"broadcast:{{main}}:{key}" for key in ("log", "top", "names"))
"""What Redis keeps of the room: the log, the ID of its last entry, and the names in use."""

SPEED = 0.2
"""How long a second of an outage takes in the tests: the servers that `FAST` starts have all their
times shorter by this factor."""

FAST = f"""
import sys
from broadcast.server.settings import ClusterTiming
defaults = ClusterTiming.__init__.__defaults__
ClusterTiming.__init__.__defaults__ = tuple(seconds * {SPEED} for seconds in defaults)
from broadcast.cli import main_server
sys.exit(main_server())
"""
"""The server program with shorter times."""

Reply = None | int | bytes | list["Reply"]
Word = str | bytes | int


class FakeRedisEnd(asyncio.Protocol):
    """The end of a connection that a test plays: what it was asked, and what it answers."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.asked = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.asked += data

    def answer(self, data: bytes) -> None:
        self.transport.write(data)


class FakeRedis(NamedTuple):
    """A Redis that answers what a test tells it, and a connection to it that is running."""

    server: FakeRedisEnd
    redis: RedisConnection
    running: asyncio.Task[None]


def find_redis() -> str:
    """Return the program of a Redis or Valkey, or skip the test aloud."""
    chosen = os.environ.get("BROADCAST_TEST_REDIS")
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])
    for name in [chosen] if chosen else ["valkey-server", "redis-server"]:
        if program := shutil.which(name, path=path):
            return program
    pytest.skip(f"SKIPPED: there is no {chosen or 'redis-server or valkey-server'} on this machine")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


# --- processes ---


class RedisError(Exception):
    """Redis has replied with an error."""


class EndedError(Exception):
    """Redis has ended at once, because of its settings."""


class RedisServer:
    """A Redis of a test's own, which can be killed and started again on the same port."""

    def __init__(self, directory: Path, *settings: str) -> None:
        self.port = free_port()
        self.directory = directory
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self.peak_memory = 0  # bytes, over all of its lives

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it serves."""
        settings = self._settings
        if "--appendonly" not in settings:
            settings = ("--appendonly", "no", *settings)
        where = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)]
        with open(self.directory / "redis.log", "ab") as log:
            self._process = subprocess.Popen(
                [find_redis(), *where, "--save", "", *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._serves, "Redis serves")

    def _serves(self) -> bool:
        assert self._process
        if self._process.poll() is not None:
            raise EndedError("Redis has not started")
        try:
            return self.call("PING") == b"PONG"
        except RedisError as error:  # it is still loading, or wants a password
            return "NOAUTH" in str(error)
        except OSError:
            return False

    def signal(self, number: int) -> None:
        assert self._process
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it like a crash does."""
        self.note_memory()
        self.signal(signal.SIGKILL)
        assert self._process
        self._process.wait()

    def call(self, *words: Word, password: str | None = None) -> Reply:
        """Call one command over a connection of its own."""
        with (
            socket.create_connection(("127.0.0.1", self.port), PATIENCE) as connected,
            connected.makefile("rb") as file,
        ):
            if password:
                connected.sendall(encode_command("AUTH", password))
                read_reply(file.readline, file.read)
            connected.sendall(encode_command(*words))
            return read_reply(file.readline, file.read)

    def text(self, *words: str | int) -> str:
        """Call a command whose reply is text."""
        reply = self.call(*words)
        assert isinstance(reply, bytes)
        return reply.decode()

    def info(self, name: str) -> int:
        """Return one number of INFO."""
        match = re.search(rf"^{name}:(\d+)", self.text("INFO", "all"), re.MULTILINE)
        assert match, name
        return int(match[1])

    def note_memory(self) -> None:
        if self._process is None:  # there is no Redis on this machine
            return
        self.signal(signal.SIGCONT)
        with contextlib.suppress(OSError, RedisError):
            self.peak_memory = max(self.peak_memory, self.info("used_memory_peak"))

    def contents(self) -> dict[str, Reply]:
        """Return every key but the streams, with its value."""
        read: dict[bytes, tuple[str, ...]] = {
            b"string": ("GET",),
            b"hash": ("HGETALL",),
            b"set": ("SMEMBERS",),
            b"zset": ("ZRANGE", "0", "-1", "WITHSCORES"),
            b"list": ("LRANGE", "0", "-1"),
        }
        values = {}
        for key in sorted(key.decode() for key in self._list("KEYS", "*")):
            kind = self.call("TYPE", key)
            if isinstance(kind, bytes) and kind in read:
                command, *rest = read[kind]
                values[key] = self.call(command, key, *rest)
        return values

    def backup(self, *keys: str) -> dict[str, bytes]:
        """Return some keys, or all, as they are now."""
        found = keys or [key.decode() for key in self._list("KEYS", "*")]
        dumps = {key: self.call("DUMP", key) for key in found}
        return {key: dump for key, dump in dumps.items() if isinstance(dump, bytes)}

    def restore(self, backup: dict[str, bytes]) -> None:
        """Put keys back, one after the other; the rest stays as it is."""
        for key, dump in backup.items():
            self.call("RESTORE", key, 0, dump, "REPLACE")

    def _list(self, *words: Word) -> list[bytes]:
        reply = self.call(*words)
        assert isinstance(reply, list)
        return [item for item in reply if isinstance(item, bytes)]

    def close(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()


def encode_command(*words: Word) -> bytes:
    """Return a command in the wire format of Redis."""
    encoded = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(words) + b"".join(
        b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded
    )


def read_reply(read_line: Callable[[], bytes], read: Callable[[int], bytes]) -> Reply:
    """Read one reply in the wire format of Redis."""
    line = read_line()
    if not line.endswith(b"\r\n"):
        raise ConnectionResetError("Redis has closed the connection")
    kind, rest = line[:1], line[1:-2]
    if kind == b"-":
        raise RedisError(rest.decode())
    if kind == b"+":
        return rest
    number = int(rest)
    if kind == b":":
        return number
    if number < 0:
        return None
    if kind == b"$":
        return read(number + 2)[:-2]
    return [read_reply(read_line, read) for _ in range(number)]


class Proxy:
    """The misbehaving proxy as a process, in front of a Redis."""

    def __init__(self, redis: RedisServer) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(TOP / "tests" / "cluster" / "proxy.py"), str(redis.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.port = int(self._read())

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def _read(self) -> bytes:
        assert self._process.stdout
        return self._process.stdout.readline()

    def order(self, command: str) -> None:
        """Have it obey a command; when this returns, it does."""
        assert self._process.stdin
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()
        assert self._read() == b"done\n"

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class ClusterServer(Program):
    """A server of a cluster as a process, whose log is a file."""

    def __init__(self, log: Path, name: str, *arguments: str) -> None:
        self._log = log
        with open(log, "wb") as file:
            super().__init__(
                name,
                "--port",
                "0",
                *arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file,
                cwd=TOP,
            )

    def logged(self) -> str:
        return self._log.read_text()

    async def wait_logged(self, pattern: str, patience: float = OUTAGE_PATIENCE) -> re.Match[str]:
        """Wait until the log matches a pattern, and return the match."""
        deadline = time.monotonic() + patience
        while not (match := re.search(pattern, self.logged(), re.MULTILINE)):
            assert self.process.poll() is None, self.logged()
            assert time.monotonic() < deadline, f"not logged: {pattern}\n{self.logged()}"
            await asyncio.sleep(0.02)
        return match

    async def wait_ready(self) -> Self:
        """Wait until clients can join."""
        await self.wait_logged("attached to ")
        self.port = int((await self.wait_logged(r"listening on .*:(\d+)$"))[1])
        return self

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def wait_ended(self) -> int:
        """Wait for the exit code, while clients read the rest."""
        return await asyncio.to_thread(self.wait_exit)

    async def statistics(self) -> dict[str, str]:
        """Return the numbers that it logs at SIGUSR1."""
        before = self.logged().count("clients ")
        self.signal(signal.SIGUSR1)
        await until(lambda: self.logged().count("clients ") > before)
        line = self.logged().splitlines()[-1].partition(" INFO ")[2]
        return dict(item.rsplit(" ", 1) for item in line.split(", "))

    def close(self) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGCONT)
        super().close()


MakeRedis = Callable[..., RedisServer]
MakeProxy = Callable[[RedisServer], Proxy]
StartCluster = Callable[..., Awaitable[list[ClusterServer]]]


# --- clients ---


class Recorder(asyncio.Protocol):
    """A client that keeps all that it receives, and can wait for a part of it."""

    transport: asyncio.Transport
    connected: ClassVar[list[Recorder]] = []  # all of a test
    tasks: ClassVar[list[asyncio.Task[None]]] = []  # that act for them

    def __init__(self, name: str) -> None:
        self.connected.append(self)
        self.asked = name
        self.stream = bytearray()
        self.ended = False
        self._changed = asyncio.Event()
        self._may_send = asyncio.Event()
        self._may_send.set()

    @classmethod
    async def join(cls, port: int, name: str, buffer: int = 0) -> Self:
        """Connect, and wait for SUCCESS."""
        client = await cls.connect(port, name, buffer)
        await client.wait("SUCCESS\r\n")
        return client

    @classmethod
    async def connect(cls, port: int, name: str, buffer: int = 0) -> Self:
        connected = await connect_to(port, buffer)
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(lambda: cls(name), sock=connected)
        client.send(f"CONNECT {name}\n")
        return client

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.stream += data
        self._changed.set()

    def connection_lost(self, _: Exception | None) -> None:
        self.ended = True
        self._changed.set()
        self._may_send.set()

    def pause_writing(self) -> None:
        self._may_send.clear()

    def resume_writing(self) -> None:
        self._may_send.set()

    # --- what tests do ---

    def send(self, data: str | bytes) -> None:
        self.transport.write(data.encode() if isinstance(data, str) else data)

    async def send_all(self, data: bytes) -> None:
        """Send, and wait until the system has room for more."""
        self.send(data)
        await self._may_send.wait()

    async def wait(self, text: str | bytes, patience: float = PATIENCE) -> None:
        """Wait until the stream contains this."""
        wanted = text.encode() if isinstance(text, str) else text
        searched = 0

        def has_arrived() -> bool:
            nonlocal searched
            found = self.stream.find(wanted, searched) >= 0
            searched = max(0, len(self.stream) - len(wanted))
            return found

        await self.wait_until(has_arrived, repr(text), patience)

    async def wait_lines(self, count: int) -> None:
        """Wait until that many lines have arrived since it joined, or was refused."""
        await self.wait_until(lambda: self.stream.count(b"\n") >= count, f"{count} lines")

    async def wait_more(self, messages: int) -> None:
        """Wait until that many more messages have arrived."""
        enough = self._count() + messages
        what = f"{messages} more messages"
        await self.wait_until(lambda: self._count() >= enough, what, OUTAGE_PATIENCE)

    def _count(self) -> int:
        return self.stream.count(b"\n") - self.stream.count(b"\n* ")

    async def wait_until(
        self, condition: Callable[[], bool], what: str, patience: float = PATIENCE
    ) -> None:
        """Wait until a condition is true of what was received."""
        try:
            async with asyncio.timeout(patience):
                while not condition():
                    assert not self.ended, f"{self.asked} ended before {what}: {self.end_of_stream}"
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pytest.fail(f"{self.asked} has not received {what}: {self.end_of_stream}")

    async def wait_change(self, patience: float = OUTAGE_PATIENCE) -> None:
        """Wait until something more has arrived, or the connection has ended."""
        async with asyncio.timeout(patience):
            self._changed.clear()
            await self._changed.wait()

    async def wait_end(self, patience: float = PATIENCE) -> None:
        """Wait until the server has closed the connection."""
        async with asyncio.timeout(patience):
            while not self.ended:
                await self.wait_change()

    @property
    def end_of_stream(self) -> str:
        return bytes(self.stream[-300:]).decode(errors="replace")

    @property
    def lines(self) -> list[str]:
        return self.stream.decode().split("\r\n")[:-1]

    @property
    def name(self) -> str:
        """The name that the server gave it."""
        match = re.search(rb"^\* \S+ is taken: you are (\S+)\r\n", self.stream[9:])
        return match[1].decode() if match else self.asked

    @property
    def messages(self) -> list[str]:
        """Everything that others have said."""
        return [line for line in self.lines[1:] if not line.startswith(("* ", "ERROR ", "PONG "))]

    @property
    def notices(self) -> list[str]:
        return [line[2:] for line in self.lines[1:] if line.startswith("* ")]

    @property
    def errors(self) -> list[str]:
        return [line for line in self.lines if line.startswith("ERROR ")]

    async def names(self) -> list[str]:
        """Ask who is in the room."""
        began = len(self.stream)
        self.send("\\clients\n")
        pattern = re.compile(rb"^\* (\d+) clients?\r\n((?:[^\n]*\n)*)", re.MULTILINE)
        found: list[str] = []

        def is_complete() -> bool:
            match = pattern.search(self.stream[began:])
            if match is None:
                return False
            found[:] = [
                line.decode().removeprefix("* ").removesuffix("\r").removesuffix(" (you)")
                for line in match[2].split(b"\n")
                if line.startswith(b"* ") and not line.rstrip().endswith((b" joined", b" left"))
            ]
            return len(found) >= int(match[1])

        await self.wait_until(is_complete, "the answer to \\clients")
        return sorted(found)

    @classmethod
    async def close_all(cls) -> None:
        for task in cls.tasks:
            task.cancel()
        await asyncio.gather(*cls.tasks, return_exceptions=True)
        cls.tasks.clear()
        for client in cls.connected:
            client.transport.abort()
        cls.connected.clear()
        await asyncio.sleep(0)

    def reset(self) -> None:
        reset_on_close(self.transport.get_extra_info("socket"))
        self.transport.abort()

    async def leave(self) -> None:
        """Leave gracefully, and read the rest."""
        self.send("\\exit\n")
        await self.wait_end(OUTAGE_PATIENCE)


class Talker:
    """Says numbered messages as one client, until it is stopped or disconnected."""

    def __init__(self, client: Recorder, pause: float = 0.01) -> None:
        self.client = client
        self.said = 0
        self._pause = pause
        self._task = asyncio.create_task(self._talk())
        Recorder.tasks.append(self._task)

    async def _talk(self) -> None:
        while not self.client.ended:
            self.said += 1
            await self.client.send_all(b"%d\n" % self.said)
            await asyncio.sleep(self._pause)

    async def stop(self) -> int:
        """Stop talking after the current message; return how many were said."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        return self.said


async def stop_all(talkers: Iterable[Talker]) -> None:
    for talker in talkers:
        await talker.stop()


class Guests:
    """Joins and leaves without end: each guest says three numbers, and has a name of its own.

    Beside each, another one joins under a name that all such share, and leaves.
    """

    def __init__(self, label: str, port: int) -> None:
        self.clients: list[Recorder] = []  # of names of their own, that have joined
        self.refused = 0
        self._label = label
        self._port = port
        self._stopping = False
        self._task = asyncio.create_task(self._come_and_go())
        Recorder.tasks.append(self._task)

    async def _come_and_go(self) -> None:
        while not self._stopping:
            names = f"{self._label}x{len(self.clients)}", "guest"
            guests = [await Recorder.connect(self._port, name) for name in names]
            for guest in guests:
                while not guest.lines and not guest.ended:
                    await guest.wait_change()
                if guest.lines[:1] != ["SUCCESS"]:
                    self.refused += 1
                    await guest.wait_end()
                    continue
                if guest is guests[0]:
                    self.clients.append(guest)
                    guest.send("1\n2\n3\n")
                guest.send("\\exit\n")
            for guest in guests:
                await guest.wait_end(OUTAGE_PATIENCE)
            await asyncio.sleep(0.02)  # so that the processes of a test do not starve each other

    async def stop(self) -> None:
        """Let the last ones leave."""
        self._stopping = True
        await self._task


class Traffic:
    """What goes on in a room during a fault: at each server a listener, a talker and guests."""

    def __init__(self, ports: list[int], listeners: list[Recorder], authors: list[Recorder]):
        self.listeners = listeners
        self._begin = f"* {authors[-1].asked} joined"
        self.talkers = [Talker(author) for author in authors]
        self.guests = [Guests(f"g{number}", port) for number, port in enumerate(ports)]

    @classmethod
    async def start(cls, servers: Iterable[ClusterServer]) -> Self:
        ports = [server.port for server in servers]
        listeners = [
            await Recorder.join(port, f"listener{number}") for number, port in enumerate(ports)
        ]
        authors = [
            await Recorder.join(port, f"talker{number}") for number, port in enumerate(ports)
        ]
        return cls(ports, listeners, authors)

    @property
    def clients(self) -> list[Recorder]:
        """Those that stay."""
        return [*self.listeners, *(talker.client for talker in self.talkers)]

    async def flow(self, messages: int = 50) -> None:
        """Wait until each listener has got some more messages."""
        for listener in self.listeners:
            await listener.wait_more(messages)

    async def stop(self) -> None:
        """End all of it, but for those that stay, and check what everybody has received."""
        await asyncio.gather(*(guests.stop() for guests in self.guests))
        await asyncio.gather(*(talker.stop() for talker in self.talkers))
        for client in self.clients:
            if not client.ended:
                await synchronise(client, self.clients)
        for guests in self.guests:
            assert guests.clients, "nobody has come and gone"
        check_told(self.clients)
        check_streams(self.clients)
        for guests in self.guests:
            check_guests(self.listeners[0], guests.clients)

    async def check_nobody_noticed(self) -> None:
        """Check that nobody was disconnected, and that everybody got everything."""
        await self.stop()
        for client in self.clients:
            assert not client.ended, (client.name, client.end_of_stream)
        check_heard(self.clients, self.talkers)
        guests = [guest for guests in self.guests for guest in guests.clients]
        for listener in self.listeners:
            heard = set(listener.messages)
            for guest in guests:
                assert {f"{guest.name}: {number}" for number in (1, 2, 3)} <= heard
        expected = sorted(client.name for client in self.clients)
        for client in self.clients:
            await wait_names(client, expected)
        streams = [self._shared_lines(listener) for listener in self.listeners]
        assert streams[1:] == streams[:-1]
        for client in self.clients:
            assert not any(line.startswith(f"* {client.name} left") for line in streams[0])

    def _shared_lines(self, listener: Recorder) -> list[str]:
        """Return what all listeners must have received in one order."""
        lines = listener.lines
        lines = lines[lines.index(self._begin) + 1 :]
        return [
            line
            for line in lines
            if ": mark " not in line
            and (not line.startswith("* ") or re.fullmatch(r"\* \S+ (joined|left.*)", line))
        ]


async def start_talking(
    cluster: StartCluster, redis: RedisServer
) -> tuple[list[ClusterServer], Traffic]:
    """Start three servers, and wait until what their clients say flows between them."""
    servers = await cluster(redis.url, 3, program=FAST)
    traffic = await Traffic.start(servers)
    await traffic.flow()
    return servers, traffic


def add_names(redis: RedisServer, count: int) -> None:
    """Add names to the room of nobody in particular."""
    for start in range(0, count, 5_000):
        numbers = range(start, min(count, start + 5_000))
        names = [f"somebody{number * 7_919 % count}" for number in numbers]
        redis.call("HSET", NAMES_KEY, *(word for name in names for word in (name, name)))


async def end_all(servers: Iterable[ClusterServer], redis: RedisServer) -> None:
    """End all servers gracefully, and check that they leave nothing of their clients in Redis."""
    servers = list(servers)
    for server in servers:
        server.signal(signal.SIGTERM)
    for server in servers:
        assert await server.wait_ended() == 0
        assert "Traceback" not in server.logged(), server.logged()
    assert {key.rpartition(":")[2] for key in redis.contents()} <= {"epoch", "top"}


async def wait_names(client: Recorder, expected: list[str]) -> None:
    """Wait until exactly these are in the room."""
    deadline = time.monotonic() + OUTAGE_PATIENCE
    while (names := await client.names()) != sorted(expected):
        assert time.monotonic() < deadline, (names, expected)
        await asyncio.sleep(0.05)


# --- what must be true of streams ---


def check_streams(clients: Iterable[Recorder]) -> None:
    """Check order, loss and doubles in what clients have received of numbered messages.

    Of one author, every client has a sequence without a gap or a double. Of two clients, what lies
    between the first and the last message that both have is the same for both, without what these
    two have said themselves.
    """
    clients = list(clients)
    for client in clients:
        check_numbers(client)
    for one, other in combinations(clients, 2):
        theirs = (f"{one.name}: ", f"{other.name}: ")
        first, second = (
            [message for message in client.messages if not message.startswith(theirs)]
            for client in (one, other)
        )
        common = set(first) & set(second)
        if common:
            assert between(first, common) == between(second, common), (one.name, other.name)


def check_guests(listener: Recorder, guests: Iterable[Recorder]) -> None:
    """Check that each guest has received a part of what a listener has, without its own."""
    messages = listener.messages
    places = {message: place for place, message in enumerate(messages)}
    for guest in guests:
        check_numbers(guest)
        seen = guest.messages
        known = [place for place, message in enumerate(seen) if message in places]
        if known:
            first, last = places[seen[known[0]]], places[seen[known[-1]]]
            own = f"{guest.name}: "
            expected = [line for line in messages[first : last + 1] if not line.startswith(own)]
            assert seen[known[0] : known[-1] + 1] == expected, guest.name


def check_numbers(client: Recorder) -> None:
    """Check that a client has received of each author consecutive numbers."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for message in client.messages:
        author, _, text = message.partition(": ")
        if text.isdigit():
            numbers[author].append(int(text))
    for author, seen in numbers.items():
        expected = list(range(seen[0], seen[0] + len(seen)))
        assert seen == expected, f"{client.name} got of {author}: {gaps(seen)}"


def gaps(seen: list[int]) -> list[tuple[int, int]]:
    return [
        (one, next_one)
        for one, next_one in zip(seen, seen[1:], strict=False)
        if next_one != one + 1
    ]


def between(messages: list[str], common: set[str]) -> list[str]:
    """Return the part of a stream from the first to the last of some messages."""
    places = [place for place, message in enumerate(messages) if message in common]
    return messages[places[0] : places[-1] + 1]


def check_heard(clients: Iterable[Recorder], talkers: Iterable[Talker]) -> None:
    """Check that clients which were there all the time have heard all that talkers have said."""
    for talker in talkers:
        for client in clients:
            if client is not talker.client:
                prefix = f"{talker.client.name}: "
                heard = [line for line in client.messages if line.startswith(prefix)]
                heard = [line for line in heard if line[len(prefix) :].isdigit()]
                expected = [f"{prefix}{number}" for number in range(1, talker.said + 1)]
                assert heard == expected, (client.name, prefix, len(heard), talker.said)


def check_told(clients: Iterable[Recorder]) -> None:
    """Check that clients which were disconnected have been told so in their last line."""
    for client in clients:
        if client.ended:
            last = client.lines[-1]
            assert last.startswith("ERROR ") or last == SHUTDOWN, (client.name, last)


_marks = iter(range(1_000_000))


async def synchronise(
    author: Recorder, clients: Iterable[Recorder], patience: float = OUTAGE_PATIENCE
) -> None:
    """Say something, and wait until all others that are still connected have it."""
    mark = f"mark {next(_marks)}"
    author.send(f"{mark}\n")
    for client in clients:
        if client is not author and not client.ended:
            await client.wait(f": {mark}\r\n", patience)
