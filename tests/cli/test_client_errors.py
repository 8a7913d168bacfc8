"""Errors of the client program, and its exit codes."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import time

import pytest
from helpers import CLIENT, PATIENCE, TOP, Impostor, StartProgram

from broadcast.client.client import LEAVE_TIME
from broadcast.client.conversation import LEAVE_LIMIT
from broadcast.protocol import TOO_SLOW

IMPATIENT_LEAVER = (
    "import sys, broadcast.cli, broadcast.client.conversation as c; "
    "c.LEAVE_TIME = 0.3; c.LEAVE_LIMIT = {}; sys.exit(broadcast.cli.main_client())"
)
"""It gives a server less to leave, in time and bytes."""


class TestClientErrors:
    def test_unreachable_server_is_reported_in_one_line(self, program: StartProgram) -> None:
        client = program("main_client.py", "--port", "1")
        assert (client.end(), client.errors()) == (
            1,
            "broadcast: can't reach 127.0.0.1:1: Connection refused\n",
        )

    def test_bad_username_is_refused_before_connecting(self, program: StartProgram) -> None:
        client = program("main_client.py", "--port", "1", "--user", "a:b")
        assert client.end() == 2
        assert "bad username: it has a colon in it" in client.errors()

    def test_refusal_is_reported_with_the_reason_of_the_server(self, program: StartProgram) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            client = program("main_client.py", "--port", str(listening.getsockname()[1]))
            with listening.accept()[0] as connection:
                connection.recv(100)
                connection.sendall(b"ERROR no room\r\n")
            assert client.end() == 1
            assert re.fullmatch(r"broadcast: 127\.0\.0\.1:\d+ refuses: no room\n", client.errors())

    @pytest.mark.parametrize(
        ("joined", "text"),
        [(False, "no room"), (True, "timed out: nothing heard for"), (True, TOO_SLOW)],
    )
    def test_endless_close_reason_is_truncated(
        self, program: StartProgram, impostor: Impostor, joined: bool, text: str
    ) -> None:
        client = program("main_client.py", "--port", impostor.port)
        if joined:
            impostor.let_in()
        else:
            impostor.accept()
        impostor.send(f"ERROR {text}{'x' * 100_000}")
        impostor.hang_up()
        assert client.end() == 1
        assert re.fullmatch(rf"broadcast: \S+ [a-z ]+: {text}x{{200,256}}\n", client.errors())

    def test_client_gives_up_on_server_that_does_not_close_after_exit(
        self, program: StartProgram
    ) -> None:
        assert LEAVE_TIME == 10
        with socket.create_server(("127.0.0.1", 0)) as listening:
            client = program(
                CLIENT.format("c.LEAVE_TIME", 0.3),
                "--port",
                str(listening.getsockname()[1]),
                stdin=subprocess.DEVNULL,
                cwd=TOP,
            )
            with listening.accept()[0] as connection:
                connection.sendall(b"SUCCESS\r\n")
                assert client.end() == 1
        assert re.fullmatch(
            r"broadcast: \S+ has not ended the connection within 0\.3 s of \\exit\n",
            client.errors(),
        )

    def test_client_gives_up_on_server_that_floods_after_exit(
        self, program: StartProgram, impostor: Impostor
    ) -> None:
        assert LEAVE_LIMIT == 32 * 1024 * 1024
        limits = IMPATIENT_LEAVER.format(1_000_000)
        client = program(
            limits,
            "--port",
            impostor.port,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=TOP,
        )
        impostor.let_in()
        sent = 0
        deadline = time.monotonic() + PATIENCE
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < deadline:
                impostor.send(*["eve: hello"] * 1_000)
                sent += 12_000
        assert client.end() == 1
        assert time.monotonic() < deadline, "it ended by itself"
        assert sent > 1_000_000
        assert re.fullmatch(
            r"broadcast: \S+ has not ended the connection within 0\.3 s of \\exit\n",
            client.errors(),
        )

    def test_slow_reader_of_the_output_gets_all_that_is_sent_after_exit(
        self, program: StartProgram, impostor: Impostor
    ) -> None:
        client = program(
            IMPATIENT_LEAVER.format(1_000_000),
            "--port",
            impostor.port,
            stdin=subprocess.DEVNULL,
            cwd=TOP,
        )
        impostor.let_in()
        assert impostor.line() == "\\exit"
        lines = [f"eve: {number} {'x' * 900}" for number in range(1_000)]
        impostor.send(*lines)
        impostor.hang_up()
        time.sleep(0.6)  # longer than the server has
        assert [client.output_line() for _ in lines] == lines
        assert (client.end(), client.errors()) == (0, "")

    def test_close_reason_of_the_server_is_reported(self, program: StartProgram) -> None:
        server = program("main_server.py", "--port", "0", "--timeout", "0.5")
        client = program("main_client.py", "--port", str(server.port))
        assert client.end() == 1
        assert re.fullmatch(
            r"broadcast: \S+ closed the connection: timed out: nothing heard for 0\.5 s\n",
            client.errors(),
        )

    def test_shutdown_of_the_server_is_reported(self, program: StartProgram) -> None:
        server = program("main_server.py", "--port", "0")
        client = program("main_client.py", "--port", str(server.port))
        server.error_line()
        server.process.terminate()
        assert client.end() == 1
        assert re.fullmatch(
            r"broadcast: \S+ closed the connection: server is shutting down\n", client.errors()
        )

    def test_control_characters_of_the_server_do_not_reach_the_output(
        self, program: StartProgram
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            client = program("main_client.py", "--port", str(listening.getsockname()[1]))
            with listening.accept()[0] as connection:
                connection.sendall(b"SUCCESS\r\neve: \x1b[2J\x07\x9b\r\n")
                assert client.output_line() == "eve: \ufffd[2J\ufffd\ufffd"
