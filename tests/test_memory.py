"""The documented limits of the server's memory, measured from outside."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import CERTIFICATE, TOP, Program, StartProgram, linux_only

pytestmark = linux_only("has /proc/PID/statm")

SENDERS = 300
READ_AHEAD_PROMISE = 128 * 1024
"""Bytes for each client, of everything that the server holds for it."""

TLS_PROMISE = 70 * 1024
"""Bytes for each silent client over TLS."""

PAUSED_SERVER = """
import asyncio, logging, ssl, sys
from broadcast import BroadcastServer
from broadcast.server.gate import PauseReason

async def main():
    context = None
    if sys.argv[1:]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[1])
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    async with BroadcastServer(port=0, notices=False, tls=context) as server:
        logging.getLogger("broadcast").setLevel(logging.WARNING)
        await asyncio.to_thread(sys.stdin.readline)
        # As if somebody read too slowly.
        server._context.room.gate.hold(PauseReason.BACKLOG, True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
"""A server that pauses input when it reads a line from stdin."""


def resident(server: Program) -> int:
    """Return the resident memory of the server in bytes."""
    pages = Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]
    return int(pages) * 4096


def settled(server: Program) -> int:
    """Return the resident memory of the server once it no longer grows."""
    last, now = -1, resident(server)
    while now > last:
        time.sleep(0.3)
        last, now = now, resident(server)
    return now


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    """A list of sockets, which are closed after the test."""
    opened: list[socket.socket] = []
    yield opened
    for one in opened:
        one.close()


def join(server: Program, name: str, sockets: list[socket.socket], tls: bool) -> socket.socket:
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    plain.settimeout(10)
    plain.connect(("127.0.0.1", server.port))
    joined = plain
    if tls:
        context = ssl.create_default_context(cafile=CERTIFICATE)
        joined = context.wrap_socket(plain, server_hostname="localhost")
    sockets.append(joined)
    joined.sendall(f"CONNECT {name}\n".encode())
    assert joined.recv(9) == b"SUCCESS\r\n"
    return joined


def start(program: StartProgram, tls: bool, *options: str) -> Program:
    encryption = ("--tls-cert", CERTIFICATE) if tls else ()
    return program("main_server.py", "--port", "0", "--no-notices", *options, *encryption)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize(
    "line",
    [b"x" * 99, b"x" * 59_999, b"ab", b"\xff" * 20_000],
    ids=["100 bytes", "60 KB", "3 bytes", "not UTF-8"],
)
def test_memory_for_read_ahead_is_bounded_while_input_is_paused(
    program: StartProgram, sockets: list[socket.socket], line: bytes, tls: bool
) -> None:
    server = program(PAUSED_SERVER, *([CERTIFICATE] if tls else []), cwd=TOP)
    senders = [join(server, f"s{number}", sockets, tls) for number in range(SENDERS)]
    server.type("pause\n")
    before = settled(server)
    chunk = (line + b"\n") * max(1, 65_536 // (len(line) + 1))
    for sender in senders:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        sender.setblocking(False)
        with contextlib.suppress(BlockingIOError, ssl.SSLWantWriteError):
            while True:
                sender.send(chunk)
    held = (settled(server) - before) / SENDERS
    assert 32 * 1024 < held < READ_AHEAD_PROMISE


def test_silent_tls_client_costs_little_memory(
    program: StartProgram, sockets: list[socket.socket]
) -> None:
    server = start(program, True)
    join(server, "first", sockets, tls=True)
    before = settled(server)
    for number in range(SENDERS):
        join(server, f"c{number}", sockets, tls=True)
    assert (settled(server) - before) / SENDERS < TLS_PROMISE


def test_silent_connection_to_a_tls_port_costs_no_more_than_a_plain_one(
    program: StartProgram, sockets: list[socket.socket]
) -> None:
    server = start(program, True)
    join(server, "first", sockets, tls=True)
    before = settled(server)
    for _ in range(SENDERS):
        sockets.append(socket.create_connection(("127.0.0.1", server.port)))
    assert (settled(server) - before) / SENDERS < 20 * 1024
