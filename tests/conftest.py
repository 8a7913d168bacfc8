"""What the tests share: a server in this process on a port of its own, peers that speak raw bytes to it, and real processes."""

from __future__ import annotations

import asyncio
import functools
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from broadcast import BroadcastServer
from broadcast.server.fanout import Fanout

TOP = Path(__file__).parent.parent
PATIENCE = 10.0
"""Seconds until an event that a test waits for counts as missing; nothing waits that long where all is well."""


os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a hundred programs are started: each in two thirds of the time where it is compiled


class Peer:
    """A client that speaks the protocol byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._transport = cast(asyncio.Transport, writer.transport)

    def send(self, data: str | bytes) -> None:
        self.writer.write(data.encode() if isinstance(data, str) else data)

    async def line(self) -> str:
        """The next line, which has to end in CR LF."""
        async with asyncio.timeout(PATIENCE):
            data = await self.reader.readline()
        assert data.endswith(b"\r\n"), data
        return data[:-2].decode()

    async def lines(self, count: int) -> list[str]:
        return [await self.line() for _ in range(count)]

    async def rest(self) -> list[str]:
        """All lines up to the end of the stream, which has to come in order."""
        async with asyncio.timeout(PATIENCE):
            data = await self.reader.read()
        self.writer.close()
        return [line.decode() for line in data.split(b"\r\n")[:-1]]

    async def synchronise(self) -> list[str]:
        """What arrives before the answer to a command sent now, by when the server has handled all that was sent before."""
        mark = f"\\mark{id(object())}"
        self.send(f"{mark}\n")
        seen = []
        while not (line := await self.line()).startswith(f"ERROR unknown command {mark}"):
            seen.append(line)
        return seen

    def reset(self) -> None:
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.writer.transport.abort()

    def stop_reading(self) -> None:
        self._transport.pause_reading()

    def go_on_reading(self) -> None:
        self._transport.resume_reading()


MakeServer = Callable[..., Awaitable[BroadcastServer]]
Connect = Callable[..., Awaitable[Peer]]


@pytest.fixture
async def make_server() -> AsyncIterator[MakeServer]:
    """Starts servers in this process; they end with the test."""
    async with AsyncExitStack() as stack:

        async def make(**options: Any) -> BroadcastServer:
            return await stack.enter_async_context(BroadcastServer(port=0, **options))

        yield make


@pytest.fixture
async def server(make_server: MakeServer) -> BroadcastServer:
    """A server without notices, for tests that are not about them."""
    return await make_server(notices=False)


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Connects peers; with a name they shake hands too. `buffer` is the size of the receive buffer."""
    peers: list[Peer] = []

    async def make(server: BroadcastServer, name: str | None = None, *, buffer: int | None = None, limit: int = 2**24) -> Peer:
        connected = socket.socket()
        if buffer:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connected.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connected, ("127.0.0.1", server.port))
        peers.append(peer := Peer(*await asyncio.open_connection(sock=connected, limit=limit)))
        if name is not None:
            peer.send(f"CONNECT {name}\r\n")
            assert await peer.line() == "SUCCESS"
        return peer

    yield make
    for peer in peers:
        peer.writer.transport.abort()
    await asyncio.sleep(0)


def fanout_of(server: BroadcastServer) -> Fanout:
    """The fan-out of a server that listens."""
    assert server._around
    return server._around.room._fanout


class Program:
    """One of the two programs as a process of its own, or a few lines of Python that run one."""

    def __init__(self, name: str, *arguments: str, **options: Any) -> None:
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        program = [str(TOP / name)] if name.endswith(".py") else ["-c", name]
        self.process = cast("subprocess.Popen[bytes]", subprocess.Popen([sys.executable, *program, *arguments], **options))

    def error_line(self) -> str:
        assert self.process.stderr
        line: bytes = self.process.stderr.readline()
        return line.decode().rstrip("\n")

    def output_line(self) -> str:
        assert self.process.stdout
        line: bytes = self.process.stdout.readline()
        return line.decode().rstrip("\n")

    def type(self, data: str | bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(data.encode() if isinstance(data, str) else data)
        self.process.stdin.flush()

    def end(self, seconds: float = PATIENCE) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(seconds)

    def errors(self) -> str:
        """What it says on stderr until it ends."""
        assert self.process.stderr
        return str(self.process.stderr.read().decode())

    @functools.cached_property
    def port(self) -> int:
        """The port that a server says it listens on."""
        match = re.search(r"listening on .*:(\d+)$", self.error_line())
        assert match
        return int(match[1])

    def clean_up(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue  # what it never read


StartProgram = Callable[..., Program]


@pytest.fixture
def program() -> Iterator[StartProgram]:
    """Starts programs: `program("main_server.py", "--port", "0")`; what still runs after the test is killed."""
    programs: list[Program] = []

    def start(name: str, *arguments: str, **options: Any) -> Program:
        programs.append(started := Program(name, *arguments, **options))
        return started

    yield start
    for started in programs:
        started.clean_up()


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))
