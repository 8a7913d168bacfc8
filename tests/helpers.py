"""Helpers: peers that speak raw bytes, the programs as real processes, and waiting."""

from __future__ import annotations

import asyncio
import fcntl
import functools
import os
import pty
import re
import select
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

from broadcast import BroadcastServer
from broadcast.server.fanout import Fanout

TOP = Path(__file__).parent.parent


PATIENCE = 10.0
"""Seconds until an event that a test waits for counts as missing; nothing waits that long where all is well."""


os.environ.pop(
    "PYTHONDONTWRITEBYTECODE", None
)  # a hundred programs are started: each in two thirds of the time where it is compiled


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
        self.writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
        )
        self.writer.transport.abort()

    def stop_reading(self) -> None:
        self._transport.pause_reading()

    def go_on_reading(self) -> None:
        self._transport.resume_reading()


MakeServer = Callable[..., Awaitable[BroadcastServer]]


Connect = Callable[..., Awaitable[Peer]]


def fanout_of(server: BroadcastServer) -> Fanout:
    """The fan-out of a server that listens."""
    assert server._around
    return server._around.room._fanout


class Program:
    """One of the two programs as a process of its own, or a few lines of Python that run one."""

    def __init__(self, name: str, *arguments: str, **options: Any) -> None:
        options = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        } | options
        program = [str(TOP / name)] if name.endswith(".py") else ["-c", name]
        self.process = cast(
            "subprocess.Popen[bytes]",
            subprocess.Popen([sys.executable, *program, *arguments], **options),
        )

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


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


HALF_A_SECOND = 0.5


CLIENT = "import sys, broadcast.cli, broadcast.client.conversation as c, broadcast.client.reconnect as r; {} = {}; sys.exit(broadcast.cli.main_client())"
"""The client with a time of its own."""


IMPATIENT = CLIENT.format("r.SHORTEST_DELAY", 0.1)
"""It tries again after a tenth of a second."""


class Raw:
    """A plain socket that has joined."""

    def __init__(self, port: int, name: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.file = self.socket.makefile("rwb")
        self.send(f"CONNECT {name}")
        assert self.line() == "SUCCESS"

    def send(self, line: str) -> None:
        self.file.write(line.encode() + b"\n")
        self.file.flush()

    def line(self) -> str:
        return self.file.readline().decode().rstrip("\r\n")

    def names(self) -> list[str]:
        self.send("\\clients")
        count = int(self.line().split(" ")[1])
        return [self.line().removeprefix("* ").removesuffix(" (you)") for _ in range(count)]

    def wait_for(self, name: str) -> None:
        until(lambda: name in self.names(), f"{name} has joined")


def until(happened: Callable[[], bool], what: str) -> None:
    """Wait for something that has to be asked for again and again."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, f"not so: {what}"
        time.sleep(0.01)


def timed(started: Program) -> tuple[int, float]:
    """The exit code, and the seconds until it came."""
    began = time.monotonic()
    return started.end(), time.monotonic() - began


class Impostor:
    """A server of the test's own that one client is in."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = str(self.listening.getsockname()[1])

    def accept(self) -> None:
        self.listening.settimeout(PATIENCE)
        self.connection, _ = self.listening.accept()
        self.connection.settimeout(PATIENCE)
        self.file = self.connection.makefile("rb")
        assert self.line().startswith("CONNECT ")

    def let_in(self) -> None:
        self.accept()
        self.send("SUCCESS")

    def send(self, *lines: str) -> None:
        self.connection.sendall("".join(f"{line}\r\n" for line in lines).encode())

    def line(self) -> str:
        return self.file.readline().decode().rstrip("\r\n")

    def hang_up(self) -> None:
        self.file.close()
        self.connection.close()

    def close(self) -> None:
        if hasattr(self, "connection"):
            self.hang_up()
        self.listening.close()


def control() -> None:
    """Make stdin, in a process that has just begun, the terminal that sends it signals."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A client on a pseudo-terminal."""

    def __init__(
        self, program: StartProgram, *arguments: str, name: str = "main_client.py"
    ) -> None:
        self.master, slave = pty.openpty()
        streams = {"stdin": slave, "stdout": slave, "stderr": slave}
        self.client = program(
            name, *arguments, start_new_session=True, preexec_fn=control, cwd=TOP, **streams
        )
        os.close(slave)
        self.seen = ""

    def see(self, text: str) -> None:
        """Wait until the screen has been sent this."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], deadline - time.monotonic())
            assert ready, self.seen
            self.seen += os.read(self.master, 65_536).decode(errors="replace")

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def close(self) -> None:
        os.close(self.master)
