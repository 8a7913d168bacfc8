"""The client program when its output is full, slow, closed or blocked."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import HALF_A_SECOND, IMPATIENT, PATIENCE, TOP, Impostor, Raw, StartProgram, timed

from broadcast.terminal.stdio import ERROR_TIMEOUT

TOLD_ERROR_TIMEOUT = """
import os, sys, broadcast.cli, broadcast.terminal.stdio as c

class Console(c.Console):
    async def report(self, text):
        os.write(1, b"waiting\\n")
        await super().report(text)

broadcast.cli.connect.Console = Console
c.ERROR_TIMEOUT = 100
sys.exit(broadcast.cli.main_client())
"""
"""It says when it waits for stderr, and does so for long."""


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
"""Its first write never returns."""


class TestBlockedOutput:
    @pytest.mark.parametrize("arguments", [[], ["--listen"]])
    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
    def test_client_with_full_stderr_still_prints_sends_and_ends(
        self,
        program: StartProgram,
        impostor: Impostor,
        arguments: list[str],
        how: int,
        full_pipe: int,
    ) -> None:
        client = program(
            "main_client.py",
            "--port",
            impostor.port,
            "--heartbeat",
            "0.1",
            *arguments,
            stderr=full_pipe,
        )
        impostor.let_in()
        impostor.send("eve: before")
        assert client.output_line() == "eve: before"
        impostor.send("* bob joined")
        assert [impostor.line() for _ in range(3)] == ["\\ping"] * 3
        if not arguments:
            client.type(b"x" * 100_000 + b"\nafter\n")
            while (line := impostor.line()) == "\\ping":
                pass
            assert line == "after"
        client.process.send_signal(how)
        status, seconds = timed(client)
        assert (status, seconds < 2 * HALF_A_SECOND) == (128 + how, True), seconds

    def test_client_with_full_stderr_ends_on_a_lost_connection(
        self, program: StartProgram, impostor: Impostor, full_pipe: int
    ) -> None:
        client = program("main_client.py", "--port", impostor.port, stderr=full_pipe)
        impostor.let_in()
        impostor.close()
        status, seconds = timed(client)
        assert (status, seconds < ERROR_TIMEOUT + HALF_A_SECOND) == (1, True), seconds

    def test_signal_ends_the_wait_for_a_full_stderr(
        self, program: StartProgram, impostor: Impostor, full_pipe: int
    ) -> None:
        client = program(TOLD_ERROR_TIMEOUT, "--port", impostor.port, stderr=full_pipe, cwd=TOP)
        impostor.let_in()
        impostor.close()
        assert client.output_line() == "waiting"
        client.process.terminate()
        status, seconds = timed(client)
        assert (status, seconds < 2 * HALF_A_SECOND) == (143, True), seconds

    def test_client_with_full_stderr_reconnects(
        self, program: StartProgram, impostor: Impostor, full_pipe: int
    ) -> None:
        client = program(
            IMPATIENT, "--port", impostor.port, "--reconnect", stderr=full_pipe, cwd=TOP
        )
        for _ in range(2):
            impostor.let_in()
            impostor.hang_up()
        impostor.let_in()
        client.process.terminate()
        assert client.end() == 143

    def test_stderr_that_is_read_late_loses_nothing(
        self, program: StartProgram, impostor: Impostor
    ) -> None:
        client = program("main_client.py", "--port", impostor.port)
        impostor.let_in()
        notices = [f"* {number} {'x' * 1000}" for number in range(500)]
        impostor.send(*notices, "eve: after", "* server is shutting down")
        impostor.hang_up()
        assert [client.error_line() for _ in notices] == [
            f"broadcast: {notice}" for notice in notices
        ]
        assert client.output_line() == "eve: after"
        assert re.fullmatch(
            r"broadcast: \S+ closed the connection: server is shutting down\n", client.errors()
        )
        assert client.end() == 1

    def test_signal_ends_client_whose_write_blocks(
        self, program: StartProgram, impostor: Impostor
    ) -> None:
        """As where another process fills a pipe that is shared, between our poll and our write."""
        client = program(BLOCKING_WRITE, "--port", impostor.port, cwd=TOP)
        impostor.let_in()
        impostor.send("eve: hello")
        assert client.error_line() == "blocking"
        client.process.terminate()
        status, seconds = timed(client)
        assert (status, seconds < 2 * HALF_A_SECOND) == (143, True), seconds

    def test_full_disk_is_reported_in_one_line(
        self, program: StartProgram, port: int, watcher: Raw
    ) -> None:
        with Path("/dev/full").open("wb") as full:
            client = program("main_client.py", "--port", str(port), "--user", "bot", stdout=full)
        watcher.wait_for("bot")
        watcher.send("hello")
        assert client.end() == 1
        assert client.errors() == "broadcast: can't write what arrives: No space left on device\n"

    def test_client_with_closed_stdout_sends_its_input(self, port: int, watcher: Raw) -> None:
        script = (
            f"printf 'a\\n' | {sys.executable} {TOP}/main_client.py --port {port} --user bot >&-"
        )
        assert subprocess.run(["sh", "-c", script], check=False, timeout=PATIENCE).returncode == 0
        assert watcher.line() == "bot: a"
