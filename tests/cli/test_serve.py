"""The server program: ports, limits, its log, TLS and the token."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import time
from pathlib import Path

import pytest
from helpers import (
    CERTIFICATE,
    HALF_A_SECOND,
    PATIENCE,
    RawClient,
    StartProgram,
    linux_only,
    wait_until,
)


def limited(open_files: int) -> str:
    """Return the server program under a limit on open files."""
    limits = f"resource.setrlimit(resource.RLIMIT_NOFILE, ({open_files}, {open_files}))"
    return f"import resource, sys, broadcast.cli; {limits}; sys.exit(broadcast.cli.main_server())"


def wait_listening(port: int) -> None:
    """Wait for a server that does not log that it listens."""

    def listens() -> bool:
        with socket.socket() as trying:
            return trying.connect_ex(("127.0.0.1", port)) == 0

    wait_until(listens, "the server listens")


class TestServerProgram:
    def test_port_in_use_is_reported_in_one_line(self, program: StartProgram, port: int) -> None:
        server = program("main_server.py", "--port", str(port))
        assert server.wait_exit() == 1
        assert (
            server.errors()
            == f"broadcast: can't listen on 127.0.0.1:{port}: Address already in use\n"
        )

    def test_bad_host_is_reported_in_one_line(self, program: StartProgram) -> None:
        server = program("main_server.py", "--host", "nowhere.invalid")
        assert server.wait_exit() == 1
        assert re.fullmatch(
            r"broadcast: can't listen on nowhere\.invalid:8888: [^\n]+\n", server.errors()
        )

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may listen on any port")
    @linux_only("has privileged ports")
    def test_privileged_port_is_reported_in_one_line(self, program: StartProgram) -> None:
        server = program("main_server.py", "--port", "80")
        assert server.wait_exit() == 1
        assert server.errors() == "broadcast: can't listen on 127.0.0.1:80: Permission denied\n"

    def test_log_level_may_come_from_the_environment(self, program: StartProgram) -> None:
        bad = program("main_server.py", env=os.environ | {"LOG_LEVEL": "foo"})
        assert bad.wait_exit() == 2
        assert "must be one of DEBUG, INFO" in bad.errors()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        quiet = program(
            "main_server.py", "--port", str(port), env=os.environ | {"LOG_LEVEL": "warning"}
        )
        wait_listening(port)
        quiet.process.terminate()
        assert (quiet.wait_exit(), quiet.errors()) == (0, "")

    def test_server_runs_with_all_streams_closed(self, program: StartProgram, port: int) -> None:
        server = program("main_server.py", "--port", str(port), redirect="<&- >&- 2>&-")
        assert server.wait_exit() == 1, "the port is in use"

    @pytest.mark.parametrize(
        "stderr",
        [pytest.param("full disk", marks=linux_only("has /dev/full")), "closed", "stuck"],
    )
    def test_unwritable_log_stops_and_slows_nobody(
        self, program: StartProgram, stderr: str
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        redirect = {"full disk": "2>/dev/full", "closed": "2>&-", "stuck": ""}[stderr]
        server = program("main_server.py", "--port", str(port), redirect=redirect)
        wait_listening(port)
        if stderr == "stuck":
            for _ in range(1500):  # nobody reads the log lines about these
                socket.create_connection(("127.0.0.1", port)).close()
        began = time.monotonic()
        a, b = RawClient(port, "a"), RawClient(port, "b")
        a.send("hello")
        while b.line() != "a: hello":
            pass
        assert time.monotonic() - began < 1
        server.process.terminate()
        for raw in (a, b):
            raw.close()
        assert server.wait_exit() == 0

    def test_tls_client_that_vanishes_before_its_answers_is_logged_once(
        self, program: StartProgram
    ) -> None:
        server = program("main_server.py", "--port", "0", "--tls-cert", CERTIFICATE)
        context = ssl.create_default_context(cafile=CERTIFICATE)
        with context.wrap_socket(
            socket.create_connection(("127.0.0.1", server.port)), server_hostname="localhost"
        ) as secret:
            secret.sendall(b"CONNECT a\n" + b"\\help\n" * 30_000)
            connected = socket.socket(fileno=secret.detach())
        assert " a in from " in server.error_line()
        connected.close()
        assert " a out: connection lost" in server.error_line()
        server.process.terminate()
        assert "stopping" in server.error_line()
        assert server.errors() == ""
        assert server.wait_exit() == 0

    def test_more_clients_than_the_system_allows_are_refused_at_startup(
        self, program: StartProgram
    ) -> None:
        server = program("main_server.py", "--max-clients", "100000000")
        assert server.wait_exit() == 2
        assert "--max-clients: the system's limit on open files allows" in server.errors()

    @pytest.mark.parametrize(
        ("open_files", "clients"), [(80, "1 client"), (90, "4 clients"), (100, "12 clients")]
    )
    def test_low_limit_on_open_files_is_logged_at_startup(
        self, program: StartProgram, open_files: int, clients: str
    ) -> None:
        server = program(limited(open_files), "--port", "0")
        line = server.error_line()
        told = f"this system allows {open_files} open files: at most {clients}; raise `ulimit -n`"
        assert line.endswith(f" WARNING {told}")
        raws = [
            RawClient(server.port, f"client{number}") for number in range(int(clients.split()[0]))
        ]
        with socket.create_connection(("127.0.0.1", server.port)) as refused:
            assert refused.makefile("rb").readline() == b"ERROR server is full\r\n"
        for raw in raws:
            raw.close()
        server.process.terminate()
        assert server.wait_exit() == 0

    @pytest.mark.parametrize(
        ("open_files", "arguments"),
        [(220, []), (100, ["--max-clients", "1"])],
    )
    def test_ordinary_or_requested_limit_is_not_logged(
        self, program: StartProgram, open_files: int, arguments: list[str]
    ) -> None:
        assert program(limited(open_files), "--port", "0", *arguments).port

    def test_token_and_tls_are_required_from_every_client(
        self, program: StartProgram, tmp_path: Path
    ) -> None:
        secret, wrong = tmp_path / "token", tmp_path / "wrong"
        secret.write_text("\ufeffgeheim\n")  # some editors start a file with this mark
        secret.chmod(0o600)
        wrong.write_text("falsch\n")
        server = program(
            "main_server.py", "--port", "0", "--tls-cert", CERTIFICATE, "--token-file", str(secret)
        )
        to = ["--port", str(server.port), "--tls", "--tls-ca", CERTIFICATE]
        listener = program(
            "main_client.py",
            *to,
            "--user",
            "listener",
            "--listen",
            env=os.environ | {"BROADCAST_TOKEN": "geheim"},
        )
        assert " listener in from " in server.error_line()
        sender = program("main_client.py", *to, "--user", "sender", "--token-file", str(secret))
        sender.process.communicate(b"hello\n", timeout=PATIENCE)
        assert sender.process.returncode == 0
        assert listener.output_line() == "sender: hello"
        refused = program("main_client.py", *to, "--token-file", str(wrong))
        assert refused.wait_exit() == 1
        assert "warning: others can read" in refused.error_line()
        assert refused.errors().endswith(
            "refuses: not authorised; the token is wrong: see --token-file\n"
        )
        without = program("main_client.py", *to)
        assert without.wait_exit() == 1
        assert without.errors().endswith(
            "refuses: not authorised; it wants a token: see --token-file\n"
        )
        plain = program("main_client.py", "--port", str(server.port))
        assert plain.wait_exit() == 1
        assert plain.errors().endswith("uses TLS; connect with --tls\n")


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="SKIPPED: no SIGUSR1 on this system")
def test_signals_during_a_slow_start(program: StartProgram) -> None:
    """SIGUSR1 does no harm, and SIGTERM ends it at once, which is no failure."""
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it never answers
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        server = program("main_server.py", "--port", "0", "--cluster", url)
        connected, _ = silent.accept()
        server.process.send_signal(signal.SIGUSR1)
        assert server.error_line().endswith("log lines lost 0")
        server.process.send_signal(signal.SIGTERM)
        ended, seconds = server.time_exit()
        assert (ended, seconds < HALF_A_SECOND) == (0, True), seconds
        assert server.errors() == ""
        connected.close()
