"""Errors of the client program, and its exit codes."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time

import pytest
from helpers import (
    CERTIFICATE,
    FAST_RECONNECT,
    PATIENCE,
    TOP,
    FakeServer,
    StartProgram,
    client_with,
)

from broadcast.client.client import LEAVE_TIME
from broadcast.client.conversation import LEAVE_LIMIT
from broadcast.protocol.messages import TOO_SLOW

SHORT_LEAVE = client_with("c.LEAVE_TIME = 0.3; c.LEAVE_LIMIT = 1_000_000")
"""A client program that gives the server less time and fewer bytes after `\\exit`."""

WITH_TOKEN = os.environ | {"BROADCAST_TOKEN": "geheim"}


class TestClientErrors:
    def test_unreachable_server_is_reported_in_one_line(self, program: StartProgram) -> None:
        client = program("main_client.py", "--port", "1")
        assert (client.wait_exit(), client.errors()) == (
            1,
            "broadcast: can't reach 127.0.0.1:1: Connection refused\n",
        )

    def test_bad_username_is_refused_before_connecting(self, program: StartProgram) -> None:
        client = program("main_client.py", "--port", "1", "--user", "a:b")
        assert client.wait_exit() == 2
        assert "bad username: it has a colon in it" in client.errors()

    def test_refusal_is_reported_with_the_reason_of_the_server(
        self, program: StartProgram, fake_server: FakeServer
    ) -> None:
        client = program("main_client.py", "--port", fake_server.port)
        fake_server.accept()
        fake_server.send("ERROR no room")
        fake_server.disconnect()
        assert client.wait_exit() == 1
        assert re.fullmatch(r"broadcast: 127\.0\.0\.1:\d+ refuses: no room\n", client.errors())

    def test_reconnecting_ends_at_once_on_what_no_retry_fixes(self, program: StartProgram) -> None:
        plain = program("main_server.py", "--port", "0").port
        encrypted = program(
            "main_server.py", "--port", "0", "--tls-cert", CERTIFICATE, env=WITH_TOKEN
        ).port
        trusting = ["--port", str(encrypted), "--tls", "--tls-ca", CERTIFICATE]
        for arguments, hint in (
            (["--port", str(plain), "--tls"], "connect without --tls"),
            (["--port", str(encrypted)], "connect with --tls"),
            (["--port", str(encrypted), "--tls"], "pass it with --tls-ca"),
            (trusting, "see --token-file"),
        ):
            client = program("main_client.py", "--reconnect", "--listen", *arguments)
            assert client.wait_exit() == 1
            assert re.fullmatch(rf"broadcast: [^\n]+ {hint}\n", client.errors())

    def test_reconnecting_ends_when_the_server_comes_back_with_tls(
        self, program: StartProgram
    ) -> None:
        server = program("main_server.py", "--port", "0")
        port = str(server.port)
        client = program(FAST_RECONNECT, "--port", port, "--reconnect", "--listen", cwd=TOP)
        assert " in from " in server.error_line()
        server.process.kill()
        server.wait_exit()
        assert client.error_line().endswith("; trying until it is there again")
        assert program("main_server.py", "--port", port, "--tls-cert", CERTIFICATE).port
        assert client.wait_exit() == 1
        assert client.errors().endswith(" uses TLS; connect with --tls\n")

    @pytest.mark.parametrize(
        ("joined", "text"),
        [(False, "no room"), (True, "timed out: nothing heard for"), (True, TOO_SLOW)],
    )
    def test_endless_close_reason_is_truncated(
        self, program: StartProgram, fake_server: FakeServer, joined: bool, text: str
    ) -> None:
        client = program("main_client.py", "--port", fake_server.port)
        if joined:
            fake_server.admit()
        else:
            fake_server.accept()
        fake_server.send(f"ERROR {text}{'x' * 100_000}")
        fake_server.disconnect()
        assert client.wait_exit() == 1
        assert re.fullmatch(rf"broadcast: \S+ [a-z ]+: {text}x{{200,256}}\n", client.errors())

    def test_client_gives_up_on_server_that_does_not_close_after_exit(
        self, program: StartProgram, fake_server: FakeServer
    ) -> None:
        assert LEAVE_TIME == 10
        client = program(
            client_with("c.LEAVE_TIME = 0.3"),
            "--port",
            fake_server.port,
            stdin=subprocess.DEVNULL,
            cwd=TOP,
        )
        fake_server.admit()
        assert client.wait_exit() == 1
        assert re.fullmatch(
            r"broadcast: \S+ has not ended the connection within 0\.3 s of \\exit\n",
            client.errors(),
        )

    def test_client_gives_up_on_server_that_floods_after_exit(
        self, program: StartProgram, fake_server: FakeServer
    ) -> None:
        assert LEAVE_LIMIT == 32 * 1024 * 1024
        client = program(
            SHORT_LEAVE,
            "--port",
            fake_server.port,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=TOP,
        )
        fake_server.admit()
        sent = 0
        deadline = time.monotonic() + PATIENCE
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < deadline:
                fake_server.send(*["eve: hello"] * 1_000)
                sent += 12_000
        assert client.wait_exit() == 1
        assert time.monotonic() < deadline, "the client gave up"
        assert sent > 1_000_000
        assert re.fullmatch(
            r"broadcast: \S+ has not ended the connection within 0\.3 s of \\exit\n",
            client.errors(),
        )

    def test_slow_reader_of_the_output_gets_all_that_is_sent_after_exit(
        self, program: StartProgram, fake_server: FakeServer
    ) -> None:
        client = program(
            SHORT_LEAVE,
            "--port",
            fake_server.port,
            stdin=subprocess.DEVNULL,
            cwd=TOP,
        )
        fake_server.admit()
        assert fake_server.line() == "\\exit"
        lines = [f"eve: {number} {'x' * 900}" for number in range(1_000)]
        fake_server.send(*lines)
        fake_server.disconnect()
        time.sleep(0.6)  # longer than the server has to close the connection
        assert [client.output_line() for _ in lines] == lines
        assert (client.wait_exit(), client.errors()) == (0, "")

    def test_close_reason_of_the_server_is_reported(self, program: StartProgram) -> None:
        server = program("main_server.py", "--port", "0", "--timeout", "0.5")
        client = program("main_client.py", "--port", str(server.port))
        assert client.wait_exit() == 1
        assert re.fullmatch(
            r"broadcast: \S+ closed the connection: timed out: nothing heard for 0\.5 s\n",
            client.errors(),
        )

    def test_shutdown_of_the_server_is_reported(self, program: StartProgram) -> None:
        server = program("main_server.py", "--port", "0")
        client = program("main_client.py", "--port", str(server.port))
        server.error_line()
        server.process.terminate()
        assert client.wait_exit() == 1
        assert re.fullmatch(
            r"broadcast: \S+ closed the connection: server is shutting down\n", client.errors()
        )

    def test_control_characters_of_the_server_do_not_reach_the_output(
        self, program: StartProgram, fake_server: FakeServer
    ) -> None:
        client = program("main_client.py", "--port", fake_server.port)
        fake_server.admit()
        fake_server.connection.sendall(b"eve: \x1b[2J\x07\x9b\r\n")
        assert client.output_line() == "eve: \ufffd[2J\ufffd\ufffd"
