"""Helpers: clients and servers that speak raw bytes, programs as real processes, and waiting."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import gc
import os
import pty
import re
import select
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from sockets import reset_on_close

from broadcast import BroadcastServer
from broadcast.net.address import format_address
from broadcast.server.fanout import Fanout

TOP = Path(__file__).parent.parent
CERTIFICATE = str(TOP / "tests" / "certificate.pem")
"""A certificate for `localhost` with its key, for the tests alone."""

PATIENCE = 10.0
"""Seconds until an event that a test waits for counts as missing."""

HALF_A_SECOND = 0.5

# Tests start a hundred programs, and each starts faster when its modules are compiled.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def linux_only(reason: str) -> pytest.MarkDecorator:
    """Skip a test on other systems than Linux."""
    return pytest.mark.skipif(sys.platform != "linux", reason=f"Linux only: {reason}")


# --- waiting ---


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition that can only be polled, while no event loop runs."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not so: {what}"
        time.sleep(0.01)


async def until(condition: Callable[[], bool], interval: float = 0.01) -> None:
    """Wait for a condition that can only be polled; an interval of 0 polls in each iteration."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(interval)


# --- clients and servers in this process ---


class Peer:
    """A client in this process that speaks the protocol byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._transport = cast(asyncio.Transport, writer.transport)

    @property
    def address(self) -> str:
        """Its host:port, as the server sees it."""
        return format_address(self.writer.get_extra_info("sockname"))

    def send(self, data: str | bytes) -> None:
        self.writer.write(data.encode() if isinstance(data, str) else data)

    async def line(self) -> str:
        """Return the next line, which must end in CR LF."""
        async with asyncio.timeout(PATIENCE):
            data = await self.reader.readline()
        assert data.endswith(b"\r\n"), data
        return data[:-2].decode()

    async def lines(self, count: int) -> list[str]:
        return [await self.line() for _ in range(count)]

    async def lines_until(self, *last: str) -> list[str]:
        """Return the lines up to the one that completes these."""
        lines, missing = [], set(last)
        while missing:
            lines.append(await self.line())
            missing.discard(lines[-1])
        return lines

    async def read_to_end(self) -> list[str]:
        """Return all lines up to the end of the stream, which must be graceful."""
        async with asyncio.timeout(PATIENCE):
            data = await self.reader.read()
        self.writer.close()
        return [line.decode() for line in data.split(b"\r\n")[:-1]]

    async def synchronise(self) -> list[str]:
        """Wait until the server has handled all that was sent, and return the lines before that."""
        mark = f"\\mark{id(object())}"
        self.send(f"{mark}\n")
        seen = []
        while not (line := await self.line()).startswith(f"ERROR unknown command {mark}"):
            seen.append(line)
        return seen

    def reset(self) -> None:
        reset_on_close(self.writer.get_extra_info("socket"))
        self.writer.transport.abort()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()


MakeServer = Callable[..., Awaitable[BroadcastServer]]
Connect = Callable[..., Awaitable[Peer]]
Kind = TypeVar("Kind")


def connections(server: BroadcastServer) -> int:
    """Return how many connections a listening server has, joined or not."""
    return int(server.statistics()["connections"])


def alive(kind: type[Kind]) -> list[Kind]:
    """Return the objects of exactly this class that have not been freed."""
    return [thing for thing in gc.get_objects() if type(thing) is kind]


def fanout_of(server: BroadcastServer) -> Fanout:
    """Return the fan-out of a listening server."""
    assert server._context
    return server._context.room._fanout


def count_open_files() -> int:
    """Return how many file descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


# --- programs as processes ---


class Program:
    """One of the two programs as a process, or a few lines of Python that run one.

    `prefix` is a command that runs the program, `redirect` are redirections of the shell.
    """

    def __init__(
        self,
        name: str,
        *arguments: str,
        prefix: Sequence[str] = (),
        redirect: str = "",
        **options: Any,
    ) -> None:
        options = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        } | options
        program = [str(TOP / name)] if name.endswith(".py") else ["-c", name]
        command = [*prefix, sys.executable, *program, *arguments]
        if redirect:
            command = ["sh", "-c", f'exec "$0" "$@" {redirect}', *command]
        self.process = cast("subprocess.Popen[bytes]", subprocess.Popen(command, **options))

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

    def wait_exit(self) -> int:
        """Wait until the program has ended, and return its exit code."""
        return self.process.wait(PATIENCE)

    def time_exit(self) -> tuple[int, float]:
        """Return the exit code, and the seconds until the program had ended."""
        began = time.monotonic()
        return self.wait_exit(), time.monotonic() - began

    def errors(self) -> str:
        """Return what the program writes to stderr until it ends."""
        assert self.process.stderr
        return str(self.process.stderr.read().decode())

    @functools.cached_property
    def port(self) -> int:
        """The port that a server logs."""
        match = re.search(r"listening on .*:(\d+)$", self.error_line())
        assert match
        return int(match[1])

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream:
                with contextlib.suppress(BrokenPipeError):  # what the program never read
                    stream.close()


StartProgram = Callable[..., Program]


def client_with(settings: str) -> str:
    """Return the client program with other values for its constants."""
    imports = "import broadcast.client.conversation as c, broadcast.client.reconnect as r"
    return (
        f"import sys, broadcast.cli; {imports}; {settings}; sys.exit(broadcast.cli.main_client())"
    )


FAST_RECONNECT = client_with("r.SHORTEST_DELAY = 0.1")
"""The client program, which reconnects after a tenth of a second."""


class PseudoTerminal:
    """A pseudo-terminal with a client program in it."""

    def __init__(
        self, program: StartProgram, *arguments: str, name: str = "main_client.py"
    ) -> None:
        self.fd, slave = pty.openpty()
        self.client = program(
            name,
            *arguments,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C is a signal
            cwd=TOP,
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        self.output = ""

    def wait_output(self, text: str) -> None:
        """Wait until the client has written this."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.output:
            ready, _, _ = select.select([self.fd], [], [], deadline - time.monotonic())
            assert ready, self.output
            self.output += os.read(self.fd, 65_536).decode(errors="replace")

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def close(self) -> None:
        os.close(self.fd)


# --- what programs talk to ---


class RawClient:
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

    def wait_joined(self, name: str) -> None:
        wait_until(lambda: name in self.names(), f"{name} has joined")

    def close(self) -> None:
        self.file.close()
        self.socket.close()


class FakeServer:
    """A server that a test plays by hand, for one client."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = str(self.listening.getsockname()[1])

    def accept(self) -> None:
        """Wait for the client and its CONNECT line."""
        self.listening.settimeout(PATIENCE)
        self.connection, _ = self.listening.accept()
        self.connection.settimeout(PATIENCE)
        self.file = self.connection.makefile("rb")
        assert self.line().startswith("CONNECT ")

    def admit(self) -> None:
        """Let the client join."""
        self.accept()
        self.send("SUCCESS")

    def send(self, *lines: str) -> None:
        self.connection.sendall("".join(f"{line}\r\n" for line in lines).encode())

    def line(self) -> str:
        return self.file.readline().decode().rstrip("\r\n")

    def disconnect(self) -> None:
        self.file.close()
        self.connection.close()

    def close(self) -> None:
        if hasattr(self, "connection"):
            self.disconnect()
        self.listening.close()
