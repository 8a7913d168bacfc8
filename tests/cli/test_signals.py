"""Signals and Ctrl-C, sent to both programs."""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest
from helpers import HALF_A_SECOND, PATIENCE, TOP, RawClient, StartProgram

INTERRUPTED_CALLBACK = """
import os, runpy, signal, sys, weakref

class Finder:
    def find_spec(self, name, path, target=None):
        if name == "broadcast.cli":
            imported = type("Imported", (), {{}})()
            reference = weakref.ref(imported, lambda _: os.kill(os.getpid(), signal.SIGINT))
            del imported

sys.meta_path.insert(0, Finder())
runpy.run_path({!r}, run_name="__main__")
"""
"""A program that is interrupted in the callback of a weak reference."""


class TestServerSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_first_signal_closes_the_server_gracefully(
        self, program: StartProgram, number: int
    ) -> None:
        server = program("main_server.py", "--port", "0")
        raw = RawClient(server.port, "a")
        server.process.send_signal(number)
        assert raw.file.readlines() == [b"* server is shutting down\r\n"]
        raw.close()
        assert server.wait_exit() == 0
        assert "Traceback" not in server.errors()

    def test_second_signal_ends_the_server_immediately(self, program: StartProgram) -> None:
        server = program("main_server.py", "--port", "0", "--no-notices")
        sender, stalled = RawClient(server.port, "s"), RawClient(server.port, "stalled")
        for _ in range(10):
            sender.file.write((b"x" * 1000 + b"\n") * 700)
            sender.names()
        server.process.send_signal(signal.SIGTERM)
        while "* server is shutting down" not in sender.line():
            pass
        server.process.send_signal(signal.SIGTERM)
        status, seconds = server.time_exit()
        assert (status, seconds < HALF_A_SECOND) == (1, True)
        assert "Traceback" not in server.errors()
        for raw in (sender, stalled):
            raw.close()

    def test_stopped_server_times_nobody_out(self, program: StartProgram) -> None:
        """SIGSTOP lasts longer than the timeout, but clients and handshakes can continue."""
        server = program("main_server.py", "--port", "0", "--timeout", "1", "--no-notices")
        port = server.port
        raws = [RawClient(port, f"r{number}") for number in range(20)]
        halfway = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        time.sleep(0.2)
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(1.5)
        for raw in raws[:10]:
            raw.send("\\ping")
        server.process.send_signal(signal.SIGCONT)
        for raw in raws:
            assert len(raw.names()) == 20
        halfway.sendall(b"CONNECT late\n")
        assert halfway.recv(100) == b"SUCCESS\r\n"
        for raw in raws:
            raw.close()
        halfway.close()

    def test_sigusr1_logs_the_statistics_of_the_server(self, program: StartProgram) -> None:
        server = program("main_server.py", "--port", "0")
        raw = RawClient(server.port, "a")
        server.error_line()
        server.process.send_signal(signal.SIGUSR1)
        line = server.error_line()
        for name in (
            "clients 1",
            "lagging 0",
            "lines in 0",
            "bytes in 10",
            "deliveries 0",
            "backlog bytes 0",
            "dropped 0",
            "uptime ",
            "log lines lost 0",
        ):
            assert name in line
        raw.close()


@pytest.mark.parametrize("name", ["main_server.py", "main_client.py"])
class TestCtrlCAtStartup:
    @pytest.mark.parametrize("module", ["signal", "asyncio.events", "ssl", "broadcast.protocol"])
    def test_ctrl_c_during_imports_prints_no_traceback(
        self, program: StartProgram, name: str, module: str
    ) -> None:
        started = program(
            name,
            "--port",
            "0" if "server" in name else "1",
            env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1"},
        )
        while not (line := started.error_line()).endswith(f" {module}"):
            assert line
        started.process.send_signal(signal.SIGINT)
        started.wait_exit()
        assert "Traceback" not in started.errors()

    def test_ctrl_c_that_python_swallows_still_ends_the_program(
        self, program: StartProgram, name: str
    ) -> None:
        """This happens in a callback of the import system, where nothing can be raised."""
        started = program(INTERRUPTED_CALLBACK.format(name), "--port", "0", cwd=TOP)
        assert started.wait_exit() == -signal.SIGINT
        assert started.errors() == ""


class TestClientSignals:
    @pytest.mark.parametrize("arguments", [[], ["--listen"]])
    @pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_signal_ends_the_client_within_half_a_second(
        self,
        program: StartProgram,
        port: int,
        watcher: RawClient,
        arguments: list[str],
        number: int,
        expected: int,
    ) -> None:
        client = program("main_client.py", "--port", str(port), "--user", "bot", *arguments)
        watcher.wait_joined("bot")
        client.process.send_signal(number)
        status, seconds = client.time_exit()
        assert (status, seconds < HALF_A_SECOND, client.errors()) == (expected, True, "")

    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
    def test_signal_ends_client_whose_output_is_a_full_pipe(
        self, program: StartProgram, port: int, watcher: RawClient, how: int
    ) -> None:
        client = program("main_client.py", "--port", str(port), "--user", "bot")
        watcher.wait_joined("bot")
        for _ in range(100):
            watcher.send("x" * 10_000)
        watcher.names()
        time.sleep(0.2)
        client.process.send_signal(how)
        status, seconds = client.time_exit()
        assert (status, seconds < HALF_A_SECOND) == (128 + how, True), seconds

    def test_ctrl_c_stops_reconnecting(self, program: StartProgram) -> None:
        client = program("main_client.py", "--port", "1", "--reconnect")
        assert "trying until it is there again" in client.error_line()
        client.process.send_signal(signal.SIGINT)
        status, seconds = client.time_exit()
        assert (status, seconds < HALF_A_SECOND) == (130, True)
