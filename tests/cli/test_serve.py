"""The server program: ports, limits, its log, TLS and the token."""

from __future__ import annotations

import os
import re
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import PATIENCE, TOP, Raw, StartProgram, until


def limited(open_files: int) -> str:
    """The server under a limit on open files."""
    limits = f"resource.setrlimit(resource.RLIMIT_NOFILE, ({open_files}, {open_files}))"
    return f"import resource, sys, broadcast.cli; {limits}; sys.exit(broadcast.cli.main_server())"


def until_it_listens(port: int) -> None:
    """Wait for a server that does not say so."""

    def listens() -> bool:
        with socket.socket() as trying:
            return trying.connect_ex(("127.0.0.1", port)) == 0

    until(listens, "the server listens")


class TestServerProgram:
    def test_port_in_use_is_reported_in_one_line(self, program: StartProgram, port: int) -> None:
        server = program("main_server.py", "--port", str(port))
        assert server.end() == 1
        assert (
            server.errors()
            == f"broadcast: can't listen on 127.0.0.1:{port}: Address already in use\n"
        )

    def test_bad_host_is_reported_in_one_line(self, program: StartProgram) -> None:
        server = program("main_server.py", "--host", "nowhere.invalid")
        assert server.end() == 1
        assert re.fullmatch(
            r"broadcast: can't listen on nowhere\.invalid:8888: [^\n]+\n", server.errors()
        )

    @pytest.mark.skipif(
        os.geteuid() == 0 or sys.platform != "linux", reason="root may take any port"
    )
    def test_privileged_port_is_reported_in_one_line(self, program: StartProgram) -> None:
        server = program("main_server.py", "--port", "80")
        assert server.end() == 1
        assert server.errors() == "broadcast: can't listen on 127.0.0.1:80: Permission denied\n"

    def test_log_level_may_come_from_the_environment(self, program: StartProgram) -> None:
        bad = program("main_server.py", env=os.environ | {"LOG_LEVEL": "foo"})
        assert bad.end() == 2
        assert "must be one of DEBUG, INFO" in bad.errors()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        quiet = program(
            "main_server.py", "--port", str(port), env=os.environ | {"LOG_LEVEL": "warning"}
        )
        until_it_listens(port)
        quiet.process.terminate()
        assert (quiet.end(), quiet.errors()) == (0, "")

    def test_server_runs_with_all_streams_closed(self, port: int) -> None:
        script = f"exec {sys.executable} {TOP}/main_server.py --port {port} <&- >&- 2>&-"
        assert subprocess.run(["sh", "-c", script], check=False, timeout=PATIENCE).returncode == 1

    @pytest.mark.parametrize("stderr", ["full disk", "closed", "stuck"])
    def test_unwritable_log_stops_and_slows_nobody(
        self, program: StartProgram, stderr: str
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        redirection = {"full disk": "2>/dev/full", "closed": "2>&-", "stuck": ""}[stderr]
        server = program(
            f"import os; os.execlp('sh', 'sh', '-c', 'exec {sys.executable} {TOP}/main_server.py --port {port} {redirection}')"
        )
        until_it_listens(port)
        if stderr == "stuck":
            for _ in range(1500):  # nobody reads what is logged of these
                socket.create_connection(("127.0.0.1", port)).close()
        began = time.monotonic()
        a, b = Raw(port, "a"), Raw(port, "b")
        a.send("hello")
        while b.line() != "a: hello":
            pass
        assert time.monotonic() - began < 1
        server.process.terminate()
        for raw in (a, b):
            raw.file.close()
            raw.socket.close()
        assert server.end() == 0

    def test_tls_client_that_vanishes_before_its_answers_is_logged_once(
        self, program: StartProgram
    ) -> None:
        certificate = str(TOP / "tests/certificate.pem")
        server = program("main_server.py", "--port", "0", "--tls-cert", certificate)
        context = ssl.create_default_context(cafile=certificate)
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
        assert server.end() == 0

    def test_more_clients_than_the_system_allows_are_refused_at_startup(
        self, program: StartProgram
    ) -> None:
        server = program("main_server.py", "--max-clients", "100000000")
        assert server.end() == 2
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
        raws = [Raw(server.port, f"client{number}") for number in range(int(clients.split()[0]))]
        with socket.create_connection(("127.0.0.1", server.port)) as refused:
            assert refused.makefile("rb").readline() == b"ERROR server is full\r\n"
        for raw in raws:
            raw.file.close()
            raw.socket.close()
        server.process.terminate()
        assert server.end() == 0

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
        certificate, secret, wrong = (
            str(TOP / "tests/certificate.pem"),
            tmp_path / "token",
            tmp_path / "wrong",
        )
        secret.write_text("\ufeffgeheim\n")  # some editors begin a file with this mark
        secret.chmod(0o600)
        wrong.write_text("falsch\n")
        server = program(
            "main_server.py", "--port", "0", "--tls-cert", certificate, "--token-file", str(secret)
        )
        to = ["--port", str(server.port), "--tls", "--tls-ca", certificate]
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
        assert refused.end() == 1
        assert "warning: others can read" in refused.error_line()
        assert refused.errors().endswith("refuses: not authorised\n")
        plain = program("main_client.py", "--port", str(server.port))
        assert plain.end() == 1
        assert "--tls?" in plain.errors()
