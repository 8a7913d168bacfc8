"""The arguments of a server in a cluster, and what it says when it can't be in one."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import socket
import socketserver
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_helpers import FAST, MakeRedis, RedisServer, free_port
from helpers import TOP, StartProgram

README = (TOP / "README.md").read_text()


def refuse(program: StartProgram, url: str, name: str = "main_server.py") -> str:
    """Start a server that must end at once, and return its one line."""
    server = program(name, "--port", "0", "--cluster", url, cwd=TOP)
    assert server.wait_exit() == 1
    errors = server.errors()
    assert re.fullmatch(r"[^\n]+\n", errors), errors
    return errors


@pytest.fixture
def old_redis() -> Iterator[int]:
    """A Redis that is too old: its port."""
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=play_old_redis, args=(listening,))
    thread.start()
    yield listening.getsockname()[1]
    listening.shutdown(socket.SHUT_RDWR)
    thread.join()
    listening.close()


def play_old_redis(listening: socket.socket) -> None:
    """Answer as Redis 5 does, one connection after the other."""
    version = b"# Server\r\nredis_version:5.0.7\r\n"
    while True:
        try:
            connected, _ = listening.accept()
        except OSError:  # the test has ended
            return
        with (
            contextlib.suppress(ConnectionResetError),  # once the server has its answer
            connected,
            connected.makefile("rwb") as file,
        ):
            while header := file.readline():
                words = [file.read(int(file.readline()[1:]) + 2) for _ in range(int(header[1:]))]
                answer = b"-ERR unknown command\r\n"
                match words[0].strip().upper():
                    case b"INFO":
                        answer = b"$%d\r\n%b\r\n" % (len(version), version)
                    case b"PING" | b"SELECT" | b"AUTH" | b"CLIENT":
                        answer = b"+OK\r\n"
                file.write(answer)
                file.flush()


class TestNoCluster:
    @pytest.mark.parametrize(
        "url",
        [
            "localhost:6379",
            "http://localhost",
            "redis://",
            "redis://localhost:none",
            "redis://localhost:70000",
            "redis://localhost/first",
            "redis://localhost/?ca=/nowhere",
            "rediss://localhost/?ca=/nowhere/ca.pem",
            "redis://user:secret@localhost:6379/0/1",
        ],
    )
    def test_bad_url_is_reported_in_one_line(self, program: StartProgram, url: str) -> None:
        assert "secret" not in refuse(program, url)

    def test_redis_that_is_not_there_is_reported_in_one_line(self, program: StartProgram) -> None:
        port = free_port()
        reported = refuse(program, f"redis://user:secret@127.0.0.1:{port}")
        assert f"127.0.0.1:{port}" in reported
        assert "refused" in reported
        assert "secret" not in reported

    def test_redis_that_does_not_answer_is_reported_in_one_line(
        self, program: StartProgram
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            refuse(program, f"redis://127.0.0.1:{silent.getsockname()[1]}", FAST)

    def test_redis_that_is_too_old_is_reported_in_one_line(
        self, program: StartProgram, old_redis: int
    ) -> None:
        reported = refuse(program, f"redis://127.0.0.1:{old_redis}")
        assert "5.0.7" in reported
        assert "6.2" in reported

    @pytest.mark.parametrize("password", ["", ":wrong-secret@", "nobody:wrong-secret@"])
    def test_wrong_password_is_reported_in_one_line(
        self, program: StartProgram, make_redis: MakeRedis, password: str
    ) -> None:
        redis = make_redis("--requirepass", "right-secret")
        reported = refuse(program, redis.url.replace("//", f"//{password}"))
        assert "secret" not in reported

    def test_replica_is_reported_in_one_line(
        self, program: StartProgram, redis: RedisServer
    ) -> None:
        redis.call("REPLICAOF", "127.0.0.1", "1")
        refuse(program, redis.url)

    def test_full_memory_is_reported_in_one_line(
        self, program: StartProgram, redis: RedisServer
    ) -> None:
        redis.call("CONFIG", "SET", "maxmemory", "1000")
        refuse(program, redis.url)

    def test_something_that_is_no_redis_is_reported_in_one_line(
        self, program: StartProgram, port: int
    ) -> None:
        refuse(program, f"redis://127.0.0.1:{port}")

    @pytest.mark.parametrize("answer", [b"+OK\r\n", b":1\r\n", b"*-1\r\n", b"*1\r\n" * 5_000])
    def test_peer_that_answers_something_else_is_reported_in_one_line(
        self, program: StartProgram, answer: bytes
    ) -> None:
        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(ConnectionResetError):
                    while self.request.recv(100_000):
                        self.request.sendall(answer)

        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as peer:
            threading.Thread(target=peer.serve_forever).start()
            try:
                refuse(program, f"redis://127.0.0.1:{peer.server_address[1]}")
            finally:
                peer.shutdown()

    def test_bad_room_is_a_usage_error(self, program: StartProgram, redis: RedisServer) -> None:
        for room in ("", "a}b", "white space"):
            server = program("main_server.py", "--cluster", redis.url, "--room", room)
            assert server.wait_exit() in (1, 2)
            assert server.errors().count("\n") == 1


class TestEnvironment:
    def test_url_may_come_from_the_environment(
        self, program: StartProgram, make_redis: MakeRedis
    ) -> None:
        redis = make_redis("--requirepass", "a:right/secret@100%")
        url = redis.url.replace("//", "//:a%3Aright%2Fsecret%40100%25@")
        server = program(
            "main_server.py",
            "--port",
            "0",
            "--log-level",
            "DEBUG",
            env=os.environ | {"BROADCAST_CLUSTER": url},
        )
        logged = ""
        while "attached to " not in logged:
            assert server.process.poll() is None
            logged += server.error_line() + "\n"
        assert "right" not in logged
        assert f"attached to 127.0.0.1:{redis.port} as server " in logged
        server.process.terminate()
        assert server.wait_exit() == 0


class TestPackaging:
    def test_single_file_has_the_scripts(
        self, program: StartProgram, redis: RedisServer, tmp_path: Path
    ) -> None:
        archive = tmp_path / "broadcast.pyz"
        line = next(line for line in README.splitlines() if "zipapp.create_archive" in line)
        line = line.replace("'../broadcast.pyz'", repr(str(archive)))
        subprocess.run([sys.executable, *shlex.split(line)[1:]], cwd=TOP, check=True)
        # From a directory of its own, so that nothing of the sources is found.
        run = f"import sys, runpy; runpy.run_path({str(archive)!r}, run_name='__main__')"
        server = program(run, "start", "--port", "0", "--cluster", redis.url, cwd=tmp_path)
        assert "attached to " in server.error_line()

    def test_wheel_has_the_scripts(self) -> None:
        settings = tomllib.loads((TOP / "pyproject.toml").read_text())
        patterns = settings["tool"]["setuptools"]["package-data"]["broadcast.cluster"]
        directory = TOP / "broadcast" / "cluster"
        packed = {path for pattern in patterns for path in directory.glob(pattern)}
        assert packed == set(directory.rglob("*.lua")) != set()
