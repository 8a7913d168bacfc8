"""The servers that are measured: how each is configured, started, used and stopped."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
HOST = "127.0.0.1"
CERTIFICATE = HERE.parent / "certificate.pem"

START_TIME = 10.0
"""Seconds that a server may take to listen, and to stop."""

LOAD_CORE, *_, SERVER_CORE = sorted(os.sched_getaffinity(0)) * 2
"""The first and the last core that this process may use; the same if there is only one."""

SIZE = 100
"""Bytes of a message as it is sent, including LF where messages are lines."""


class Server:
    """Our server, and the base class of the others."""

    name = "broadcast (this)"
    options: tuple[str, ...] = ("--no-notices",)
    source = HERE.parent.parent  # where the program is
    program = ""  # and package to install; if empty, it runs in Python, and logs its port
    answers = True  # whether a newcomer is told that it has joined
    late_greeting = 0.0  # seconds until a newcomer has got one more line from the server
    late_answer = b""  # to that
    senders_apart = False  # whether a connection that receives cannot send
    most_messages: int | None = (
        None  # sent in a flat-out row, for those that are slow: the rows are per delivery
    )
    heartbeat = b"\\ping 1\n"
    question = b"\\?\n"  # something that is answered to this client alone

    def command(self, program: str, directory: Path, port: int) -> list[str]:
        """Return the command that starts it; `directory` is its own, empty and temporary."""
        return [program, str(self.source / "main_server.py"), "--port", "0", *self.options]

    def hello(self, name: str, receives: bool) -> bytes:
        """Return what a client sends first; with an empty name, the server chooses one."""
        return f"CONNECT {name}\n".encode()

    def is_in(self, answer: bytearray) -> bool:
        return answer.startswith(b"SUCCESS\r\n")

    def frame(self, text: bytes) -> bytes:
        """Return what a client sends for a message that starts with `text`."""
        return text.ljust(SIZE - 1, b".") + b"\n"

    def delivered(self, name: str) -> int:
        """Return how many bytes each client receives for a message by this sender."""
        return len(name) + len(": ") + SIZE - 1 + len("\r\n")


class WithNotices(Server):
    options = ()


class WithTLS(Server):
    name = "broadcast, TLS"
    options = (*Server.options, "--tls-cert", str(CERTIFICATE))


class Textbook(Server):
    name = "textbook asyncio"
    kind = "broadcast"
    most_messages = 3_000
    heartbeat = b""

    def command(self, program: str, directory: Path, port: int) -> list[str]:
        return [program, str(HERE / "textbook.py"), self.kind]


class Sink(Textbook):
    name = "bare asyncio"
    kind = "sink"
    heartbeat = Server.heartbeat
    question = b""


class Ncat(Server):
    name = "ncat --broker"
    program = "ncat"
    answers = False
    heartbeat = b""  # it would be broadcast

    def command(self, program: str, directory: Path, port: int) -> list[str]:
        return [program, "--listen", "--broker", "--max-conns", "20000", HOST, str(port)]

    def hello(self, name: str, receives: bool) -> bytes:
        return b""

    def delivered(self, name: str) -> int:
        return SIZE


class Nats(Server):
    name = "nats-server"
    program = "nats-server"
    late_greeting, late_answer = (
        3.0,
        b"PONG\r\n",
    )  # to a PING that measures the round trip; the next is due in an hour
    heartbeat = question = b"PING\r\n"
    limits = 'max_pending: 2000000000\nwrite_deadline: "60s"\n'  # none that a slow reader meets

    def command(self, program: str, directory: Path, port: int) -> list[str]:
        configuration = directory / "nats.conf"
        configuration.write_text(f'listen: "{HOST}:{port}"\n{self.limits}ping_interval: "1h"\n')
        return [program, "--config", str(configuration)]

    def hello(self, name: str, receives: bool) -> bytes:
        return (
            b'CONNECT {"verbose":false,"echo":false,"protocol":1}\r\n'
            + b"SUB c 1\r\n" * receives
            + b"PING\r\n"
        )

    def is_in(self, answer: bytearray) -> bool:
        return b"PONG\r\n" in answer

    def frame(self, text: bytes) -> bytes:
        return b"PUB c %d\r\n%b\r\n" % (SIZE, text.ljust(SIZE, b"."))

    def delivered(self, name: str) -> int:
        return len(f"MSG c 1 {SIZE}\r\n") + SIZE + len("\r\n")


def resp(*words: bytes) -> bytes:
    """Return words in the wire format of Redis."""
    return b"*%d\r\n" % len(words) + b"".join(
        b"$%d\r\n%b\r\n" % (len(word), word) for word in words
    )


class Redis(Server):
    name = "redis-server"
    program = "redis-server"
    senders_apart = True
    most_messages = 150_000  # it reads faster than it writes: 50 clients flat out for 4 s took 3 GB
    heartbeat = question = resp(b"PING")
    output_limit = "0 0 0"  # none that a slow reader meets

    def command(self, program: str, directory: Path, port: int) -> list[str]:
        configuration = directory / "redis.conf"
        limits = 'save ""\nappendonly no\nmaxclients 19000\ntcp-backlog 4096\n'
        limits += f"client-output-buffer-limit pubsub {self.output_limit}\n"
        configuration.write_text(f'bind {HOST}\nport {port}\ndir "{directory}"\n{limits}')
        return [program, str(configuration)]

    def hello(self, name: str, receives: bool) -> bytes:
        return resp(b"SUBSCRIBE", b"c") if receives else resp(b"PING")

    def is_in(self, answer: bytearray) -> bool:
        return answer.endswith((b":1\r\n", b"+PONG\r\n"))

    def frame(self, text: bytes) -> bytes:
        return resp(b"PUBLISH", b"c", text.ljust(SIZE, b"."))

    def delivered(self, name: str) -> int:
        return len(resp(b"message", b"c", bytes(SIZE)))


class UnavailableError(Exception):
    """A server can't be measured, and why."""


class Running:
    """A running server: its port, and the resources it has used."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.pid = process.pid
        self.port = port

    def cpu(self) -> float:
        """Seconds of CPU of all its threads; clock_getcpuclockid(3) defines the clock's number."""
        return time.clock_gettime(~self.pid << 3 | 2)

    def memory(self, field: str) -> int:
        """Return bytes of memory: `VmRSS`, or `VmHWM` for the maximum."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition(f"{field}:")[2].split()[0]) * 1024

    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))


@contextlib.contextmanager
def run(server: Server, core: int = SERVER_CORE) -> Iterator[Running]:
    """Run a server on one core; raise UnavailableError if that is impossible."""
    program, port = sys.executable, 0
    if server.program:
        path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])
        program = shutil.which(server.program, path=path) or ""
        if not program:
            raise UnavailableError(
                f"not installed: apt-get install {server.program}, or what your system has for that"
            )
        with socket.create_server((HOST, 0)) as free:
            port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as name, open(Path(name, "log"), "wb") as log:
        command = server.command(program, Path(name), port)
        os.sched_setaffinity(
            0, {core}
        )  # inherited by the process that it starts, including all threads
        try:
            process = subprocess.Popen(
                command, cwd=name, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        finally:
            os.sched_setaffinity(0, {LOAD_CORE})
        try:
            yield Running(process, _listening(process, Path(log.name), port))
        finally:
            process.terminate()
            try:
                process.wait(START_TIME)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _listening(process: subprocess.Popen[bytes], log: Path, port: int) -> int:
    deadline = time.monotonic() + START_TIME
    while process.poll() is None and time.monotonic() < deadline:
        if logged := re.search(r"listening on .*:(\d+)\n", log.read_text(errors="replace")):
            return int(logged[1])
        if port:
            with (
                contextlib.suppress(ConnectionRefusedError),
                socket.create_connection((HOST, port)),
            ):
                return port
        time.sleep(0.02)
    raise UnavailableError(f"did not start: {log.read_text(errors='replace')[-300:]}")
