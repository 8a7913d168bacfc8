"""The client program in a pipeline: lines in, lines out."""

from __future__ import annotations

import datetime
import json
import re
import signal
import socket
import subprocess
import time

import pytest
from helpers import (
    FAST_RECONNECT,
    HALF_A_SECOND,
    PATIENCE,
    TOP,
    FakeServer,
    RawClient,
    StartProgram,
)


class TestClientInPipeline:
    def test_piped_input_always_reaches_the_others(
        self, program: StartProgram, port: int, watcher: RawClient
    ) -> None:
        for number in range(5):
            client = program("main_client.py", "--port", str(port), "--user", f"bot{number}")
            client.process.communicate(b"a\nb", timeout=PATIENCE)
            assert client.process.returncode == 0
            assert [watcher.line(), watcher.line()] == [f"bot{number}: a", f"bot{number}: b"]

    def test_messages_and_nothing_else_go_to_stdout_immediately(
        self, program: StartProgram, port: int, watcher: RawClient
    ) -> None:
        client = program("main_client.py", "--port", str(port), "--user", "bot")
        watcher.wait_joined("bot")
        for text in ("one", "two"):
            watcher.send(text)
            assert client.output_line() == f"watcher: {text}"
        client.type("\\exit\n")
        assert client.wait_exit() == 0
        assert client.process.stdout and client.process.stdout.read() == b""
        assert client.errors() == ""

    def test_exit_in_the_input_leaves_and_the_rest_is_not_sent(
        self, program: StartProgram, port: int, watcher: RawClient
    ) -> None:
        client = program("main_client.py", "--port", str(port), "--user", "bot")
        client.type("one\n\\\\EXIT now\ntwo\n")
        assert client.wait_exit() == 0
        assert watcher.line() == "bot: one"
        assert watcher.names() == ["watcher"]

    @pytest.mark.parametrize("stdin", ["/dev/null", "file", "closed"])
    def test_client_leaves_at_every_kind_of_end_of_input(
        self, program: StartProgram, port: int, watcher: RawClient, stdin: str
    ) -> None:
        redirect = {"/dev/null": "</dev/null", "file": f"<{TOP}/LICENSE", "closed": "<&-"}[stdin]
        began = time.monotonic()
        client = program("main_client.py", "--port", str(port), "--user", "bot", redirect=redirect)
        assert (client.wait_exit(), client.errors()) == (0, "")
        assert time.monotonic() - began < 2
        if stdin == "file":
            assert watcher.line() == "bot: MIT License"

    def test_client_ends_within_half_a_second_of_its_server_whatever_stdin_is(
        self, program: StartProgram
    ) -> None:
        server = program("main_server.py", "--port", "0", "--no-notices")
        to = ["--port", str(server.port)]
        clients = [
            program("main_client.py", *to, "--user", "pipe"),
            program("main_client.py", *to, "--user", "listener", "--listen"),
        ]
        for _ in clients:
            assert " in from " in server.error_line()
        server.process.kill()
        for client in clients:
            status, seconds = client.time_exit()
            assert (status, seconds < HALF_A_SECOND) == (1, True), seconds
            assert re.fullmatch(r"broadcast: [^\n]+\n", client.errors())

    def test_listen_option_does_not_read_stdin(
        self, program: StartProgram, port: int, watcher: RawClient
    ) -> None:
        client = program(
            "main_client.py",
            "--port",
            str(port),
            "--user",
            "bot",
            "--listen",
            stdin=subprocess.DEVNULL,
        )
        watcher.wait_joined("bot")
        watcher.send("hello")
        assert client.output_line() == "watcher: hello"
        assert client.process.poll() is None

    @pytest.mark.parametrize("arguments", [[], ["--listen"]])
    def test_client_ends_quietly_when_the_reader_of_its_output_is_gone(
        self, program: StartProgram, port: int, watcher: RawClient, arguments: list[str]
    ) -> None:
        client = program("main_client.py", "--port", str(port), "--user", "bot", *arguments)
        watcher.wait_joined("bot")
        watcher.send("hello")
        assert client.output_line() == "watcher: hello"
        assert client.process.stdout
        client.process.stdout.close()
        status, seconds = client.time_exit()
        assert (status, seconds < HALF_A_SECOND, client.errors()) == (0, True, "")

    @pytest.mark.parametrize("arguments", [[], ["--listen"]])
    def test_reader_of_the_output_may_be_gone_while_the_client_leaves(
        self, program: StartProgram, fake_server: FakeServer, arguments: list[str]
    ) -> None:
        """This happens on Ctrl-C, which interrupts all programs of a pipeline."""
        client = program("main_client.py", "--port", fake_server.port, *arguments)
        fake_server.admit()
        fake_server.send("eve: hello")
        assert client.output_line() == "eve: hello"
        client.process.send_signal(signal.SIGINT)
        assert fake_server.line() == "\\exit"
        assert client.process.stdout
        client.process.stdout.close()
        assert (client.wait_exit(), client.errors()) == (130, "")

    def test_answers_go_to_stdout_and_what_nobody_asked_for_to_stderr(
        self, program: StartProgram
    ) -> None:
        port = program("main_server.py", "--port", "0").port
        watcher = RawClient(port, "watcher")
        client = program("main_client.py", "--port", str(port), "--user", "bot")
        assert watcher.line() == "* bot joined"
        late = RawClient(port, "late")
        assert client.error_line() == "broadcast: * late joined"
        output, errors = client.process.communicate(b"\\foo\n\\clients\n\\help\n", timeout=PATIENCE)
        assert re.fullmatch(r"broadcast: ERROR unknown command \\foo: .*\n", errors.decode())
        lines = output.decode().splitlines()
        assert lines[:4] == ["* 3 clients", "* bot (you)", "* late", "* watcher"]
        assert lines[4].startswith("* \\exit: ") and lines[-1].startswith("* \\help: ")
        for raw in (watcher, late):
            raw.close()

    def test_answered_ping_goes_to_stdout_and_history_to_stderr(
        self, program: StartProgram, fake_server: FakeServer
    ) -> None:
        client = program("main_client.py", "--port", fake_server.port, stdin=subprocess.DEVNULL)
        fake_server.admit()
        fake_server.send("* [13:05] bob: hello", "PONG word")
        assert fake_server.line() == "\\exit"
        fake_server.disconnect()
        output, errors = client.process.communicate(timeout=PATIENCE)
        assert (output, errors) == (b"PONG word\n", b"broadcast: * [13:05] bob: hello\n")

    def test_json_option_prints_an_object_for_everything_received(
        self, program: StartProgram, port: int, watcher: RawClient
    ) -> None:
        client = program("main_client.py", "--port", str(port), "--user", "bot", "--json")
        watcher.wait_joined("bot")
        watcher.send('héllo "x"')
        objects = [json.loads(client.output_line())]
        client.type("\\foo\n\\clients\n")
        objects += [json.loads(client.output_line()) for _ in range(2)]
        assert [(item["type"], item["sender"]) for item in objects] == [
            ("message", "watcher"),
            ("error", None),
            ("notice", None),
        ]
        assert objects[0]["text"] == 'héllo "x"'
        assert all(datetime.datetime.fromisoformat(item["time"]).tzinfo for item in objects)

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("bob: a: b", ("message", "bob", "message", "bob", "a: b", None)),
            ("* bob joined", ("notice", None, "joined", "bob", "bob joined", None)),
            ("* bob left", ("notice", None, "left", "bob", "bob left", None)),
            (
                "* bob left (too slow)",
                ("notice", None, "left", "bob", "bob left (too slow)", "too slow"),
            ),
            (
                "* bob is taken: you are bob-2",
                ("notice", None, "renamed", "bob-2", "bob is taken: you are bob-2", None),
            ),
            ("* 2 clients", ("notice", None, "clients", None, "2 clients", None)),
            ("* bob (you)", ("notice", None, "clients", "bob", "bob (you)", None)),
            ("* \\ping: word", ("notice", None, "help", None, "\\ping: word", None)),
            ("PONG word", ("notice", None, "pong", None, "word", None)),
            ("* two words", ("notice", None, "notice", None, "two words", None)),
            ("ERROR no", ("error", None, "error", None, "no", None)),
            (
                "* server is shutting down",
                ("notice", None, "shutdown", None, "server is shutting down", None),
            ),
            ("* [13:05] bob: a: b", ("notice", None, "history", "bob", "a: b", None)),
        ],
    )
    def test_json_option_says_what_happened_without_english(
        self,
        program: StartProgram,
        fake_server: FakeServer,
        line: str,
        expected: tuple[str | None, ...],
    ) -> None:
        client = program("main_client.py", "--port", fake_server.port, "--json")
        fake_server.admit()
        fake_server.send(line)
        item = json.loads(client.output_line())
        fields = ("type", "sender", "event", "name", "text", "reason")
        assert tuple(item.get(field) for field in fields) == expected
        assert ("reason" in item) == (item["event"] == "left")

    def test_json_option_dates_history_by_when_it_was_said(
        self, program: StartProgram, fake_server: FakeServer
    ) -> None:
        client = program("main_client.py", "--port", fake_server.port, "--json")
        fake_server.admit()
        days = {datetime.date.today()}
        fake_server.send("* [13:05] bob: hi", "* [2026-11-22 23:59] bob: hi", "bob: hi")
        items = [json.loads(client.output_line()) for _ in range(3)]
        days.add(datetime.date.today())  # midnight may pass meanwhile
        assert items[0]["time"] in {f"{day}T13:05" for day in days}
        assert items[1]["time"] == "2026-11-22T23:59"
        assert datetime.datetime.fromisoformat(items[2]["time"]).tzinfo

    @pytest.mark.parametrize("arguments", [[], ["--json"]])
    def test_no_notices_option_hides_joins_and_leaves_alone(
        self, program: StartProgram, fake_server: FakeServer, arguments: list[str]
    ) -> None:
        client = program("main_client.py", "--port", fake_server.port, "--no-notices", *arguments)
        fake_server.admit()
        fake_server.send("* bob joined", "* bob left (too slow)", "* two words", "bob: hi")
        if arguments:
            assert json.loads(client.output_line())["text"] == "two words"
            assert json.loads(client.output_line())["text"] == "hi"
        else:
            assert client.output_line() == "bob: hi"
            assert client.error_line() == "broadcast: * two words"

    def test_timestamps_option_puts_the_local_time_before_each_line(
        self, program: StartProgram, fake_server: FakeServer
    ) -> None:
        client = program("main_client.py", "--port", fake_server.port, "--timestamps")
        fake_server.admit()
        fake_server.send("bob: one two", "* 1 client")
        for expected in ("bob: one two", "* 1 client"):
            stamp, _, line = client.output_line().partition(" ")
            assert line == expected
            said_at = datetime.datetime.fromisoformat(stamp)
            assert said_at.utcoffset() == said_at.astimezone().utcoffset()
            assert abs(said_at - datetime.datetime.now().astimezone()).total_seconds() < PATIENCE

    def test_text_option_sends_commands_as_text(
        self, program: StartProgram, port: int, watcher: RawClient
    ) -> None:
        client = program("main_client.py", "--port", str(port), "--user", "bot", "--text")
        client.process.communicate(b"one\n\\exit\n\\\\ping\nC:\\x\nlast", timeout=PATIENCE)
        assert client.process.returncode == 0
        assert [watcher.line() for _ in range(5)] == [
            "bot: one",
            "bot:  \\exit",
            "bot:  \\\\ping",
            "bot: C:\\x",
            "bot: last",
        ]

    def test_client_reconnects_and_sends_each_line_once(self, program: StartProgram) -> None:
        server = program("main_server.py", "--port", "0", "--no-notices")
        port = server.port
        client = program(
            FAST_RECONNECT, "--port", str(port), "--user", "bot", "--reconnect", cwd=TOP
        )
        watcher = RawClient(port, "watcher")
        client.type("before\n")
        assert watcher.line() == "bot: before"
        server.process.kill()
        server.wait_exit()
        assert re.fullmatch(
            r"broadcast: .*127\.0\.0\.1:\d+.*; trying until it is there again", client.error_line()
        )
        client.type("meanwhile\n")
        again = program("main_server.py", "--port", str(port), "--no-notices")
        assert again.port == port
        late = RawClient(port, "late")
        assert client.error_line() == "broadcast: connected again"
        client.type("after\n")
        lines = [late.line()]
        while lines[-1] != "bot: after":
            lines.append(late.line())
        assert lines in (["bot: meanwhile", "bot: after"], ["bot: after"]), (
            "a line may be early, but is never sent twice"
        )
        client.process.stdin.close() if client.process.stdin else None
        assert client.wait_exit() == 0
        for raw in (watcher, late):
            raw.close()

    def test_listener_prints_after_every_reconnection(self, program: StartProgram) -> None:
        server = program("main_server.py", "--port", "0", "--no-notices")
        port = server.port
        client = program(
            FAST_RECONNECT, "--port", str(port), "--user", "ear", "--listen", "--reconnect", cwd=TOP
        )
        for again in (True, True, False):
            mouth = RawClient(port, "mouth")
            mouth.wait_joined("ear")
            mouth.send("hello")
            assert client.output_line() == "mouth: hello"
            mouth.close()
            if again:
                server.process.kill()
                server.wait_exit()
                server = program("main_server.py", "--port", str(port), "--no-notices")
                assert server.port == port

    def test_listener_that_has_no_connection_ends_when_its_reader_has_gone(
        self, program: StartProgram
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        client = program("main_client.py", "--port", str(port), "--listen", "--reconnect")
        assert "trying until it is there again" in client.error_line()
        assert client.process.stdout
        client.process.stdout.close()
        assert client.wait_exit() == 0

    @pytest.mark.parametrize("last", [b"\n", b"\nafter\n", b"\nafter\n\\exit\n"])
    def test_oversized_line_is_reported_and_the_others_are_sent(
        self, program: StartProgram, port: int, watcher: RawClient, last: bytes
    ) -> None:
        client = program("main_client.py", "--port", str(port), "--user", "bot")
        _, errors = client.process.communicate(
            b"before\n" + b"x" * 100_000 + last, timeout=PATIENCE
        )
        assert errors == b"broadcast: a line of more than 65536 bytes was not sent\n"
        assert client.process.returncode == 1
        assert watcher.line() == "bot: before"
        if b"after" in last:
            assert watcher.line() == "bot: after"
