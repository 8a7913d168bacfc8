"""The client program at a pseudo-terminal."""

from __future__ import annotations

import fcntl
import re
import signal
import struct
import termios
import time
from collections.abc import Iterator

import pytest
from helpers import (
    FAST_RECONNECT,
    HALF_A_SECOND,
    FakeServer,
    PseudoTerminal,
    RawClient,
    StartProgram,
    client_with,
)


class TestClientAtTerminal:
    @pytest.fixture
    def terminal(
        self, program: StartProgram, port: int, watcher: RawClient
    ) -> Iterator[PseudoTerminal]:
        terminal = PseudoTerminal(program, "--port", str(port), "--user", "Attila")
        watcher.wait_joined("Attila")
        yield terminal
        terminal.close()

    def test_typed_lines_are_sent_and_messages_displayed(
        self, terminal: PseudoTerminal, watcher: RawClient
    ) -> None:
        terminal.type("hello\r")
        assert watcher.line() == "Attila: hello"
        watcher.send("hi")
        terminal.wait_output("watcher\x1b[0m: hi")
        assert "\u2026" not in terminal.output, "a line that was sent at once never waited"

    def test_signal_ends_client_whose_terminal_is_blocked(
        self, terminal: PseudoTerminal, watcher: RawClient
    ) -> None:
        for _ in range(400):
            watcher.send("x" * 1000)
        watcher.names()
        time.sleep(0.3)
        terminal.client.process.terminate()
        ended, seconds = terminal.client.time_exit()
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
        terminal = PseudoTerminal(program, "--port", str(server.port), "--user", "Attila")
        before = termios.tcgetattr(terminal.fd)
        terminal.wait_output("Attila> ")
        terminal.type("half")
        terminal.wait_output("half")
        assert not termios.tcgetattr(terminal.fd)[3] & termios.ECHO
        terminal.type("\x15")
        if end == "server gone":
            server.process.kill()
        elif end.startswith("SIG"):
            terminal.client.process.send_signal(getattr(signal, end))
        else:
            terminal.type(end)
        status, seconds = terminal.client.time_exit()
        assert (status, seconds < HALF_A_SECOND) == (expected, True)
        terminal.wait_output("\x1b[?2004l")
        assert termios.tcgetattr(terminal.fd) == before
        terminal.close()

    def test_twenty_pasted_lines_are_twenty_messages_in_order(
        self, terminal: PseudoTerminal, watcher: RawClient
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
        self, program: StartProgram, port: int, watcher: RawClient
    ) -> None:
        for arguments, bells in (([], 1), (["--quiet"], 0)):
            terminal = PseudoTerminal(program, "--port", str(port), "--user", "Eve", *arguments)
            watcher.wait_joined("Eve")
            watcher.send("hey EVE, eve")
            terminal.wait_output("hey EVE")
            watcher.send("done")
            terminal.wait_output("done")
            assert terminal.output.count("\a") == bells
            terminal.type("\x03")
            assert terminal.client.wait_exit() == 130
            terminal.close()

    def test_unwanted_colours_are_not_used(
        self, program: StartProgram, port: int, watcher: RawClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for variable, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
            with monkeypatch.context() as environment:
                environment.setenv(variable, value)
                terminal = PseudoTerminal(program, "--port", str(port), "--user", "Eve")
            watcher.wait_joined("Eve")
            watcher.send("hello")
            terminal.wait_output("watcher: hello")
            assert "m" not in re.findall(r"\x1b\[[0-9;]*(\w)", terminal.output)
            watcher.send("hello Eve")
            terminal.wait_output("hello Eve")
            assert ("\x1b[1;7mhello Eve" in terminal.output) == (variable == "NO_COLOR")
            assert (variable == "TERM") == ("\x1b" not in terminal.output)
            terminal.client.process.terminate()
            terminal.client.wait_exit()
            terminal.close()

    def test_tab_completes_names_and_commands_and_help_lists_the_keys(
        self, terminal: PseudoTerminal, watcher: RawClient
    ) -> None:
        watcher.send("hello")
        terminal.wait_output("hello")
        terminal.type("hi wat\t!\r")
        assert watcher.line() == "Attila: hi watcher!"
        terminal.type("\\he\t\r")
        terminal.wait_output("Ctrl-Z suspends")
        terminal.wait_output("\\clients: who is here")

    def test_no_notices_option_hides_joins_but_completes_the_names(
        self, program: StartProgram, fake_server: FakeServer
    ) -> None:
        terminal = PseudoTerminal(program, "--port", fake_server.port, "--no-notices")
        fake_server.admit()
        fake_server.send("* Barbara joined", "* Barbara left", "eve: hi")
        terminal.wait_output("hi")
        assert "Barbara" not in terminal.output
        terminal.type("Barb\t")
        terminal.wait_output("Barbara")
        terminal.close()

    def test_tab_knows_who_is_in_the_room_and_the_user_sees_no_answer(
        self, terminal: PseudoTerminal, watcher: RawClient
    ) -> None:
        watcher.send("welcome")
        terminal.wait_output("welcome")
        terminal.type("wat\thi\r\\clients\r")
        terminal.wait_output("2 clients")
        terminal.type("hi @wat\t\r@\t\r")
        assert [watcher.line() for _ in range(3)] == [
            "Attila: watcher: hi",
            "Attila: hi @watcher",
            "Attila: @watcher:",
        ]
        terminal.wait_output("@watcher:")
        assert terminal.output.count("* 2 clients") == 1, "only the user's own question is answered"

    def test_names_are_asked_once_and_a_large_room_is_only_counted(
        self, program: StartProgram, fake_server: FakeServer
    ) -> None:
        terminal = PseudoTerminal(program, "--port", fake_server.port)
        fake_server.admit()
        assert fake_server.line() == "\\clients 200"
        fake_server.send(
            "* 201 clients", "* [13:05] Historian: old", "* Joiner joined", "Speaker: x"
        )
        terminal.wait_output("Speaker")
        for prefix in ("hi", "jo", "sp"):
            terminal.type(f"- {prefix}\t\r")
        assert [fake_server.line() for _ in range(3)] == ["- Historian", "- Joiner", "- Speaker"]
        terminal.type("\\clients\r")
        assert fake_server.line() == "\\clients"
        fake_server.send("* 2 clients", "* anonymous (you)", "* Quiet")
        terminal.wait_output("* anonymous (you), Quiet")
        assert "201 clients" not in terminal.output
        assert "* 2 clients" in terminal.output
        terminal.type("- qu\t\r")
        assert fake_server.line() == "- Quiet"
        terminal.close()

    def test_names_are_asked_again_if_the_connection_is_lost_before_the_answer(
        self, program: StartProgram, fake_server: FakeServer
    ) -> None:
        terminal = PseudoTerminal(
            program, "--port", fake_server.port, "--reconnect", name=FAST_RECONNECT
        )
        for _ in range(2):
            fake_server.admit()
            assert fake_server.line() == "\\clients 200"
            fake_server.disconnect()
        fake_server.admit()
        assert fake_server.line() == "\\clients 200"
        fake_server.send("* 1 client", "* Quiet", "Speaker: x")
        terminal.wait_output("Speaker")
        assert "1 client" not in terminal.output
        terminal.close()

    def test_lines_pasted_together_and_all_lines_with_text_are_no_commands(
        self, program: StartProgram, port: int, watcher: RawClient
    ) -> None:
        terminal = PseudoTerminal(program, "--port", str(port), "--user", "Eve", "--text")
        watcher.wait_joined("Eve")
        terminal.type("\\exit\r\x1b[200~\\exit\n\\help\n\x1b[201~")
        assert [watcher.line() for _ in range(3)] == [
            "Eve:  \\exit",
            "Eve:  \\exit",
            "Eve:  \\help",
        ]
        terminal.type("\x04")
        assert terminal.client.wait_exit() == 0
        terminal.close()

    def test_line_that_is_too_long_rings_and_says_what_was_left_out(
        self, terminal: PseudoTerminal, watcher: RawClient
    ) -> None:
        for number in range(32):
            terminal.type(f"{'x' * 1998}{number:02}")
            terminal.wait_output(f"x{number:02}")
        terminal.type("x" * 2000)
        terminal.wait_output("\a")
        terminal.type("\r")
        terminal.wait_output("* 464 characters were left out: a line has at most 65,536 bytes")
        assert len(watcher.line()) == len("Attila: ") + 65_536

    def test_terminal_is_asked_after_a_resize_how_much_it_has_pushed_out(
        self, terminal: PseudoTerminal, watcher: RawClient
    ) -> None:
        terminal.type("x" * 200)
        terminal.wait_output("x" * 200)
        fcntl.ioctl(terminal.fd, termios.TIOCSWINSZ, struct.pack("4H", 3, 20, 0, 0))
        terminal.wait_output("\x1b[6n")
        terminal.type("\x1b[3;2R")
        terminal.output = ""
        fcntl.ioctl(terminal.fd, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
        terminal.wait_output("\x1b[6n\x1b[")
        terminal.type("y\r")
        assert watcher.line() == f"Attila: {'x' * 200}y"

    def test_bell_rings_once_for_a_burst(
        self, program: StartProgram, port: int, watcher: RawClient
    ) -> None:
        for interval, expected in (("60", 1), ("0", 5)):
            setting = f"import broadcast.terminal.interactive as t; t.BELL_INTERVAL = {interval}"
            terminal = PseudoTerminal(
                program, "--port", str(port), "--user", "Eve", name=client_with(setting)
            )
            watcher.wait_joined("Eve")
            for number in range(5):
                watcher.send(f"Eve, {number}")
                terminal.wait_output(f"Eve, {number}")
            terminal.type("done\r")
            assert watcher.line() == "Eve: done"
            terminal.wait_output(": done")
            assert terminal.output.count("\a") == expected
            terminal.type("\x03")
            assert terminal.client.wait_exit() == 130
            terminal.close()

    @pytest.mark.parametrize("line", ["{}: hello", "* {} joined"])
    def test_tab_completes_no_name_that_is_too_long(
        self, program: StartProgram, fake_server: FakeServer, line: str
    ) -> None:
        terminal = PseudoTerminal(program, "--port", fake_server.port)
        fake_server.admit()
        names = ["a" * 43, "b" * 44, "c" * 100_000, "d" + "\ufdfa" * 42]
        fake_server.send(*map(line.format, names), "eve: done")
        terminal.wait_output("eve\x1b[0m: done")
        terminal.type("aaa\t\rbbb\t\rccc\t\rd\t\r")
        assert fake_server.line() == "\\clients 200"
        assert [fake_server.line() for _ in names] == [f"{names[0]}:", "bbb", "ccc", "d"]
        terminal.close()

    def test_long_text_of_combining_marks_delays_no_key(
        self, program: StartProgram, fake_server: FakeServer
    ) -> None:
        marks = "\u0315\u0301\u0323" * 10_000
        terminal = PseudoTerminal(program, "--port", fake_server.port)
        fake_server.admit()
        terminal.wait_output("anonymous> ")
        fake_server.send(*[f"eve: {marks}"] * 5)
        began = time.monotonic()
        terminal.type("\x03")
        assert terminal.client.wait_exit() == 130
        assert time.monotonic() - began < 2 * HALF_A_SECOND
        terminal.close()

    def test_lines_entered_while_disconnected_are_sent_after_reconnecting(
        self, program: StartProgram
    ) -> None:
        server = program("main_server.py", "--port", "0", "--no-notices")
        port = server.port
        terminal = PseudoTerminal(
            program, "--port", str(port), "--user", "Attila", "--reconnect", name=FAST_RECONNECT
        )
        terminal.wait_output("as Attila; ")
        server.process.kill()
        server.wait_exit()
        terminal.wait_output("no connection, ")
        assert re.search(
            rf"\* \d\d:\d\d connection lost: 127.0.0.1:{port}.*"
            r"\(no connection, (trying|next try in 1 s)\) Attila> ",
            terminal.output,
            re.DOTALL,
        )
        terminal.type("kept\r")
        terminal.wait_output("\x1b[2m    \u2026 Attila: kept\x1b[0m")
        assert ": kept" not in terminal.output.replace("\u2026 Attila: kept", "")
        again = program(
            "main_server.py", "--port", str(port), "--no-notices", "--log-level", "DEBUG"
        )
        assert again.port == port
        watcher = RawClient(port, "watcher")
        terminal.type("next\r")
        seen = [watcher.line()]
        while seen[-1] != "Attila: next":
            seen.append(watcher.line())
        assert seen in (["Attila: kept", "Attila: next"], ["Attila: next"])
        terminal.wait_output("Attila\x1b[0m: next")
        assert re.search(
            r"\* \d\d:\d\d connected again.*Attila\x1b\[0m: kept.*Attila\x1b\[0m: next",
            terminal.output,
            re.DOTALL,
        )
        terminal.type("\x04")
        assert terminal.client.wait_exit() == 0
        terminal.close()
        watcher.close()

    def test_connection_is_announced_with_the_name_that_was_given(
        self, program: StartProgram, fake_server: FakeServer
    ) -> None:
        terminal = PseudoTerminal(program, "--port", fake_server.port, "--user", "Attila")
        fake_server.accept()
        fake_server.send("SUCCESS", "* Attila is taken: you are Attila-2")
        address = f"127.0.0.1:{fake_server.port}"
        terminal.wait_output(
            f"* connected to {address} as Attila-2; \\help lists commands and keys"
        )
        terminal.wait_output("Attila-2> ")
        terminal.close()

    @pytest.mark.parametrize("ping", ["\\ping", "\\\\PING me"])
    def test_ping_shows_the_round_trip(
        self, program: StartProgram, fake_server: FakeServer, ping: str
    ) -> None:
        terminal = PseudoTerminal(program, "--port", fake_server.port, "--heartbeat", "0.01")
        fake_server.admit()
        assert fake_server.line() == "\\clients 200"
        terminal.type(f"{ping}\r")
        terminal.wait_output(ping)
        word = "-"
        while "-" in word:  # a heartbeat
            word = fake_server.line().removeprefix("\\ping ")
            fake_server.send(f"PONG {word}")
        terminal.wait_output(" ms\x1b[0m")
        assert re.search(r"\x1b\[2m\* \d+\.\d ms", terminal.output)
        assert "PONG" not in terminal.output
        terminal.close()

    def test_clients_are_one_paragraph(
        self, program: StartProgram, fake_server: FakeServer
    ) -> None:
        terminal = PseudoTerminal(program, "--port", fake_server.port, "--user", "Attila")
        fake_server.admit()
        assert fake_server.line() == "\\clients 200"
        fake_server.send("* 3 clients", "* Attila (you)", "* bob", "* zoe", "eve: hello")
        terminal.wait_output("hello")
        assert "3 clients" not in terminal.output, "only the user's own question is answered"
        fake_server.send("* 3 clients", "* Attila (you)", "* bob")
        terminal.wait_output("3 clients")
        fake_server.send("* zoe", "eve: hi")
        terminal.wait_output("* Attila (you), bob, zoe")
        terminal.close()

    def test_line_entered_after_exit_is_not_shown_as_said(
        self, program: StartProgram, fake_server: FakeServer
    ) -> None:
        terminal = PseudoTerminal(program, "--port", fake_server.port, "--user", "Attila")
        fake_server.admit()
        terminal.type("one\r\\exit\rtwo\r")
        assert [fake_server.line() for _ in range(3)] == ["\\clients 200", "one", "\\exit"]
        terminal.wait_output("\u2026 Attila: two")
        fake_server.disconnect()
        assert terminal.client.wait_exit() == 0
        terminal.wait_output("* not sent: \x1b[0mtwo\r")
        assert "Attila\x1b[0m: \\exit" in terminal.output
        assert "Attila\x1b[0m: two" not in terminal.output
        terminal.close()

    @pytest.mark.parametrize("end", ["SIGTERM", "server gone"])
    def test_line_being_typed_is_kept_when_the_program_ends(
        self, program: StartProgram, fake_server: FakeServer, end: str
    ) -> None:
        terminal = PseudoTerminal(program, "--port", fake_server.port, "--user", "Attila")
        fake_server.admit()
        line = "half-typed " * 20
        terminal.type(line)
        terminal.wait_output("half-typed  \r")  # its last word, and the cell for the cursor
        terminal.output = ""
        if end == "SIGTERM":
            terminal.client.process.terminate()
        else:
            fake_server.disconnect()
        terminal.wait_output(f"* not sent: \x1b[0m{line}\r")
        terminal.close()

    def test_reconnects_to_a_server_that_stops_answering(
        self, program: StartProgram, fake_server: FakeServer
    ) -> None:
        terminal = PseudoTerminal(
            program,
            *("--port", fake_server.port, "--heartbeat", "0.1", "--reconnect"),
            name=FAST_RECONNECT,
        )
        fake_server.admit()
        assert fake_server.line() == "\\clients 200"
        fake_server.send(f"PONG {fake_server.line().split()[1]}")
        terminal.wait_output(
            f"connection lost: 127.0.0.1:{fake_server.port} (nothing received for 0.2 s)"
        )
        fake_server.disconnect()
        fake_server.admit()
        terminal.wait_output("connected again")
        terminal.close()
