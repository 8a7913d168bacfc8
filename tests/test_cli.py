"""Both programs as people run them: real processes, pipes, pseudo-terminals, signals, exit codes."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import pty
import re
import select
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import termios
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import PATIENCE, TOP, Program, StartProgram

from broadcast import __version__
from broadcast.cli import main_client, main_server
from broadcast.client.client import LEAVE_TIME
from broadcast.client.conversation import LEAVE_LIMIT
from broadcast.protocol import TOO_SLOW
from broadcast.terminal.stdio import ERROR_TIMEOUT

HALF_A_SECOND = 0.5


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a server that runs as a process of its own, without notices; one for all, as each takes a tenth of a second to start."""
    server = Program("main_server.py", "--port", "0", "--no-notices")
    yield server.port
    server.clean_up()


def limited(open_files: int) -> str:
    """The server under a limit on open files."""
    limits = f"resource.setrlimit(resource.RLIMIT_NOFILE, ({open_files}, {open_files}))"
    return f"import resource, sys, broadcast.cli; {limits}; sys.exit(broadcast.cli.main_server())"


CLIENT = "import sys, broadcast.cli, broadcast.client.conversation as c, broadcast.client.reconnect as r; {} = {}; sys.exit(broadcast.cli.main_client())"
"""The client with a time of its own."""

IMPATIENT = CLIENT.format("r.SHORTEST_DELAY", 0.1)
"""It tries again after a tenth of a second."""

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


IMPATIENT_LEAVER = (
    "import sys, broadcast.cli, broadcast.client.conversation as c; "
    "c.LEAVE_TIME = 0.3; c.LEAVE_LIMIT = {}; sys.exit(broadcast.cli.main_client())"
)
"""It gives a server less to leave, in time and bytes."""


SWALLOWING = """
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
"""A program to which Ctrl-C comes while a weak reference's callback runs."""


class Raw:
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

    def wait_for(self, name: str) -> None:
        until(lambda: name in self.names(), f"{name} has joined")


def until(happened: Callable[[], bool], what: str) -> None:
    """Wait for something that has to be asked for again and again."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, f"not so: {what}"
        time.sleep(0.01)


@pytest.fixture
def watcher(port: int) -> Iterator[Raw]:
    """Someone who is alone in the room, to see what arrives there."""
    raw = Raw(port, "watcher")
    until(lambda: raw.names() == ["watcher"], "those of the test before have gone")
    yield raw
    raw.send("\\exit")
    raw.file.read()
    raw.file.close()
    raw.socket.close()


def until_it_listens(port: int) -> None:
    """Wait for a server that does not say so."""

    def listens() -> bool:
        with socket.socket() as trying:
            return trying.connect_ex(("127.0.0.1", port)) == 0

    until(listens, "the server listens")


def timed(started: Program) -> tuple[int, float]:
    """The exit code, and the seconds until it came."""
    began = time.monotonic()
    return started.end(), time.monotonic() - began


class TestServer:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_it_in_order(self, program: StartProgram, number: int) -> None:
        server = program("main_server.py", "--port", "0")
        raw = Raw(server.port, "a")
        server.process.send_signal(number)
        assert raw.file.readlines() == [b"* server is shutting down\r\n"]
        raw.socket.close()
        raw.file.close()
        assert server.end() == 0
        assert "Traceback" not in server.errors()

    def test_a_second_signal_ends_it_at_once(self, program: StartProgram) -> None:
        server = program("main_server.py", "--port", "0", "--no-notices")
        sender, stalled = Raw(server.port, "s"), Raw(server.port, "stalled")
        for _ in range(10):
            sender.file.write((b"x" * 1000 + b"\n") * 700)
            sender.names()
        server.process.send_signal(signal.SIGTERM)
        while "* server is shutting down" not in sender.line():
            pass
        server.process.send_signal(signal.SIGTERM)
        status, seconds = timed(server)
        assert (status, seconds < HALF_A_SECOND) == (1, True)
        assert "Traceback" not in server.errors()
        for raw in (sender, stalled):
            raw.file.close()
            raw.socket.close()

    def test_a_port_in_use_takes_one_line(self, program: StartProgram, port: int) -> None:
        server = program("main_server.py", "--port", str(port))
        assert server.end() == 1
        assert server.errors() == f"broadcast: can't listen on 127.0.0.1:{port}: Address already in use\n"

    def test_a_bad_host_takes_one_line(self, program: StartProgram) -> None:
        server = program("main_server.py", "--host", "nowhere.invalid")
        assert server.end() == 1
        assert re.fullmatch(r"broadcast: can't listen on nowhere\.invalid:8888: [^\n]+\n", server.errors())

    @pytest.mark.skipif(os.geteuid() == 0 or sys.platform != "linux", reason="root may take any port")
    def test_a_privileged_port_takes_one_line(self, program: StartProgram) -> None:
        server = program("main_server.py", "--port", "80")
        assert server.end() == 1
        assert server.errors() == "broadcast: can't listen on 127.0.0.1:80: Permission denied\n"

    @pytest.mark.parametrize(
        "arguments",
        [["--port", "65536"], ["--port", "x"], ["--timeout", "0"], ["--timeout", "nan"], ["--backlog", "0"], ["--grace", "-1"], ["x"]],
    )
    def test_bad_arguments(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as end:
            main_server(arguments)
        assert end.value.code == 2
        assert "error: " in capsys.readouterr().err

    def test_the_log_level_comes_from_the_environment_too(self, program: StartProgram) -> None:
        bad = program("main_server.py", env=os.environ | {"LOG_LEVEL": "foo"})
        assert bad.end() == 2
        assert "must be one of DEBUG, INFO" in bad.errors()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        quiet = program("main_server.py", "--port", str(port), env=os.environ | {"LOG_LEVEL": "warning"})
        until_it_listens(port)
        quiet.process.terminate()
        assert (quiet.end(), quiet.errors()) == (0, "")

    def test_runs_with_all_streams_closed(self, port: int) -> None:
        script = f"exec {sys.executable} {TOP}/main_server.py --port {port} <&- >&- 2>&-"
        assert subprocess.run(["sh", "-c", script], check=False, timeout=PATIENCE).returncode == 1

    def test_a_stop_times_nobody_out(self, program: StartProgram) -> None:
        """SIGSTOP for longer than the timeout: live clients, and one in its handshake, are still there after SIGCONT."""
        server = program("main_server.py", "--port", "0", "--timeout", "1", "--no-notices")
        port = server.port
        raws = [Raw(port, f"r{number}") for number in range(20)]
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
            raw.file.close()
            raw.socket.close()
        halfway.close()

    def test_a_signal_asks_for_numbers(self, program: StartProgram) -> None:
        server = program("main_server.py", "--port", "0")
        raw = Raw(server.port, "a")
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
        raw.file.close()
        raw.socket.close()

    @pytest.mark.parametrize("stderr", ["full disk", "closed", "stuck"])
    def test_a_log_that_cannot_be_written_stops_and_slows_nobody(self, program: StartProgram, stderr: str) -> None:
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

    def test_a_tls_client_that_vanishes_amid_its_answers_is_logged_once(self, program: StartProgram) -> None:
        certificate = str(TOP / "tests/certificate.pem")
        server = program("main_server.py", "--port", "0", "--tls-cert", certificate)
        context = ssl.create_default_context(cafile=certificate)
        with context.wrap_socket(socket.create_connection(("127.0.0.1", server.port)), server_hostname="localhost") as secret:
            secret.sendall(b"CONNECT a\n" + b"\\help\n" * 30_000)
            connected = socket.socket(fileno=secret.detach())
        assert " a in from " in server.error_line()
        connected.close()
        assert " a out: connection lost" in server.error_line()
        server.process.terminate()
        assert "stopping" in server.error_line()
        assert server.errors() == ""
        assert server.end() == 0

    def test_more_clients_than_the_system_allows_are_refused_at_the_start(self, program: StartProgram) -> None:
        server = program("main_server.py", "--max-clients", "100000000")
        assert server.end() == 2
        assert "--max-clients: the system's limit on open files allows" in server.errors()

    @pytest.mark.parametrize(
        ("open_files", "clients"), [(80, "1 client"), (90, "4 clients"), (100, "12 clients")]
    )
    def test_a_low_limit_on_open_files_is_told_at_the_start(
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
    def test_an_ordinary_limit_or_one_asked_for_is_not(
        self, program: StartProgram, open_files: int, arguments: list[str]
    ) -> None:
        assert program(limited(open_files), "--port", "0", *arguments).port

    def test_token_and_tls(self, program: StartProgram, tmp_path: Path) -> None:
        certificate, secret, wrong = str(TOP / "tests/certificate.pem"), tmp_path / "token", tmp_path / "wrong"
        secret.write_text("\ufeffgeheim\n")  # some editors begin a file with this mark
        secret.chmod(0o600)
        wrong.write_text("falsch\n")
        server = program("main_server.py", "--port", "0", "--tls-cert", certificate, "--token-file", str(secret))
        to = ["--port", str(server.port), "--tls", "--tls-ca", certificate]
        listener = program("main_client.py", *to, "--user", "listener", "--listen", env=os.environ | {"BROADCAST_TOKEN": "geheim"})
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

    @pytest.mark.parametrize("content", ["", "\n", "\ufeff\n", "two words"])
    def test_a_token_file_without_one_word_is_refused(
        self, program: StartProgram, tmp_path: Path, content: str
    ) -> None:
        file = tmp_path / "token"
        file.write_text(content)
        file.chmod(0o600)
        server = program("main_server.py", "--port", "0", "--token-file", str(file))
        assert server.end() == 2
        expected = "the token has to be one word" if content == "two words" else "the token is empty"
        assert expected in server.errors()

    @pytest.mark.parametrize(
        ("main", "arguments"),
        [
            (main_server, ["--tls-cert", "/nowhere"]),
            (main_server, ["--tls-key", "/nowhere"]),
            (main_server, ["--token-file", "/nowhere"]),
            (main_client, ["--tls", "--tls-ca", "/nowhere"]),
            (main_client, ["--tls-ca", "/nowhere"]),
            (main_client, ["--token-file", "/dev/null"]),
        ],
    )
    def test_files_that_cannot_be_used(
        self, main: Callable[[list[str]], int], arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2
        assert "error: " in capsys.readouterr().err


    @pytest.mark.parametrize("content", [b"\xef\xbb\xbfgeheim\r\n", b"geheim", b" geheim\n\n"])
    def test_token_file_may_be_as_any_editor_leaves_it(
        self, program: StartProgram, tmp_path: Path, content: bytes
    ) -> None:
        secret = tmp_path / "token"
        secret.write_bytes(content)
        secret.chmod(0o600)
        server = program("main_server.py", "--port", "0", "--token-file", str(secret))
        environment = os.environ | {"BROADCAST_TOKEN": "geheim"}
        by_name = program(
            "main_client.py", "--port", str(server.port), stdin=subprocess.DEVNULL, env=environment
        )
        by_file = program(
            "main_client.py",
            "--port",
            str(server.port),
            "--token-file",
            str(secret),
            stdin=subprocess.DEVNULL,
        )
        assert (by_name.end(), by_file.end()) == (0, 0)


@pytest.mark.parametrize("name", ["main_server.py", "main_client.py"])
class TestBoth:
    @pytest.mark.parametrize("content", ["", "\ufeff", " \n"])
    def test_empty_token_is_refused(
        self, program: StartProgram, tmp_path: Path, name: str, content: str
    ) -> None:
        secret = tmp_path / "token"
        secret.write_text(content, encoding="utf-8")
        secret.chmod(0o600)
        started = program(
            name, "--port", "0" if "server" in name else "1", "--token-file", str(secret)
        )
        assert started.end() == 2
        assert started.errors().endswith(f"error: the token is empty: put one in {secret}\n")

    def test_empty_token_of_the_environment_is_refused(
        self, program: StartProgram, name: str
    ) -> None:
        environment = os.environ | {"BROADCAST_TOKEN": ""}
        started = program(name, "--port", "0" if "server" in name else "1", env=environment)
        assert started.end() == 2
        assert started.errors().endswith("error: the token is empty: put one in BROADCAST_TOKEN\n")

    def test_version(self, program: StartProgram, name: str) -> None:
        started = program(name, "--version")
        assert started.output_line() == f"broadcast {__version__}"
        assert started.end() == 0

    def test_help(self, program: StartProgram, name: str) -> None:
        started = program(name, "--help")
        assert started.output_line().startswith(f"usage: {name}")
        assert started.process.stdout and b"--port" in started.process.stdout.read()
        assert started.end() == 0

    @pytest.mark.parametrize("module", ["signal", "asyncio.events", "ssl", "broadcast.protocol"])
    def test_ctrl_c_while_it_starts_prints_no_traceback(self, program: StartProgram, name: str, module: str) -> None:
        started = program(name, "--port", "0" if "server" in name else "1", env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1"})
        while not (line := started.error_line()).endswith(f" {module}"):
            assert line
        started.process.send_signal(signal.SIGINT)
        started.end()
        assert "Traceback" not in started.errors()

    def test_ctrl_c_that_python_swallows_ends_it_all_the_same(self, program: StartProgram, name: str) -> None:
        """As in a callback of the import system, where nothing can be raised."""
        started = program(SWALLOWING.format(name), "--port", "0", cwd=TOP)
        assert started.end() == -signal.SIGINT
        assert started.errors() == ""


class Impostor:
    """A server of the test's own that one client is in."""

    def __init__(self) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = str(self.listening.getsockname()[1])

    def accept(self) -> None:
        self.listening.settimeout(PATIENCE)
        self.connection, _ = self.listening.accept()
        self.connection.settimeout(PATIENCE)
        self.file = self.connection.makefile("rb")
        assert self.line().startswith("CONNECT ")

    def let_in(self) -> None:
        self.accept()
        self.send("SUCCESS")

    def send(self, *lines: str) -> None:
        self.connection.sendall("".join(f"{line}\r\n" for line in lines).encode())

    def line(self) -> str:
        return self.file.readline().decode().rstrip("\r\n")

    def hang_up(self) -> None:
        self.file.close()
        self.connection.close()

    def close(self) -> None:
        if hasattr(self, "connection"):
            self.hang_up()
        self.listening.close()


@pytest.fixture
def impostor() -> Iterator[Impostor]:
    impostor = Impostor()
    yield impostor
    impostor.close()


@pytest.fixture
def full_pipe() -> Iterator[int]:
    """The end to write to of a pipe that nobody reads and that takes nothing more."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    yield writing
    os.close(reading)
    os.close(writing)


class TestClientInAPipeline:
    def test_what_is_piped_in_reaches_the_others_every_time(self, program: StartProgram, port: int, watcher: Raw) -> None:
        for number in range(5):
            client = program("main_client.py", "--port", str(port), "--user", f"bot{number}")
            client.process.communicate(b"a\nb", timeout=PATIENCE)
            assert client.process.returncode == 0
            assert [watcher.line(), watcher.line()] == [f"bot{number}: a", f"bot{number}: b"]

    def test_what_arrives_goes_to_stdout_at_once_and_only_that(self, program: StartProgram, port: int, watcher: Raw) -> None:
        client = program("main_client.py", "--port", str(port), "--user", "bot")
        watcher.wait_for("bot")
        for text in ("one", "two"):
            watcher.send(text)
            assert client.output_line() == f"watcher: {text}"
        client.type("\\exit\n")
        assert client.end() == 0
        assert client.process.stdout and client.process.stdout.read() == b""
        assert client.errors() == ""

    def test_exit_in_the_input_leaves_and_the_rest_is_not_sent(self, program: StartProgram, port: int, watcher: Raw) -> None:
        client = program("main_client.py", "--port", str(port), "--user", "bot")
        client.type("one\n\\\\EXIT now\ntwo\n")
        assert client.end() == 0
        assert watcher.line() == "bot: one"
        assert watcher.names() == ["watcher"]

    @pytest.mark.parametrize("stdin", ["/dev/null", "file", "closed"])
    def test_every_end_of_input_leaves(self, program: StartProgram, port: int, watcher: Raw, stdin: str) -> None:
        command = f"exec {sys.executable} {TOP}/main_client.py --port {port} --user bot"
        source = {"/dev/null": "</dev/null", "file": f"<{TOP}/LICENSE", "closed": "<&-"}[stdin]
        began = time.monotonic()
        done = subprocess.run(["sh", "-c", f"{command} {source}"], check=False, capture_output=True, timeout=PATIENCE)
        assert (done.returncode, done.stderr) == (0, b"")
        assert time.monotonic() - began < 2
        if stdin == "file":
            assert watcher.line() == "bot: MIT License"

    @pytest.mark.parametrize("arguments", [[], ["--listen"]])
    @pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_a_signal_ends_it_within_half_a_second(
        self, program: StartProgram, port: int, watcher: Raw, arguments: list[str], number: int, expected: int
    ) -> None:
        client = program("main_client.py", "--port", str(port), "--user", "bot", *arguments)
        watcher.wait_for("bot")
        client.process.send_signal(number)
        status, seconds = timed(client)
        assert (status, seconds < HALF_A_SECOND, client.errors()) == (expected, True, "")

    def test_a_server_that_is_gone_ends_it_within_half_a_second_whatever_stdin_is(self, program: StartProgram) -> None:
        server = program("main_server.py", "--port", "0", "--no-notices")
        to = ["--port", str(server.port)]
        clients = [program("main_client.py", *to, "--user", "pipe"), program("main_client.py", *to, "--user", "listener", "--listen")]
        for _ in clients:
            assert " in from " in server.error_line()
        server.process.kill()
        for client in clients:
            status, seconds = timed(client)
            assert (status, seconds < HALF_A_SECOND) == (1, True), seconds
            assert re.fullmatch(r"broadcast: [^\n]+\n", client.errors())

    def test_listen_does_not_read_stdin(self, program: StartProgram, port: int, watcher: Raw) -> None:
        client = program("main_client.py", "--port", str(port), "--user", "bot", "--listen", stdin=subprocess.DEVNULL)
        watcher.wait_for("bot")
        watcher.send("hello")
        assert client.output_line() == "watcher: hello"
        assert client.process.poll() is None

    @pytest.mark.parametrize("arguments", [[], ["--listen"]])
    def test_a_reader_that_goes_away_ends_it_quietly(self, program: StartProgram, port: int, watcher: Raw, arguments: list[str]) -> None:
        client = program("main_client.py", "--port", str(port), "--user", "bot", *arguments)
        watcher.wait_for("bot")
        watcher.send("hello")
        assert client.output_line() == "watcher: hello"
        assert client.process.stdout
        client.process.stdout.close()
        status, seconds = timed(client)
        assert (status, seconds < HALF_A_SECOND, client.errors()) == (0, True, "")

    @pytest.mark.parametrize("arguments", [[], ["--listen"]])
    def test_reader_that_goes_away_while_it_leaves_is_no_error(
        self, program: StartProgram, impostor: Impostor, arguments: list[str]
    ) -> None:
        """As on Ctrl-C, which all programs of a pipeline get."""
        client = program("main_client.py", "--port", impostor.port, *arguments)
        impostor.let_in()
        impostor.send("eve: hello")
        assert client.output_line() == "eve: hello"
        client.process.send_signal(signal.SIGINT)
        assert impostor.line() == "\\exit"
        assert client.process.stdout
        client.process.stdout.close()
        assert (client.end(), client.errors()) == (130, "")

    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
    def test_a_full_pipe_that_nobody_reads_does_not_keep_it(self, program: StartProgram, port: int, watcher: Raw, how: int) -> None:
        client = program("main_client.py", "--port", str(port), "--user", "bot")
        watcher.wait_for("bot")
        for _ in range(100):
            watcher.send("x" * 10_000)
        watcher.names()
        time.sleep(0.2)
        client.process.send_signal(how)
        status, seconds = timed(client)
        assert (status, seconds < HALF_A_SECOND) == (128 + how, True), seconds

    @pytest.mark.parametrize("arguments", [[], ["--listen"]])
    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
    def test_full_stderr_keeps_it_from_nothing(
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

    def test_full_stderr_does_not_keep_an_error_from_ending_it(
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

    def test_full_stderr_does_not_keep_it_from_reconnecting(
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

    def test_write_that_blocks_does_not_keep_it(
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

    def test_a_full_disk_is_told_in_a_line(self, program: StartProgram, port: int, watcher: Raw) -> None:
        with Path("/dev/full").open("wb") as full:
            client = program("main_client.py", "--port", str(port), "--user", "bot", stdout=full)
        watcher.wait_for("bot")
        watcher.send("hello")
        assert client.end() == 1
        assert client.errors() == "broadcast: can't write what arrives: No space left on device\n"

    def test_stdout_holds_messages_alone(self, program: StartProgram) -> None:
        port = program("main_server.py", "--port", "0").port
        watcher = Raw(port, "watcher")
        client = program("main_client.py", "--port", str(port), "--user", "bot")
        assert watcher.line() == "* bot joined"
        client.type("\\foo\n\\clients\n")
        assert client.error_line().startswith("broadcast: ERROR unknown command \\foo")
        assert client.error_line() == "broadcast: * 2 clients"
        watcher.send("hello")
        assert client.output_line() == "watcher: hello"
        watcher.file.close()
        watcher.socket.close()

    def test_json_has_an_object_for_whatever_arrives(self, program: StartProgram, port: int, watcher: Raw) -> None:
        client = program("main_client.py", "--port", str(port), "--user", "bot", "--json")
        watcher.wait_for("bot")
        watcher.send('héllo "x"')
        objects = [json.loads(client.output_line())]
        client.type("\\foo\n\\clients\n")
        objects += [json.loads(client.output_line()) for _ in range(2)]
        assert [(item["type"], item["sender"]) for item in objects] == [("message", "watcher"), ("error", None), ("notice", None)]
        assert objects[0]["text"] == 'héllo "x"'
        assert all(datetime.datetime.fromisoformat(item["time"]).tzinfo for item in objects)

    def test_text_sends_commands_as_text(self, program: StartProgram, port: int, watcher: Raw) -> None:
        client = program("main_client.py", "--port", str(port), "--user", "bot", "--text")
        client.process.communicate(b"one\n\\exit\n\\\\ping\nC:\\x\nlast", timeout=PATIENCE)
        assert client.process.returncode == 0
        assert [watcher.line() for _ in range(5)] == ["bot: one", "bot:  \\exit", "bot:  \\\\ping", "bot: C:\\x", "bot: last"]

    def test_reconnects_and_sends_each_line_once(self, program: StartProgram) -> None:
        server = program("main_server.py", "--port", "0", "--no-notices")
        port = server.port
        client = program(IMPATIENT, "--port", str(port), "--user", "bot", "--reconnect", cwd=TOP)
        watcher = Raw(port, "watcher")
        client.type("before\n")
        assert watcher.line() == "bot: before"
        server.process.kill()
        server.end()
        assert re.fullmatch(r"broadcast: .*127\.0\.0\.1:\d+.*; trying until it is there again", client.error_line())
        client.type("meanwhile\n")
        again = program("main_server.py", "--port", str(port), "--no-notices")
        assert again.port == port
        late = Raw(port, "late")
        assert client.error_line() == "broadcast: connected again"
        client.type("after\n")
        lines = [late.line()]
        while lines[-1] != "bot: after":
            lines.append(late.line())
        assert lines in (["bot: meanwhile", "bot: after"], ["bot: after"]), "the first if we were there in time, and nothing twice"
        client.process.stdin.close() if client.process.stdin else None
        assert client.end() == 0
        for raw in (watcher, late):
            raw.file.close()
            raw.socket.close()

    def test_a_listener_prints_after_every_reconnection(self, program: StartProgram) -> None:
        server = program("main_server.py", "--port", "0", "--no-notices")
        port = server.port
        client = program(IMPATIENT, "--port", str(port), "--user", "ear", "--listen", "--reconnect", cwd=TOP)
        for again in (True, True, False):
            mouth = Raw(port, "mouth")
            mouth.wait_for("ear")
            mouth.send("hello")
            assert client.output_line() == "mouth: hello"
            mouth.file.close()
            mouth.socket.close()
            if again:
                server.process.kill()
                server.end()
                server = program("main_server.py", "--port", str(port), "--no-notices")
                assert server.port == port

    def test_ctrl_c_gives_up_reconnecting(self, program: StartProgram) -> None:
        client = program("main_client.py", "--port", "1", "--reconnect")
        assert "trying until it is there again" in client.error_line()
        client.process.send_signal(signal.SIGINT)
        status, seconds = timed(client)
        assert (status, seconds < HALF_A_SECOND) == (130, True)

    def test_a_closed_stdout_takes_everything(self, port: int, watcher: Raw) -> None:
        script = f"printf 'a\\n' | {sys.executable} {TOP}/main_client.py --port {port} --user bot >&-"
        assert subprocess.run(["sh", "-c", script], check=False, timeout=PATIENCE).returncode == 0
        assert watcher.line() == "bot: a"

    def test_a_line_too_long_is_told_and_the_others_are_sent(self, program: StartProgram, port: int, watcher: Raw) -> None:
        client = program("main_client.py", "--port", str(port), "--user", "bot")
        _, errors = client.process.communicate(b"before\n" + b"x" * 100_000 + b"\nafter\n", timeout=PATIENCE)
        assert errors == b"broadcast: a line of more than 65536 bytes was not sent\n"
        assert [watcher.line(), watcher.line()] == ["bot: before", "bot: after"]


class TestClientThatFails:
    def test_cannot_reach(self, program: StartProgram) -> None:
        client = program("main_client.py", "--port", "1")
        assert (client.end(), client.errors()) == (1, "broadcast: can't reach 127.0.0.1:1: Connection refused\n")

    def test_bad_user_is_refused_before_connecting(self, program: StartProgram) -> None:
        client = program("main_client.py", "--port", "1", "--user", "a:b")
        assert client.end() == 2
        assert "bad username: it has a colon in it" in client.errors()

    def test_refused(self, program: StartProgram) -> None:
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
    def test_endless_reason_is_cut(
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

    def test_a_server_that_does_not_close_after_exit_is_quit_requested(self, program: StartProgram) -> None:
        assert LEAVE_TIME == 10
        with socket.create_server(("127.0.0.1", 0)) as listening:
            client = program(CLIENT.format("c.LEAVE_TIME", 0.3), "--port", str(listening.getsockname()[1]), stdin=subprocess.DEVNULL, cwd=TOP)
            with listening.accept()[0] as connection:
                connection.sendall(b"SUCCESS\r\n")
                assert client.end() == 1
        assert re.fullmatch(r"broadcast: \S+ has not ended the connection within 0\.3 s of \\exit\n", client.errors())

    def test_server_that_floods_after_exit_is_quit_requested(
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

    def test_slow_reader_of_its_output_gets_all_that_is_owed_after_exit(
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

    def test_a_server_that_ends_for_its_own_reasons(self, program: StartProgram) -> None:
        server = program("main_server.py", "--port", "0", "--timeout", "0.5")
        client = program("main_client.py", "--port", str(server.port))
        assert client.end() == 1
        assert re.fullmatch(r"broadcast: \S+ closed the connection: timed out: nothing heard for 0\.5 s\n", client.errors())

    def test_a_server_that_shuts_down(self, program: StartProgram) -> None:
        server = program("main_server.py", "--port", "0")
        client = program("main_client.py", "--port", str(server.port))
        server.error_line()
        server.process.terminate()
        assert client.end() == 1
        assert re.fullmatch(r"broadcast: \S+ closed the connection: server is shutting down\n", client.errors())

    def test_control_characters_of_a_server_do_not_reach_the_output(self, program: StartProgram) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            client = program("main_client.py", "--port", str(listening.getsockname()[1]))
            with listening.accept()[0] as connection:
                connection.sendall(b"SUCCESS\r\neve: \x1b[2J\x07\x9b\r\n")
                assert client.output_line() == "eve: \ufffd[2J\ufffd\ufffd"


def control() -> None:
    """Make stdin, in a process that has just begun, the terminal that sends it signals."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


class Terminal:
    """A client on a pseudo-terminal."""

    def __init__(self, program: StartProgram, *arguments: str, name: str = "main_client.py") -> None:
        self.master, slave = pty.openpty()
        streams = {"stdin": slave, "stdout": slave, "stderr": slave}
        self.client = program(name, *arguments, start_new_session=True, preexec_fn=control, cwd=TOP, **streams)
        os.close(slave)
        self.seen = ""

    def see(self, text: str) -> None:
        """Wait until the screen has been sent this."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], deadline - time.monotonic())
            assert ready, self.seen
            self.seen += os.read(self.master, 65_536).decode(errors="replace")

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def close(self) -> None:
        os.close(self.master)


class TestClientInATerminal:
    @pytest.fixture
    def terminal(self, program: StartProgram, port: int, watcher: Raw) -> Iterator[Terminal]:
        terminal = Terminal(program, "--port", str(port), "--user", "Attila")
        watcher.wait_for("Attila")
        yield terminal
        terminal.close()

    def test_lines_in_lines_out(self, terminal: Terminal, watcher: Raw) -> None:
        terminal.type("hello\r")
        assert watcher.line() == "Attila: hello"
        watcher.send("hi")
        terminal.see("watcher\x1b[0m: hi")

    def test_a_terminal_that_takes_nothing_does_not_keep_it(self, terminal: Terminal, watcher: Raw) -> None:
        for _ in range(400):
            watcher.send("x" * 1000)
        watcher.names()
        time.sleep(0.3)
        terminal.client.process.terminate()
        ended, seconds = timed(terminal.client)
        assert (ended, seconds < HALF_A_SECOND) == (143, True)

    @pytest.mark.parametrize(
        ("end", "expected"), [("\x03", 130), ("\x04", 0), ("\\exit\r", 0), ("SIGTERM", 143), ("SIGINT", 130), ("server gone", 1)]
    )
    def test_however_it_ends_it_does_at_once_and_the_terminal_is_as_it_was(self, program: StartProgram, end: str, expected: int) -> None:
        server = program("main_server.py", "--port", "0")
        terminal = Terminal(program, "--port", str(server.port), "--user", "Attila")
        before = termios.tcgetattr(terminal.master)
        terminal.see("Attila> ")
        terminal.type("half")
        terminal.see("half")
        assert not termios.tcgetattr(terminal.master)[3] & termios.ECHO
        terminal.type("\x15")
        if end == "server gone":
            server.process.kill()
        elif end.startswith("SIG"):
            terminal.client.process.send_signal(getattr(signal, end))
        else:
            terminal.type(end)
        status, seconds = timed(terminal.client)
        assert (status, seconds < HALF_A_SECOND) == (expected, True)
        terminal.see("\x1b[?2004l")
        assert termios.tcgetattr(terminal.master) == before
        terminal.close()

    def test_twenty_lines_pasted_are_twenty_messages_in_order(self, terminal: Terminal, watcher: Raw) -> None:
        terminal.type("".join(f"line {number}\r" for number in range(20)))
        assert [watcher.line() for _ in range(20)] == [f"Attila: line {number}" for number in range(20)]
        terminal.type("\x1b[200~" + "".join(f"marked {number}\n" for number in range(20)) + "\x1b[201~")
        assert [watcher.line() for _ in range(20)] == [f"Attila: marked {number}" for number in range(20)]

    def test_what_names_us_rings_once_unless_quiet(self, program: StartProgram, port: int, watcher: Raw) -> None:
        for arguments, bells in (([], 1), (["--quiet"], 0)):
            terminal = Terminal(program, "--port", str(port), "--user", "Eve", *arguments)
            watcher.wait_for("Eve")
            watcher.send("hey EVE, eve")
            terminal.see("hey EVE")
            watcher.send("done")
            terminal.see("done")
            assert terminal.seen.count("\a") == bells
            terminal.type("\x03")
            assert terminal.client.end() == 130
            terminal.close()

    def test_no_colour_where_it_is_not_wanted(
        self, program: StartProgram, port: int, watcher: Raw, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for variable, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
            with monkeypatch.context() as environment:
                environment.setenv(variable, value)
                terminal = Terminal(program, "--port", str(port), "--user", "Eve")
            watcher.wait_for("Eve")
            watcher.send("hello")
            terminal.see("watcher: hello")
            assert "m" not in re.findall(r"\x1b\[[0-9;]*(\w)", terminal.seen)
            assert (variable == "TERM") == ("\x1b" not in terminal.seen)
            terminal.client.process.terminate()
            terminal.client.end()
            terminal.close()

    def test_tab_completes_names_and_commands_and_help_tells_the_keys(self, terminal: Terminal, watcher: Raw) -> None:
        watcher.send("hello")
        terminal.see("hello")
        terminal.type("hi wat\t!\r")
        assert watcher.line() == "Attila: hi watcher!"
        terminal.type("\\he\t\r")
        terminal.see("Ctrl-Z suspends")
        terminal.see("\\clients: who is here")

    @pytest.mark.parametrize("line", ["{}: hello", "* {} joined"])
    def test_tab_remembers_no_name_that_is_too_long(
        self, program: StartProgram, impostor: Impostor, line: str
    ) -> None:
        terminal = Terminal(program, "--port", impostor.port)
        impostor.let_in()
        names = ["a" * 43, "b" * 44, "c" * 100_000, "d" + "\ufdfa" * 42]
        impostor.send(*map(line.format, names), "eve: done")
        terminal.see("eve\x1b[0m: done")
        terminal.type("aaa\t\rbbb\t\rccc\t\rd\t\r")
        assert [impostor.line() for _ in names] == [names[0], "bbb", "ccc", "d"]
        terminal.close()

    def test_long_text_of_combining_marks_holds_up_no_key(
        self, program: StartProgram, impostor: Impostor
    ) -> None:
        marks = "\u0315\u0301\u0323" * 10_000
        terminal = Terminal(program, "--port", impostor.port)
        impostor.let_in()
        terminal.see("anonymous> ")
        impostor.send(*[f"eve: {marks}"] * 5)
        began = time.monotonic()
        terminal.type("\x03")
        assert terminal.client.end() == 130
        assert time.monotonic() - began < 2 * HALF_A_SECOND
        terminal.close()

    def test_lines_entered_while_the_server_is_away_are_sent_after(self, program: StartProgram) -> None:
        server = program("main_server.py", "--port", "0", "--no-notices")
        port = server.port
        terminal = Terminal(program, "--port", str(port), "--user", "Attila", "--reconnect", name=IMPATIENT)
        terminal.see("Attila> ")
        server.process.kill()
        server.end()
        terminal.see(f"127.0.0.1:{port}")
        terminal.type("kept\r")
        again = program("main_server.py", "--port", str(port), "--no-notices", "--log-level", "DEBUG")
        assert again.port == port
        watcher = Raw(port, "watcher")
        terminal.type("next\r")
        seen = [watcher.line()]
        while seen[-1] != "Attila: next":
            seen.append(watcher.line())
        assert seen in (["Attila: kept", "Attila: next"], ["Attila: next"])
        terminal.type("\x04")
        assert terminal.client.end() == 0
        terminal.close()
        watcher.file.close()
        watcher.socket.close()


class TestOneCommandForBoth:
    def run(self, program: StartProgram, start: list[str], connect: list[str]) -> None:
        server = program(*start, "--port", "0", "--no-notices", cwd=TOP)
        watcher = Raw(server.port, "watcher")
        client = program(*connect, "--port", str(server.port), "--user", "bot", cwd=TOP)
        client.process.communicate(b"hello", timeout=PATIENCE)
        assert client.process.returncode == 0
        assert watcher.line() == "bot: hello"
        server.process.terminate()
        assert watcher.line() == "* server is shutting down"
        watcher.file.close()
        watcher.socket.close()
        assert server.end() == 0

    def test_as_a_module(self, program: StartProgram) -> None:
        run = "import runpy; runpy.run_module('broadcast', run_name='__main__')"
        self.run(program, [run, "start"], [run, "connect"])

    def test_as_one_file(self, program: StartProgram, tmp_path: Path) -> None:
        """By the line in the README."""
        (line,) = re.findall(r"^python3 (-c .*zipapp.*)$", (TOP / "README.md").read_text(), re.MULTILINE)
        subprocess.run([sys.executable, *shlex.split(line)], cwd=TOP, check=True)
        archive = (TOP / "broadcast.pyz").rename(tmp_path / "broadcast.pyz")
        names = zipfile.ZipFile(archive).namelist()
        assert "broadcast/cli/main.py" in names and all(name == "__main__.py" or name.startswith("broadcast/") for name in names)
        run = f"import sys, runpy; sys.argv[0] = {str(archive)!r}; runpy.run_path({str(archive)!r}, run_name='__main__')"
        self.run(program, [run, "start"], [run, "connect"])

    @pytest.mark.parametrize("arguments", [[], ["stop"], ["start", "--nonsense"], ["connect", "--user", "a:b"]])
    def test_bad_arguments(self, program: StartProgram, arguments: list[str]) -> None:
        run = program("import runpy; runpy.run_module('broadcast', run_name='__main__')", *arguments, cwd=TOP)
        assert run.end() == 2
        assert run.errors().startswith("usage: broadcast-server")


@pytest.mark.parametrize("missing", ["termios", "resource", "fcntl", "poll", "signal handlers"])
def test_starts_talks_and_stops_without(program: StartProgram, missing: str) -> None:
    """What only some systems have, taken away."""
    if missing == "signal handlers":
        take_away = "import asyncio\ndef no(*_): raise NotImplementedError\nasyncio.SelectorEventLoop.add_signal_handler = no\n"
    elif missing == "poll":
        take_away = "import select\ndel select.poll\n"
    else:
        take_away = f"import sys; sys.modules[{missing!r}] = None\n"
    run = take_away + "import sys, broadcast.cli\nsys.exit(getattr(broadcast.cli, sys.argv.pop(1))())"
    server = program(run, "main_server", "--port", "0", "--no-notices", cwd=TOP)
    port = server.port
    watcher = Raw(port, "watcher")
    client = program(run, "main_client", "--port", str(port), "--user", "bot", cwd=TOP)
    client.type("hello\n")
    assert watcher.line() == "bot: hello"
    watcher.send("hi")
    assert client.output_line() == "watcher: hi"
    client.process.send_signal(signal.SIGINT)
    status, seconds = timed(client)
    assert (status, seconds < 1) == (130, True)
    master, slave = pty.openpty()
    in_terminal = program(run, "main_client", "--port", str(port), "--user", "sitter", cwd=TOP, stdin=slave, stdout=slave)
    os.close(slave)
    watcher.wait_for("sitter")
    os.write(master, b"from a terminal\r")
    assert watcher.line() == "sitter: from a terminal"
    os.write(master, b"\\exit\r")
    assert in_terminal.end() == 0
    os.close(master)
    server.process.send_signal(signal.SIGTERM)
    assert watcher.line() == "* server is shutting down"
    watcher.file.close()
    watcher.socket.close()
    assert server.end() == 0
    assert "Traceback" not in server.errors()
