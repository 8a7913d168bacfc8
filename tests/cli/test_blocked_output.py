"""The client program when its output is full, slow, closed or blocked."""

from __future__ import annotations

import re
import signal

import pytest
from helpers import (
    FAST_RECONNECT,
    HALF_A_SECOND,
    PATIENCE,
    TOP,
    FakeServer,
    RawClient,
    StartProgram,
    linux_only,
)

from broadcast.system.stderr import ERROR_TIMEOUT

LONG_ERROR_TIMEOUT = """
import os, sys, broadcast.cli, broadcast.terminal.stdio as c

class Console(c.Console):
    async def report(self, text):
        os.write(1, b"waiting\\n")
        await super().report(text)

broadcast.cli.connect.Console = Console
c.ERROR_TIMEOUT = 100
sys.exit(broadcast.cli.main_client())
"""
"""A client program that tells when it waits for stderr, and waits for long."""


BLOCKING_WRITE = """
import os, sys, threading, broadcast.cli

def block(fd, data):
    if fd > 2:  # a socket
        return write(fd, data)
    write(2, b"blocking\\n")
    threading.Event().wait()

write, os.write = os.write, block
sys.exit(broadcast.cli.main_client())
"""
"""A client program whose first write never returns."""


class TestBlockedOutput:
    @pytest.mark.parametrize("arguments", [[], ["--listen"]])
    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
    def test_client_with_full_stderr_still_prints_sends_and_ends(
        self,
        program: StartProgram,
        fake_server: FakeServer,
        arguments: list[str],
        how: int,
        full_pipe: int,
    ) -> None:
        client = program(
            "main_client.py",
            "--port",
            fake_server.port,
            "--heartbeat",
            "0.1",
            *arguments,
            stderr=full_pipe,
        )
        fake_server.admit()
        fake_server.send("eve: before")
        assert client.output_line() == "eve: before"
        fake_server.send("* bob joined")
        assert all(fake_server.line().startswith("\\ping ") for _ in range(3))
        if not arguments:
            client.type(b"x" * 100_000 + b"\nafter\n")
            while (line := fake_server.line()).startswith("\\ping "):
                pass
            assert line == "after"
        client.process.send_signal(how)
        status, seconds = client.time_exit()
        assert (status, seconds < 2 * HALF_A_SECOND) == (128 + how, True), seconds

    def test_client_with_full_stderr_ends_on_a_lost_connection(
        self, program: StartProgram, fake_server: FakeServer, full_pipe: int
    ) -> None:
        client = program("main_client.py", "--port", fake_server.port, stderr=full_pipe)
        fake_server.admit()
        fake_server.close()
        status, seconds = client.time_exit()
        assert (status, seconds < ERROR_TIMEOUT + HALF_A_SECOND) == (1, True), seconds

    def test_signal_ends_the_wait_for_a_full_stderr(
        self, program: StartProgram, fake_server: FakeServer, full_pipe: int
    ) -> None:
        client = program(LONG_ERROR_TIMEOUT, "--port", fake_server.port, stderr=full_pipe, cwd=TOP)
        fake_server.admit()
        fake_server.close()
        assert client.output_line() == "waiting"
        client.process.terminate()
        status, seconds = client.time_exit()
        assert (status, seconds < 2 * HALF_A_SECOND) == (143, True), seconds

    def test_client_with_full_stderr_reconnects(
        self, program: StartProgram, fake_server: FakeServer, full_pipe: int
    ) -> None:
        client = program(
            FAST_RECONNECT, "--port", fake_server.port, "--reconnect", stderr=full_pipe, cwd=TOP
        )
        for _ in range(2):
            fake_server.admit()
            fake_server.disconnect()
        fake_server.admit()
        client.process.terminate()
        assert client.wait_exit() == 143

    def test_stderr_that_is_read_late_loses_nothing(
        self, program: StartProgram, fake_server: FakeServer
    ) -> None:
        client = program("main_client.py", "--port", fake_server.port)
        fake_server.admit()
        notices = [f"* {number} {'x' * 1000}" for number in range(500)]
        fake_server.send(*notices, "eve: after", "* server is shutting down")
        fake_server.disconnect()
        assert [client.error_line() for _ in notices] == [
            f"broadcast: {notice}" for notice in notices
        ]
        assert client.output_line() == "eve: after"
        assert re.fullmatch(
            r"broadcast: \S+ closed the connection: server is shutting down\n", client.errors()
        )
        assert client.wait_exit() == 1

    def test_signal_ends_client_whose_write_blocks(
        self, program: StartProgram, fake_server: FakeServer
    ) -> None:
        """This happens when another process fills a shared pipe between our poll and our write."""
        client = program(BLOCKING_WRITE, "--port", fake_server.port, cwd=TOP)
        fake_server.admit()
        fake_server.send("eve: hello")
        assert client.error_line() == "blocking"
        client.process.terminate()
        status, seconds = client.time_exit()
        assert (status, seconds < 2 * HALF_A_SECOND) == (143, True), seconds

    @linux_only("has /dev/full")
    def test_full_disk_is_reported_in_one_line(
        self, program: StartProgram, port: int, watcher: RawClient
    ) -> None:
        client = program(
            "main_client.py", "--port", str(port), "--user", "bot", redirect=">/dev/full"
        )
        watcher.wait_joined("bot")
        watcher.send("hello")
        assert client.wait_exit() == 1
        assert client.errors() == "broadcast: can't write what arrives: No space left on device\n"

    def test_client_with_closed_stdout_sends_its_input(
        self, program: StartProgram, port: int, watcher: RawClient
    ) -> None:
        client = program("main_client.py", "--port", str(port), "--user", "bot", redirect=">&-")
        client.process.communicate(b"a\n", timeout=PATIENCE)
        assert client.process.returncode == 0
        assert watcher.line() == "bot: a"
