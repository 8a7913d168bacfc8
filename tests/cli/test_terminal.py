"""The client program at a pseudo-terminal."""

from __future__ import annotations

import re
import signal
import termios
import time
from collections.abc import Iterator

import pytest
from helpers import HALF_A_SECOND, IMPATIENT, Impostor, Raw, StartProgram, Terminal, timed


class TestClientAtTerminal:
    @pytest.fixture
    def terminal(self, program: StartProgram, port: int, watcher: Raw) -> Iterator[Terminal]:
        terminal = Terminal(program, "--port", str(port), "--user", "Attila")
        watcher.wait_for("Attila")
        yield terminal
        terminal.close()

    def test_typed_lines_are_sent_and_messages_displayed(
        self, terminal: Terminal, watcher: Raw
    ) -> None:
        terminal.type("hello\r")
        assert watcher.line() == "Attila: hello"
        watcher.send("hi")
        terminal.see("watcher\x1b[0m: hi")

    def test_signal_ends_client_whose_terminal_is_blocked(
        self, terminal: Terminal, watcher: Raw
    ) -> None:
        for _ in range(400):
            watcher.send("x" * 1000)
        watcher.names()
        time.sleep(0.3)
        terminal.client.process.terminate()
        ended, seconds = timed(terminal.client)
        assert (ended, seconds < HALF_A_SECOND) == (143, True)

    @pytest.mark.parametrize(
        ("end", "expected"),
        [
            ("\x03", 130),
            ("\x04", 0),
            ("\\exit\r", 0),
            ("SIGTERM", 143),
            ("SIGINT", 130),
            ("server gone", 1),
        ],
    )
    def test_every_way_to_end_is_immediate_and_restores_the_terminal(
        self, program: StartProgram, end: str, expected: int
    ) -> None:
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

    def test_twenty_pasted_lines_are_twenty_messages_in_order(
        self, terminal: Terminal, watcher: Raw
    ) -> None:
        terminal.type("".join(f"line {number}\r" for number in range(20)))
        assert [watcher.line() for _ in range(20)] == [
            f"Attila: line {number}" for number in range(20)
        ]
        terminal.type(
            "\x1b[200~" + "".join(f"marked {number}\n" for number in range(20)) + "\x1b[201~"
        )
        assert [watcher.line() for _ in range(20)] == [
            f"Attila: marked {number}" for number in range(20)
        ]

    def test_mention_rings_the_bell_once_unless_quiet(
        self, program: StartProgram, port: int, watcher: Raw
    ) -> None:
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

    def test_unwanted_colours_are_not_used(
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

    def test_tab_completes_names_and_commands_and_help_lists_the_keys(
        self, terminal: Terminal, watcher: Raw
    ) -> None:
        watcher.send("hello")
        terminal.see("hello")
        terminal.type("hi wat\t!\r")
        assert watcher.line() == "Attila: hi watcher!"
        terminal.type("\\he\t\r")
        terminal.see("Ctrl-Z suspends")
        terminal.see("\\clients: who is here")

    @pytest.mark.parametrize("line", ["{}: hello", "* {} joined"])
    def test_tab_completes_no_name_that_is_too_long(
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

    def test_long_text_of_combining_marks_delays_no_key(
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

    def test_lines_entered_while_disconnected_are_sent_after_reconnecting(
        self, program: StartProgram
    ) -> None:
        server = program("main_server.py", "--port", "0", "--no-notices")
        port = server.port
        terminal = Terminal(
            program, "--port", str(port), "--user", "Attila", "--reconnect", name=IMPATIENT
        )
        terminal.see("Attila> ")
        server.process.kill()
        server.end()
        terminal.see(f"127.0.0.1:{port}")
        terminal.type("kept\r")
        again = program(
            "main_server.py", "--port", str(port), "--no-notices", "--log-level", "DEBUG"
        )
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
